"""Iteration smoothing: what a masked position last predicted is told to the next step, by its input embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import _arguments as arguments
from ._specification import build_part
from .details import Distributions

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


@dataclass(frozen=True)
class IterationSmoothing:
    """Adds to a masked position's embedding the expected one under its last distribution (dInfer, arXiv 2510.08666).

    The weight is min(start + growth · i, limit) at a row's own step i, counted over the whole generation; the embedding
    of the mask stays whole beside it, as in dInfer's code. Of the whole distribution, without temperature. A committed
    position has its token's embedding alone. Only positions of the current block have predicted anything, so a block's
    first step is as without. dInfer lets the threshold fall meanwhile: "threshold:0.8,decay=0.02".

    Args:
        start, growth, limit: not negative.
    """

    start: float = 0.15
    growth: float = 0.02
    limit: float = 0.3

    def __post_init__(self) -> None:
        for name in ("start", "growth", "limit"):
            arguments.non_negative(name, getattr(self, name))

    def weights(self, steps: Tensor) -> Tensor:
        """float32, of the steps int64 that rows have taken before."""
        return (self.start + self.growth * steps.double()).clamp(max=self.limit).float()


SMOOTHINGS: dict[str, Callable[..., IterationSmoothing | None]] = {
    "none": lambda: None,
    "iteration": IterationSmoothing,
}


def build_smoothing(smoothing: str | IterationSmoothing) -> IterationSmoothing | None:
    """By its name in ``SMOOTHINGS`` with its parameters, as in "iteration:limit=0.2", or the object; None for "none".

    Raises:
        TypeError: neither a string nor an :class:`IterationSmoothing`, or a parameter of the wrong type.
        ValueError: unknown name or parameter, the message lists the known ones; or a value out of range.
    """
    if isinstance(smoothing, str):
        return build_part("smoothing", smoothing, SMOOTHINGS)
    if not isinstance(smoothing, IterationSmoothing):
        raise TypeError(f"smoothing must be a name or an IterationSmoothing, got {type(smoothing).__name__}")
    return smoothing


class Smoother:
    """Keeps the latest step's distributions of one generation, as hidden states."""

    def __init__(self, model: LLaDAMoEModel, smoothing: IterationSmoothing) -> None:
        self._model, self._smoothing = model, smoothing
        self._latest: Distributions
        self._weights: Tensor  # float32 [B], of the rows of the latest step

    def keep(self, distributions: Distributions, steps: Tensor) -> None:
        """Of a step that rows take after ``steps`` int64 [B] others."""
        self._latest, self._weights = distributions, self._smoothing.weights(steps)

    def added(self, rows: Tensor, masked: Tensor, index: int) -> Tensor | None:
        """What the next step, ``index`` of the block, adds to the embeddings of ``rows`` [A], float32 [A, W, H].

        Nothing but zero where nothing is ``masked`` [A, W] or nothing was predicted.
        """
        if index == 0:
            return None
        places = self._latest.places(rows).masked_fill(~masked, -1)
        row, slot = (places >= 0).nonzero(as_tuple=True)
        place = places[row, slot]
        dense = torch.zeros(*masked.shape, self._model.config.hidden_size, device=masked.device)
        weights = self._weights[self._latest.row[place]][:, None]
        dense[row, slot] = weights * self._latest.expected(place, self._model.expected_embedding).float()
        return dense
