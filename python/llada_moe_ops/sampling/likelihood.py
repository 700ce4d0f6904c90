"""Monte-Carlo estimate of the log-likelihood of an answer under masked diffusion (arXiv 2502.09992, section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from .. import ops
from ..ops.guidance import guide
from . import _arguments as arguments
from ._arguments import require

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel

_HEAD_ROWS = 256


@dataclass(frozen=True)
class LikelihoodEstimate:
    """An estimate in nats.

    Attributes:
        log_likelihood: minus the mean of the batch losses; on average a lower bound of the log-likelihood.
        standard_error: of ``log_likelihood``, from the spread of the batch losses; NaN with a single batch, unless
            the answer is one token long, where every draw is the same.
        batch_losses: one per batch of draws.
    """

    log_likelihood: float
    standard_error: float
    batch_losses: list[float]

    @classmethod
    def from_losses(cls, losses: Sequence[float], *, exact: bool) -> LikelihoodEstimate:
        """From independent batch losses; ``exact`` when they cannot vary."""
        values = torch.tensor(list(losses), dtype=torch.float64)
        error = 0.0 if exact else math.nan
        if len(values) > 1 and not exact:
            error = float(values.std()) / math.sqrt(len(values))
        return cls(-float(values.mean()), error, values.tolist())


def score(
    model: LLaDAMoEModel,
    prompt_ids: Tensor | Sequence[int],
    answer_ids: Tensor | Sequence[int],
    *,
    mc_num: int = 128,
    batch_size: int | None = None,
    cfg_scale: float = 0.0,
    seed: int | None = None,
    mask_token_id: int | None = None,
) -> LikelihoodEstimate:
    """Estimate log p(answer | prompt).

    Each draw masks a number of answer positions and takes the cross-entropy there times answer length / number. The
    numbers of a batch of draws are spread evenly over 1 … answer length from a random start (stratified).

    Args:
        model: a loaded model.
        prompt_ids: the prompt's token ids, int32 or int64 [P] or a list; may be empty.
        answer_ids: the answer's, [A]; at least one.
        mc_num: draws, a multiple of ``batch_size``.
        batch_size: draws evaluated, and stratified, together; None takes 16, or ``mc_num`` when that is less.
        cfg_scale: guidance, as in :func:`generate`.
        seed: of the draws; None takes one from torch's global generator.
        mask_token_id: None takes the config's.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument outside its range, too many positions, or logits that are not finite.
    """
    mask_id = arguments.find_mask_token_id(mask_token_id, model.config)
    prompt, answer = _sequence("prompt_ids", prompt_ids, model), _sequence("answer_ids", answer_ids, model)
    require(len(answer) > 0, "answer_ids", "at least one token", "an empty answer")
    positions, limit = len(prompt) + len(answer), model.config.max_position_embeddings
    require(
        positions <= limit,
        "prompt_ids and answer_ids",
        f"at most max_position_embeddings {limit} positions together",
        positions,
    )
    arguments.integer("mc_num", mc_num, 1)
    size = min(16, mc_num) if batch_size is None else arguments.integer("batch_size", batch_size, 1)
    require(mc_num % size == 0, "mc_num", f"a multiple of batch_size {size}", mc_num)
    arguments.non_negative("cfg_scale", cfg_scale)
    generator = torch.Generator().manual_seed(arguments.seeds(seed, 1)[0])
    losses = []
    for _ in range(mc_num // size):
        masked = draw_masks(len(answer), size, generator).to(model.device)
        losses.append(masked_loss(model, prompt, answer, masked, mask_id, cfg_scale))
    return LikelihoodEstimate.from_losses(losses, exact=len(answer) == 1)


def draw_masks(length: int, batch: int, generator: torch.Generator) -> Tensor:
    """Random masks over an answer, bool [batch, length], their counts spread evenly over 1 … length."""
    first = int(torch.randint(1, length + 1, (), generator=generator))
    spread = torch.linspace(float(first), first + (batch - 1) * (length / batch), steps=batch)
    counts = (spread.round().long() - 1) % length + 1
    ranks = torch.stack([torch.randperm(length, generator=generator) for _ in range(batch)])
    return ranks < counts[:, None]


@torch.no_grad()
def masked_loss(
    model: LLaDAMoEModel, prompt: Tensor, answer: Tensor, masked: Tensor, mask_id: int, cfg_scale: float = 0.0
) -> float:
    """Mean over a batch of draws of Σ over masked of cross-entropy · answer length / number masked.

    Args:
        prompt: int64 [P]; answer: int64 [A]; masked: bool [draws, A], at least one in each row.

    Raises:
        ValueError: the logits are not finite.
    """
    draws = len(masked)
    targets = answer.expand(draws, -1)
    noisy = torch.where(masked, mask_id, targets)
    canvas = torch.cat([prompt.expand(draws, -1), noisy], dim=1)
    row, column = masked.nonzero(as_tuple=True)
    position = column + len(prompt)
    if cfg_scale == 0:
        hidden = model.hidden(canvas, wanted=row * canvas.shape[1] + position)
    else:
        unconditional = torch.cat([torch.full_like(canvas[:, : len(prompt)], mask_id), noisy], dim=1)
        both = model.hidden(torch.cat([canvas, unconditional]))
        hidden = guide(both[row, position], both[row + draws, position], cfg_scale)
    wanted = targets[row, column]
    losses = torch.cat(
        [
            functional.cross_entropy(ops.linear(rows, model.lm_head).double(), ids, reduction="none")
            for rows, ids in zip(torch.split(hidden, _HEAD_ROWS), torch.split(wanted, _HEAD_ROWS), strict=True)
        ]
    )
    loss = float((losses * len(answer) / masked.sum(1)[row]).sum() / draws)
    require(math.isfinite(loss), "the model's logits", "finite (are the weights damaged?)", loss)
    return loss


def _sequence(name: str, value: Tensor | Sequence[int], model: LLaDAMoEModel) -> Tensor:
    if isinstance(value, Tensor):
        require(value.dim() == 1, name, "of shape [N]", f"shape {list(value.shape)}")
        rows: Tensor | Sequence[Sequence[int]] = value[None]
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        rows = [value]
    else:
        raise TypeError(f"{name} must be a tensor or a list of token ids, got {type(value).__name__}")
    return arguments.token_ids(name, rows, model)[0][0]
