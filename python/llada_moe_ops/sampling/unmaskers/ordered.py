"""Rules that commit the schedule's count and differ in what comes first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..predictor import Statistics
from .unmasker import ranks


@dataclass
class FixedUnmasker:
    """The published rule (LLaDA, arXiv 2502.09992): the schedule's count of positions of highest confidence."""

    adaptive = False
    capturable = True

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        return (ranks(statistics.confidence, masked) < quota[:, None]) & masked


@dataclass
class RandomUnmasker:
    """The schedule's count in random order, as masked diffusion is trained (arXiv 2502.09992); the baseline of others.

    The order is drawn from the request's seed.
    """

    adaptive = False
    capturable = True

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        return (ranks(statistics.details.uniform(), masked) < quota[:, None]) & masked


@dataclass
class MarginUnmasker:
    """The schedule's count of positions where the token is furthest before the second-best (Dream, arXiv 2508.15487).

    The margin is the difference of the two probabilities: a position torn between two tokens waits, however improbable
    all others are.
    """

    adaptive = False
    capturable = True

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        margin = statistics.logprob.exp() - statistics.runner_up_logprob.exp()
        return (ranks(margin, masked) < quota[:, None]) & masked


@dataclass
class EntropyUnmasker:
    """The schedule's count of positions whose distribution has the lowest entropy (Dream, arXiv 2508.15487)."""

    adaptive = False
    capturable = True

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        return (ranks(-statistics.entropy, masked) < quota[:, None]) & masked
