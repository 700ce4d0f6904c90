"""What a commit rule is, and what rules share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..predictor import Statistics


@dataclass(frozen=True)
class Decision:
    """What a step does to a block, where the positions to commit do not say it all.

    Attributes:
        commit: bool [B, W], the positions that take their token, masked ones or written ones.
        statistics: the statistics whose tokens those are, for a rule that changes them.
        remask: bool [B, W], the written positions that are masked again.
        unfinished: bool [B], the rows that want another step even if nothing of them is masked.
    """

    commit: Tensor
    statistics: Statistics
    remask: Tensor
    unfinished: Tensor

    @classmethod
    def of(cls, commit: Tensor, statistics: Statistics) -> Decision:
        """To commit, and nothing else."""
        return cls(commit, statistics, torch.zeros_like(commit), torch.zeros_like(commit[:, 0]))


class Unmasker(Protocol):
    """A commit rule. One object serves one generation, so it may keep state between steps.

    ``adaptive`` rules decide the count themselves: their blocks last until nothing is masked, whatever the schedule
    says. The others commit exactly the schedule's count.

    One with an attribute ``capturable`` that is true keeps no state, and makes neither sizes nor decisions on the host
    depend on what tensors hold: on a GPU, steps become CUDA graphs. Its ``masked`` may have rows without a position,
    and quota 0, where it commits none.

    One with an attribute ``revises`` that is true, or bool [B] of the whole batch's rows, is also told the predictions
    in place of the tokens that it has written in this block, and may replace or mask them; rows that it calls
    unfinished come without a masked position.

    One with an attribute ``compares_steps`` that is true takes what a position has predicted at several steps for
    several observations; caches that repeat predictions are refused.
    """

    adaptive: bool

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor | Decision:
        """The positions to commit, bool [B, W], within ``masked`` [B, W]; at least one in each row.

        Or a :class:`Decision`, for rules that do more.

        A row's positions must depend on that row alone, so that they are the same in any batch.

        Args:
            statistics: of every position of the block, [B, W] each; meaningful where ``masked``.
            masked: the positions still to be filled; at least one in each row, unless the rule revises.
            quota: int64 [B], the schedule's count for this step, at least 1.
        """
        ...


def decide(unmasker: Unmasker, statistics: Statistics, masked: Tensor, quota: Tensor) -> Decision:
    """What a rule selects, as a :class:`Decision` in any case."""
    selected = unmasker.select(statistics, masked, quota)
    return selected if isinstance(selected, Decision) else Decision.of(selected, statistics)


def committed_too_few(unmasker: Unmasker, none: bool = False) -> ValueError:
    """What to raise where a rule committed nothing in a row's step, or left masks when its block was over."""
    if none or unmasker.adaptive:
        return ValueError(f"unmasker must commit at least one position in each row, {unmasker!r} committed none")
    return ValueError(f"unmasker must commit the schedule's count unless it is adaptive, {unmasker!r} left masks")


def ranks(score: Tensor, masked: Tensor) -> Tensor:
    """Each position's place by falling score [B, W], from 0; equal ones by lower position, those not masked last."""
    return score.masked_fill(~masked, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def best(score: Tensor, masked: Tensor) -> Tensor:
    """The masked position of highest score in each row, bool [B, W]; of equal ones the lowest."""
    return (ranks(score, masked) == 0) & masked
