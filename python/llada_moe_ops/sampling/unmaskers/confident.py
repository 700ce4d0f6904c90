"""Rules that commit every position that is sure enough, so as many as the text allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _arguments as arguments
from ..predictor import Statistics
from .unmasker import best, ranks

_TIE = 1e-5


def _check_lower(name: str, value: float, threshold: float) -> None:
    arguments.fraction(name, value)
    arguments.require(value <= threshold, name, f"at most threshold {threshold}", value)


@dataclass
class ThresholdUnmasker:
    """Every position whose confidence reaches a threshold, or that of the surest (Fast-dLLM, arXiv 2505.22618).

    Commits where confidence ≥ min(``threshold``, the row's highest − 1e-5), as dInfer does. On LLaDA-MoE dInfer takes
    0.76 to 0.8 with blocks of 64.

    Args:
        threshold: from 0 to 1.
        decay: from 0 to 1; above 0, the threshold at a row's own step i is max(1 − decay · i, ``threshold``): dInfer's
            rule beside iteration smoothing, with 0.02.
    """

    threshold: float = 0.9
    decay: float = 0.0
    adaptive = True
    capturable = True

    def __post_init__(self) -> None:
        arguments.fraction("threshold", self.threshold)
        arguments.fraction("decay", self.decay)

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        confidence = statistics.confidence.masked_fill(~masked, -torch.inf)
        needed = confidence.amax(1, keepdim=True) - _TIE
        if self.decay > 0:
            falling = (1 - self.decay * statistics.details.steps.double()).clamp(min=self.threshold)
            return masked & (confidence >= torch.minimum(needed, falling.float()[:, None]))
        return masked & (confidence >= needed.clamp(max=self.threshold))


@dataclass
class FactorUnmasker:
    """As many as are sure enough together: the n-th surest needs confidence 1 − f / (n + 1) (Fast-dLLM, 2505.22618).

    By falling confidence, from n = 1; the first always passes and the first that fails ends the row's step. If n
    tokens satisfy it, the parallel choice is that of the joint distribution (the paper's theorem 1, at f ≤ 1).

    Args:
        factor: f, above 0; larger commits more.
    """

    factor: float = 1.0
    adaptive = True
    capturable = True

    def __post_init__(self) -> None:
        arguments.positive("factor", self.factor)

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        rank = ranks(statistics.confidence, masked)
        needed = 1 - self.factor / (rank + 2)
        fails = masked & (rank > 0) & (statistics.confidence < needed)
        stop = rank.masked_fill(~fails, masked.shape[1]).amin(1, keepdim=True)
        return masked & (rank < stop)


@dataclass
class EntropyBoundUnmasker:
    """The most positions whose joint entropy is close to the surest guess (EB-Sampler, arXiv 2505.24857).

    By rising entropy e, the longest run of positions with Σe − max e ≤ γ: a bound on the mutual information that
    choosing them independently ignores.

    Args:
        gamma: in nats, not negative; 0.1 as in diffusers, SGLang takes 0.15.
    """

    gamma: float = 0.1
    adaptive = True
    capturable = True

    def __post_init__(self) -> None:
        arguments.non_negative("gamma", self.gamma)

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        rank = ranks(-statistics.entropy, masked)
        # A distribution's entropy may come out a rounding error below 0.
        entropy = statistics.entropy.clamp(min=0).masked_fill(~masked, 0)
        rising = torch.zeros_like(entropy).scatter(1, rank, entropy)
        before = torch.nn.functional.pad(rising.cumsum(1)[:, :-1], (1, 0))
        return masked & (before.gather(1, rank) <= self.gamma)


@dataclass
class HierarchicalUnmasker:
    """Divides and conquers: the surest position of each run of masks, besides all that are sure (dInfer, 2510.08666).

    Commits confidence > ``threshold``; in every run of adjacent masks its surest position if > ``low_threshold``; and
    always the row's surest. Tokens committed together so have others to be told by on both sides soon.

    Args:
        threshold: from 0 to 1.
        low_threshold: from 0 to ``threshold``; dInfer takes 0.4 to 0.62.
    """

    threshold: float = 0.92
    low_threshold: float = 0.62
    adaptive = True
    capturable = True

    def __post_init__(self) -> None:
        arguments.fraction("threshold", self.threshold)
        _check_lower("low_threshold", self.low_threshold, self.threshold)

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        confidence, rank = statistics.confidence, ranks(statistics.confidence, masked)
        starts = masked & ~torch.nn.functional.pad(masked[:, :-1], (1, 0))
        run = starts.cumsum(1)
        width = masked.shape[1]
        first = rank.new_full((len(rank), width + 1), width)
        first = first.scatter_reduce(1, run, rank.masked_fill(~masked, width), "amin")
        surest_of_run = rank == first.gather(1, run)
        sure = (confidence > self.threshold) | (surest_of_run & (confidence > self.low_threshold))
        return masked & (sure | (rank == 0))


@dataclass
class LocalLeapUnmasker:
    """Every sure position, and around it those nearly as sure (LocalLeap, arXiv 2510.07081).

    Positions of confidence ≥ ``threshold`` are anchors; within ``radius`` of an anchor ``relaxed_threshold`` is enough.
    The row's surest is always committed.

    Args:
        threshold: from 0 to 1.
        relaxed_threshold: from 0 to ``threshold``.
        radius: positions to either side, at least 0.
    """

    threshold: float = 0.9
    relaxed_threshold: float = 0.75
    radius: int = 4
    adaptive = True
    capturable = True

    def __post_init__(self) -> None:
        arguments.fraction("threshold", self.threshold)
        _check_lower("relaxed_threshold", self.relaxed_threshold, self.threshold)
        arguments.integer("radius", self.radius, 0)

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        confidence = statistics.confidence
        anchors = masked & (confidence >= self.threshold)
        radius = min(self.radius, masked.shape[1])
        near = torch.nn.functional.max_pool1d(anchors[:, None].float(), 2 * radius + 1, 1, radius)[:, 0] > 0
        return masked & ((near & (confidence >= self.relaxed_threshold)) | best(confidence, masked))
