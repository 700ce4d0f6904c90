"""Commit rules: which of a block's masked positions keep their predicted token after a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ._names import choose
from .predictor import Statistics


class Unmasker(Protocol):
    """A commit rule. One object serves one generation, so it may keep state between steps.

    ``adaptive`` rules decide the count themselves: their blocks last until nothing is masked, whatever the schedule
    says. The others commit exactly the schedule's count.

    One with an attribute ``capturable`` that is true keeps no state, and makes neither sizes nor decisions on the host
    depend on what tensors hold: on a GPU, steps become CUDA graphs. Its ``masked`` may have rows without a position,
    and quota 0, where it commits none.
    """

    adaptive: bool

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        """The positions to commit, bool [B, W], within ``masked`` [B, W]; at least one in each row.

        Args:
            statistics: of every position of the block, [B, W] each; meaningful where ``masked``.
            masked: the positions still to be filled.
            quota: int64 [B], the schedule's count for this step.
        """
        ...


class FixedUnmasker:
    """The published rule: the schedule's count of positions of highest confidence; equal ones by lower position."""

    adaptive = False
    capturable = True

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        confidence = statistics.confidence.masked_fill(~masked, -torch.inf)
        rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (rank < quota[:, None]) & masked


UNMASKERS: dict[str, Callable[[], Unmasker]] = {"fixed": FixedUnmasker}


def build_unmasker(unmasker: str | Unmasker) -> Unmasker:
    """A rule by its name in ``UNMASKERS``, or the object itself.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    return choose("unmasker", unmasker, UNMASKERS)() if isinstance(unmasker, str) else unmasker
