"""A rule for each row of a batch, put together as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..predictor import Statistics
from .unmasker import Decision, Unmasker, decide


class PerRowUnmasker:
    """Hands each row to its own rule; rows of equal rules are decided together.

    Args:
        rules: one per row of the batch.
        device: of the batch.
    """

    def __init__(self, rules: Sequence[Unmasker], device: torch.device) -> None:
        self.rules: list[Unmasker] = []
        for rule in rules:
            if rule not in self.rules:
                self.rules.append(rule)
        self._rule_of = torch.tensor([self.rules.index(rule) for rule in rules], dtype=torch.int64, device=device)
        # Counts of a schedule do not rise and add up to what is masked, so under a rule that keeps to them a block
        # ends as soon as nothing is masked, as under one that decides the count itself.
        self.adaptive = any(rule.adaptive for rule in self.rules)
        self.capturable = all(getattr(rule, "capturable", False) for rule in self.rules)
        revising = [bool(getattr(rule, "revises", False)) for rule in self.rules]
        self.revises = torch.tensor(revising, device=device)[self._rule_of] if any(revising) else False

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Decision:
        rule_of = self._rule_of[statistics.details.rows]
        whole = Decision.of(torch.zeros_like(masked), statistics)
        for number, rule in enumerate(self.rules):
            mine = rule_of == number
            if self.capturable:  # without state and within a CUDA graph: each decides all rows, in fixed sizes
                whole = _put(whole, decide(rule, statistics, masked, quota), _where(mine))
                continue
            (rows,) = mine.nonzero(as_tuple=True)
            if len(rows):
                part = decide(rule, statistics.details.only(rows), masked[rows], quota[rows])
                whole = _put(whole, part, _copy(rows))
        return whole


Put = Callable[[Tensor, Tensor], Tensor]
_VALUES = [field.name for field in fields(Statistics) if field.name != "details"]


def _where(mine: Tensor) -> Put:
    return lambda old, new: torch.where(mine.view(-1, *[1] * (new.dim() - 1)), new, old)


def _copy(rows: Tensor) -> Put:
    return lambda old, new: old.index_copy(0, rows, new)


def _put(whole: Decision, part: Decision, put: Put) -> Decision:
    """``whole`` with the rows of ``part``, by ``put(old, new)`` for each tensor."""
    old, new = whole.statistics, part.statistics
    values: dict[str, Any] = {name: put(getattr(old, name), getattr(new, name)) for name in _VALUES}
    return Decision(
        put(whole.commit, part.commit),
        replace(old, **values),
        put(whole.remask, part.remask),
        put(whole.unfinished, part.unfinished),
    )


def put_together(rules: Sequence[Unmasker], device: torch.device) -> Unmasker:
    """One rule that decides each row of a batch by its own, ``rules`` in the rows' order."""
    together = PerRowUnmasker(rules, device)
    return together.rules[0] if len(together.rules) == 1 else together
