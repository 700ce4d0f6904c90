"""Masks inserted while a reply is written, where the model is unsure and sees no end (DAEDAL, 2508.00819)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .cache import Cache
from .canvas import Canvas
from .growth import Growth
from .smoothing import IterationSmoothing
from .trace import Widened
from .unmaskers import Unmasker

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel
    from .predictor import Statistics


def check_widening(grow: Growth, unmasker: Unmasker, cache: Cache | None, smoothing: IterationSmoothing | None) -> None:
    """Positions move, so nothing may remember them.

    Raises:
        ValueError: a part that does not go with it.
    """
    if grow.widen == 1:
        return
    if cache is not None or smoothing is not None:
        raise ValueError("cache and smoothing must be 'none' where grow widens masks: positions move")
    if not (unmasker.adaptive and getattr(unmasker, "capturable", False)):
        raise ValueError(
            "unmasker must decide the count itself and keep no state where grow widens masks, as 'threshold' does, "
            f"got {unmasker!r}"
        )


@dataclass
class Widening:
    """Of one generation.

    Attributes:
        most: int64 [B], masks that a row may have; where that is no more than it has it is left alone.
        passes: forward passes it has made.
    """

    grow: Growth
    model: LLaDAMoEModel
    most: Tensor
    mask_token: int
    end_token: int
    passes: int = 0

    def places(self, canvas: Canvas, rows: Tensor, open_: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Which masks of a block to widen, before the step has written: rows and slots int64 [N], one a row.

        Args:
            rows: int64 [A], those of the step.
            open_: bool [A, W], the block's masks that it leaves.
        """
        confidence = torch.maximum(statistics.logprob, statistics.runner_up_logprob).exp()
        room = (canvas.filled.sum(1) + self.grow.widen - 1 <= self.most)[rows]
        unsure = open_ & (confidence < self.grow.unsure) & room[:, None]
        (candidates,) = unsure.any(1).nonzero(as_tuple=True)
        if len(candidates) == 0:
            return candidates, candidates
        candidates = candidates[self._confidence(canvas, rows[candidates]) < self.grow.sure_end]
        order = confidence.masked_fill(~unsure, torch.inf).argsort(dim=1, stable=True)
        return rows[candidates], order[candidates, 0]

    def widen(self, canvas: Canvas, rows: Tensor, positions: Tensor) -> Widened | None:
        """Do it, at (rows, positions) [N]."""
        return canvas.widen(rows, positions, self.grow.widen - 1) if len(rows) else None

    def _confidence(self, canvas: Canvas, rows: Tensor) -> Tensor:
        self.passes += 1
        lengths = canvas.lengths[rows]
        longest = int(lengths.max())
        real = torch.arange(longest, device=rows.device) < lengths[:, None]
        tokens, reply = canvas.tokens[rows, :longest], canvas.filled[rows, :longest]
        return self.grow.confidence(self.model, tokens, reply, real, self.mask_token, self.end_token)
