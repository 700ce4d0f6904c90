"""One forward pass and the head on a block's masked rows: a token and its confidence at each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from ..ops import TokenConfidence
from ..ops.guidance import guide
from .cache import Cache
from .canvas import Canvas
from .details import Details, Distributions
from .forward import Canvases
from .noise import Draw, NoiseSource
from .passes import build_forward
from .smoothing import IterationSmoothing, Smoother

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
        details: what else a rule can ask for.
    """

    token: Tensor
    confidence: Tensor
    logprob: Tensor
    runner_up: Tensor
    runner_up_logprob: Tensor
    entropy: Tensor
    details: Details


@dataclass(frozen=True)
class PredictorOptions:
    """How tokens are chosen; see :func:`generate` for the meaning of each. One temperature, or float64 [B]."""

    temperature: float | Tensor
    cfg_scale: float
    remasking: str
    mask_token_id: int
    forbidden: Sequence[int]
    unconfident: Sequence[int]
    top_k: int | None = None
    top_p: float | None = None


class Predictor:
    """Statistics of masked positions.

    ``forward_passes`` counts canvases, one a step, two with guidance; ``row_steps`` int64 [B] each row's own steps.
    """

    def __init__(
        self,
        model: LLaDAMoEModel,
        canvas: Canvas,
        cache: Cache | None,
        noise: NoiseSource,
        options: PredictorOptions,
        smoothing: IterationSmoothing | None = None,
    ) -> None:
        self.model = model
        self.canvas = canvas
        self.forward = build_forward(model, cache, canvas, 1 if options.cfg_scale == 0 else 2)
        self.smoother = None if smoothing is None else Smoother(model, smoothing)
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
        row, slot = masked.nonzero(as_tuple=True)
        position, steps = positions[row, slot], self.row_steps[rows]
        added = None if self.smoother is None else self.smoother.added(rows, self._open(rows, positions), index)
        hidden = self._hidden(rows, positions, index, added, row, position)
        draw = Draw(step, rows[row], position, steps[row])
        self.row_steps[rows] += 1
        best = self._choose(hidden, draw)
        if not bool(hidden.isfinite().all() & best.logprob.isfinite().all()):
            raise FloatingPointError("the model's logits are not finite")
        whole = self._whole(hidden, best, rows, row, slot, masked)
        if self.smoother is not None:
            self.smoother.keep(whole, steps)
        return self._statistics(best, draw, whole, positions, masked, index, steps)

    def in_fixed_sizes(
        self, rows: Tensor, positions: Tensor, masked: Tensor, run: Callable[[Tensor], Tensor]
    ) -> tuple[Statistics, Tensor]:
        """The same with the head on every position, and nothing read on the host: what a CUDA graph can hold.

        Args:
            rows, positions, masked: as above; rows without a masked position are allowed.
            run: gives the final hidden states [A', W, H] at the blocks of canvases [A', L]: those of ``rows`` and, with
                guidance, these again with their given tokens masked.

        Returns:
            The statistics, and whether all numbers of masked positions are finite, bool []; tokens are −1 where not.
        """
        tokens, scale = self.canvas.tokens[rows], self.options.cfg_scale
        if scale == 0:
            hidden = run(tokens)
        else:
            both = run(torch.cat([tokens, self.without_given(rows, tokens)]))
            hidden = guide(both[: len(rows)], both[len(rows) :], scale)
        hidden = hidden.flatten(0, 1)
        everywhere, steps = rows[:, None].expand_as(positions), self.row_steps[rows]
        draw = Draw(-1, everywhere.flatten(), positions.flatten(), steps[:, None].expand_as(positions).flatten())
        self.row_steps.index_copy_(0, rows, steps + masked.any(1))
        best = self._choose(hidden, draw)
        finite = (hidden.isfinite().all(-1) & best.logprob.isfinite()).view_as(masked)

        def dense(values: Tensor) -> Tensor:
            return values.view_as(masked).masked_fill(~masked, 0)

        row, slot = (
            torch.arange(size, device=rows.device).view(shape).expand_as(masked).flatten()
            for size, shape in zip(masked.shape, ((-1, 1), (1, -1)), strict=True)
        )
        whole = self._whole(hidden, best, rows, row, slot, masked)
        return self._statistics(best, draw, whole, positions, masked, -1, steps, dense), (finite | ~masked).all()

    @property
    def block_size(self) -> int | None:
        """Of the blocks in which the model attends, as for :meth:`LLaDAMoEModel.hidden`."""
        return self.canvas.block_length if getattr(self.forward.policy, "block_causal", False) else None

    @property
    def passes_per_step(self) -> int:
        """How many times a step runs each of its canvases: twice with guidance."""
        return 1 if self.options.cfg_scale == 0 else 2

    def _whole(
        self, hidden: Tensor, best: TokenConfidence, rows: Tensor, row: Tensor, slot: Tensor, masked: Tensor
    ) -> Distributions:
        head, forbidden = self.model.lm_head, self.options.forbidden
        return Distributions(hidden, best.logsumexp, head, forbidden, rows, row, slot, masked.shape[1])

    def _statistics(
        self,
        best: TokenConfidence,
        draw: Draw,
        whole: Distributions,
        positions: Tensor,
        masked: Tensor,
        index: int,
        steps: Tensor,
        dense: Callable[[Tensor], Tensor] | None = None,
    ) -> Statistics:
        """``dense`` lays values [R] out in [A, W]; None: where ``whole`` says."""
        hidden = whole.hidden
        dense = dense or partial(_laid_out, whole, masked)

        def statistics(best: TokenConfidence, bias: tuple[Tensor, Tensor] | None = None) -> Statistics:
            return Statistics(
                token=dense(best.token.long()),
                confidence=dense(self._confidence(hidden, best, draw, bias)),
                logprob=dense(best.logprob),
                runner_up=dense(best.runner_up.long()),
                runner_up_logprob=dense(best.runner_up_logprob),
                entropy=dense(best.entropy),
                details=details,
            )

        def biased(tokens: Tensor, values: Tensor) -> Statistics:
            bias = (tokens[whole.row, whole.slot], values[whole.row, whole.slot])
            return statistics(self._choose(hidden, draw, bias), bias)

        def only(rows: Tensor) -> Statistics:
            part, own = whole.only(rows)
            chosen = TokenConfidence(*(values[own] for values in best))
            return self._statistics(chosen, draw.only(own), part, positions[rows], masked[rows], index, steps[rows])

        tokens = self.canvas.tokens[whole.rows].gather(1, positions.clamp(max=self.canvas.tokens.shape[1] - 1))
        uniform = lambda: dense(self.noise.uniform(draw))  # noqa: E731
        details = Details(whole.rows, index, steps, tokens, masked, uniform, whole, biased, only)
        return statistics(best)

    def _open(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Which of the rows' positions [A, W] are masked; meaningless past a row's end."""
        return self.canvas.to_fill[rows].gather(1, positions.clamp(max=self.canvas.tokens.shape[1] - 1))

    def _hidden(
        self, rows: Tensor, block: Tensor, index: int, added: Tensor | None, row: Tensor, position: Tensor
    ) -> Tensor:
        """Final hidden states [R, H] of position[r] in the canvas rows[row[r]].

        With guidance w they are u + (w + 1)(l − u), u being those of the canvas with its given tokens masked: the
        head is linear, so these give the combined logits. The canvases of u follow the others in the batch.
        """
        canvas, scale = self.canvas, self.options.cfg_scale
        tokens, mask, lengths = canvas.tokens[rows], canvas.attention_mask(rows), canvas.lengths[rows]
        filled = canvas.filled[rows]
        self.forward_passes += self.passes_per_step
        if scale == 0:
            return self.forward(Canvases(rows, tokens, mask, filled, block, lengths, index, added), row, position)
        twice = Canvases(
            torch.cat([rows, rows + len(canvas.tokens)]),
            torch.cat([tokens, self.without_given(rows, tokens)]),
            None if mask is None else torch.cat([mask, mask]),
            torch.cat([filled, filled]),
            torch.cat([block, block]),
            torch.cat([lengths, lengths]),
            index,
            None if added is None else torch.cat([added, added]),
        )
        both = self.forward(twice, torch.cat([row, row + len(rows)]), torch.cat([position, position]))
        return guide(both[: len(row)], both[len(row) :], scale)

    def without_given(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """The canvases [A, L] of ``rows`` with their given tokens masked, for guidance."""
        return tokens.masked_fill(~self.canvas.filled[rows], self.options.mask_token_id)

    def _choose(self, hidden: Tensor, draw: Draw, bias: tuple[Tensor, Tensor] | None = None) -> TokenConfidence:
        options = self.options
        temperature = options.temperature
        return self.noise.choose(
            hidden,
            self.model.lm_head,
            draw,
            temperature=temperature[draw.rows] if isinstance(temperature, Tensor) else temperature,
            forbidden=options.forbidden,
            mask_token_id=options.mask_token_id,
            bias=bias,
            top_k=options.top_k,
            top_p=options.top_p,
        )

    def _confidence(
        self, hidden: Tensor, best: TokenConfidence, draw: Draw, bias: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        if self.options.remasking == "random":
            return self.noise.uniform(draw)
        return self._probability(hidden, best, bias)

    def _probability(self, hidden: Tensor, best: TokenConfidence, bias: tuple[Tensor, Tensor] | None) -> Tensor:
        """The chosen tokens' probabilities [R]; those of ``unconfident`` ids are 0 and the others renormalised."""
        unconfident = self.options.unconfident
        if not unconfident:
            return best.logprob.exp()
        forbidden = [*self.options.forbidden, *unconfident]
        rest = ops.token_confidence(hidden, self.model.lm_head, forbidden=forbidden, bias=bias)
        probability = (best.logprob + best.logsumexp - rest.logsumexp).exp()
        for token in unconfident:
            probability = probability.masked_fill(best.token == token, 0.0)
        return probability


def _laid_out(whole: Distributions, masked: Tensor, values: Tensor) -> Tensor:
    grid = torch.zeros(masked.shape, dtype=values.dtype, device=values.device)
    return grid.index_put((whole.row, whole.slot), values)
