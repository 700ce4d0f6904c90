"""One forward pass and the head on a block's masked rows: a token and its confidence at each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from ..ops import TokenConfidence
from .cache import CachePolicy
from .canvas import Canvas
from .forward import Forward
from .noise import Draw, NoiseSource

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


@dataclass(frozen=True)
class Statistics:
    """What a commit rule sees of a block, each [B, W]; zero where nothing is masked.

    Attributes:
        token: int64, the prediction.
        confidence: float32, by which the published rule orders: the token's probability, or a uniform number under
            random remasking.
        logprob, runner_up_logprob: float32, of the prediction and of the second-best token, before any noise.
        runner_up: int64, the second-best token.
        entropy: float32, of the distribution, in nats.
        uniform: gives uniform numbers in [0, 1), float32, of this step: drawn from each row's own stream.
    """

    token: Tensor
    confidence: Tensor
    logprob: Tensor
    runner_up: Tensor
    runner_up_logprob: Tensor
    entropy: Tensor
    uniform: Callable[[], Tensor]


@dataclass(frozen=True)
class PredictorOptions:
    """How tokens are chosen; see :func:`generate` for the meaning of each."""

    temperature: float
    cfg_scale: float
    remasking: str
    mask_token_id: int
    forbidden: Sequence[int]
    unconfident: Sequence[int]


class Predictor:
    """Statistics of masked positions.

    ``forward_passes`` counts canvases, one a step, two with guidance; ``row_steps`` int64 [B] each row's own steps.
    """

    def __init__(
        self,
        model: LLaDAMoEModel,
        canvas: Canvas,
        cache: CachePolicy | None,
        noise: NoiseSource,
        options: PredictorOptions,
    ) -> None:
        self.model = model
        self.canvas = canvas
        self.forward = Forward(model, cache)
        self.noise = noise
        self.options = options
        self.forward_passes = 0
        self.row_steps = torch.zeros_like(canvas.lengths)

    def __call__(self, rows: Tensor, positions: Tensor, masked: Tensor, step: int, index: int) -> Statistics:
        """Statistics of the batch's ``rows`` [A] at their block's ``positions`` [A, W] where ``masked`` [A, W].

        ``step`` counts over the whole generation, ``index`` within the block.

        Raises:
            FloatingPointError: NaN or infinity in the hidden states or logits.
        """
        self.row_steps[rows] += 1
        row, slot = masked.nonzero(as_tuple=True)
        position = positions[row, slot]
        hidden = self._hidden(rows, positions, index, row, position)
        options, draw = self.options, Draw(step, rows[row], position)
        best = self.noise.choose(
            hidden,
            self.model.lm_head,
            draw,
            temperature=options.temperature,
            forbidden=options.forbidden,
            mask_token_id=options.mask_token_id,
        )
        if not bool(hidden.isfinite().all() & best.logprob.isfinite().all()):
            raise FloatingPointError("the model's logits are not finite")
        confidence = self.noise.uniform(draw) if options.remasking == "random" else self._probability(hidden, best)

        def dense(values: Tensor) -> Tensor:
            grid = torch.zeros(masked.shape, dtype=values.dtype, device=values.device)
            return grid.index_put((row, slot), values)

        return Statistics(
            token=dense(best.token.long()),
            confidence=dense(confidence),
            logprob=dense(best.logprob),
            runner_up=dense(best.runner_up.long()),
            runner_up_logprob=dense(best.runner_up_logprob),
            entropy=dense(best.entropy),
            uniform=lambda: dense(self.noise.uniform(draw)),
        )

    def _hidden(self, rows: Tensor, block: Tensor, index: int, row: Tensor, position: Tensor) -> Tensor:
        """Final hidden states [R, H] of position[r] in the canvas rows[row[r]].

        With guidance w they are u + (w + 1)(l − u), u being those of the canvas with its given tokens masked: the
        head is linear, so these give the combined logits. The canvases of u follow the others in the batch.
        """
        canvas, scale = self.canvas, self.options.cfg_scale
        tokens, mask, lengths = canvas.tokens[rows], canvas.attention_mask(rows), canvas.lengths[rows]
        self.forward_passes += 1
        if scale == 0:
            return self.forward(
                rows, tokens, mask, block=block, lengths=lengths, index=index, row=row, position=position
            )
        self.forward_passes += 1
        unconditional = tokens.masked_fill(~canvas.filled[rows], self.options.mask_token_id)
        both = self.forward(
            torch.cat([rows, rows + len(canvas.tokens)]),
            torch.cat([tokens, unconditional]),
            None if mask is None else torch.cat([mask, mask]),
            block=torch.cat([block, block]),
            lengths=torch.cat([lengths, lengths]),
            index=index,
            row=torch.cat([row, row + len(rows)]),
            position=torch.cat([position, position]),
        )
        return guide(both[: len(row)], both[len(row) :], scale)

    def _probability(self, hidden: Tensor, best: TokenConfidence) -> Tensor:
        """The chosen tokens' probabilities [R]; those of ``unconfident`` ids are 0 and the others renormalised."""
        unconfident = self.options.unconfident
        if not unconfident:
            return best.logprob.exp()
        rest = ops.token_confidence(hidden, self.model.lm_head, forbidden=[*self.options.forbidden, *unconfident])
        probability = (best.logprob + best.logsumexp - rest.logsumexp).exp()
        return probability.masked_fill(torch.isin(best.token, torch.tensor(unconfident, device=hidden.device)), 0.0)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance u + (w + 1)(l − u), in fp32, rounded to the inputs' dtype."""
    difference = conditional.float() - unconditional.float()
    return (unconditional.float() + (scale + 1) * difference).to(conditional.dtype)
