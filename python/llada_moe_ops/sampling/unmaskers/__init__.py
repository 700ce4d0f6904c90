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
from .specification import UNMASKERS, build_unmasker
from .unmasker import Decision, Unmasker

__all__ = [
    "UNMASKERS",
    "CreditUnmasker",
    "Decision",
    "EntropyBoundUnmasker",
    "EntropyUnmasker",
    "FactorUnmasker",
    "FixedUnmasker",
    "HierarchicalUnmasker",
    "KlassUnmasker",
    "LocalLeapUnmasker",
    "MarginUnmasker",
    "ProphetUnmasker",
    "RandomUnmasker",
    "RowHistory",
    "ThresholdUnmasker",
    "Unmasker",
    "build_unmasker",
]
