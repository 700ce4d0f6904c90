"""Commit rules: which of a block's masked positions keep their predicted token after a step."""

from .confident import (
    EntropyBoundUnmasker,
    FactorUnmasker,
    HierarchicalUnmasker,
    LocalLeapUnmasker,
    ThresholdUnmasker,
)
from .history import CreditUnmasker, KlassUnmasker, ProphetUnmasker, RowHistory
from .ordered import EntropyUnmasker, FixedUnmasker, MarginUnmasker, RandomUnmasker
from .per_row import PerRowUnmasker, put_together
from .revising import EditingUnmasker, RemaskUnmasker
from .specification import UNMASKERS, build_unmasker
from .unmasker import Decision, Unmasker, committed_too_few, decide, ranks

__all__ = [
    "UNMASKERS",
    "CreditUnmasker",
    "Decision",
    "EditingUnmasker",
    "EntropyBoundUnmasker",
    "EntropyUnmasker",
    "FactorUnmasker",
    "FixedUnmasker",
    "HierarchicalUnmasker",
    "KlassUnmasker",
    "LocalLeapUnmasker",
    "MarginUnmasker",
    "PerRowUnmasker",
    "ProphetUnmasker",
    "RandomUnmasker",
    "RemaskUnmasker",
    "RowHistory",
    "ThresholdUnmasker",
    "Unmasker",
    "build_unmasker",
    "committed_too_few",
    "decide",
    "put_together",
    "ranks",
]
