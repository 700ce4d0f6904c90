"""How long a reply should be, asked of the model before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .. import ops
from . import _arguments as arguments
from ._arguments import require

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


@dataclass(frozen=True)
class Growth:
    """Adds masks until the model sees the reply's end among them (DAEDAL, arXiv 2508.00819, its first stage).

    A model that finds a canvas too short predicts no end-of-text at its end. A reply starts with ``initial`` masks and
    gets ``stride`` more as long as its confidence in an end is below ``threshold``: the sum of the probabilities of
    end-of-text at the last ``window`` masks where it is the likeliest token, divided by ``window``. Each addition costs
    a forward pass of the rows that still grow. As published, but for the 16 end-of-text tokens that its code then puts
    behind the reply.

    While the reply is written (its second stage), with ``widen`` above 1, a step turns the least sure mask of the block
    into ``widen`` masks if its likeliest token has a probability < ``unsure`` and the confidence in an end is <
    ``sure_end``. Steps with such a mask make another pass of those rows; the rule must keep no state and decide the
    count itself, and nothing is kept between steps.

    Attributes:
        initial: masks at the start, at least 1.
        most: masks at the end; a reply never goes beyond the model's positions either.
        stride: masks added at once.
        threshold: from 0 to 1.
        window: the masks whose end-of-text makes full confidence, at least 1.
        widen: at least 1; published as 8.
        unsure, sure_end: from 0 to 1.
    """

    initial: int = 64
    most: int = 2048
    stride: int = 8
    threshold: float = 0.5
    window: int = 32
    widen: int = 1
    unsure: float = 0.1
    sure_end: float = 0.9

    def __post_init__(self) -> None:
        for name in ("initial", "stride", "window", "widen"):
            arguments.integer(name, getattr(self, name), 1)
        arguments.integer("most", self.most, 1)
        require(self.most >= self.initial, "most", f"at least initial {self.initial}", self.most)
        for name in ("threshold", "unsure", "sure_end"):
            arguments.fraction(name, getattr(self, name))

    def bound(self, model: LLaDAMoEModel, prompt_length: int) -> int:
        """The most masks that a reply may have.

        Raises:
            ValueError: the prompt alone is longer than the model's positions.
        """
        limit = model.config.max_position_embeddings
        require(prompt_length <= limit, "prompt_ids", f"at most max_position_embeddings {limit} tokens", prompt_length)
        return min(self.most, limit - prompt_length)

    @torch.no_grad()
    def lengths(
        self,
        model: LLaDAMoEModel,
        prompts: Sequence[Tensor],
        mask_token: int,
        end_token: int,
        block_size: int | None = None,
    ) -> tuple[list[int], int]:
        """How many masks each prompt int64 [P] should have behind it, and how many forward passes it took to know.

        A prompt's number depends on that prompt alone. ``block_size`` is that of :meth:`LLaDAMoEModel.hidden`.
        """
        most = [self.bound(model, len(prompt)) for prompt in prompts]
        lengths = [min(self.initial, bound) for bound in most]
        growing = [row for row, length in enumerate(lengths) if length < most[row]]
        passes = 0
        while growing:
            passes += 1
            rows, masks = [prompts[row] for row in growing], [lengths[row] for row in growing]
            confidence = self._confidence(model, rows, masks, mask_token, end_token, block_size)
            growing = [row for row, found in zip(growing, confidence, strict=True) if found < self.threshold]
            for row in growing:
                lengths[row] = min(lengths[row] + self.stride, most[row])
            growing = [row for row in growing if lengths[row] < most[row]]
        return lengths, passes

    def _confidence(
        self,
        model: LLaDAMoEModel,
        prompts: Sequence[Tensor],
        lengths: Sequence[int],
        mask_token: int,
        end_token: int,
        block_size: int | None = None,
    ) -> list[float]:
        """Of each canvas in an end-of-text."""
        tokens, masked, real = with_masks(prompts, lengths, mask_token)
        return self.confidence(model, tokens, masked, real, mask_token, end_token, block_size).tolist()

    def confidence(
        self,
        model: LLaDAMoEModel,
        tokens: Tensor,
        reply: Tensor,
        real: Tensor,
        mask_token: int,
        end_token: int,
        block_size: int | None = None,
    ) -> Tensor:
        """In an end of each canvas int64 [B, L], float64 [B]; ``reply`` and what is no padding are bool [B, L]."""
        mask, wanted = None if bool(real.all()) else real, reply.flatten().nonzero().squeeze(1)
        hidden = model.hidden(tokens, mask, block_size=block_size, wanted=wanted)
        best = ops.token_confidence(hidden, model.lm_head, mask_token_id=mask_token)
        # In double, where such a sum does not depend on its order.
        ends = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
        ends[reply] = best.logprob.exp().double().masked_fill(best.token != end_token, 0)
        counted = (ends > 0).flip(1).cumsum(1).flip(1) <= self.window
        return (ends * counted).sum(1) / self.window


def with_masks(
    prompts: Sequence[Tensor], lengths: Sequence[int], mask_token: int, most: Sequence[int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts int64 [P] with masks behind them, padded on the right with more masks.

    ``most`` are the masks that there is room for; None: as many as there are.

    Returns:
        tokens int64 [B, L]; what is to be filled, and what is no padding, bool [B, L].
    """
    pairs = zip(prompts, lengths if most is None else most, strict=True)
    rows = [torch.nn.functional.pad(row, (0, more), value=mask_token) for row, more in pairs]
    tokens = pad_sequence(rows, batch_first=True, padding_value=mask_token)
    index = torch.arange(tokens.shape[1], device=tokens.device)
    starts = torch.tensor([len(row) for row in prompts], device=tokens.device)[:, None]
    ends = starts + torch.tensor(lengths, device=tokens.device)[:, None]
    return tokens, (index >= starts) & (index < ends), index < ends
