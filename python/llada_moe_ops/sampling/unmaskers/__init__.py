"""Commit rules: which of a block's masked positions keep their predicted token after a step."""

from .confident import (
    EntropyBoundUnmasker,
    FactorUnmasker,
    HierarchicalUnmasker,
    LocalLeapUnmasker,
    ThresholdUnmasker,
)
from .ordered import EntropyUnmasker, FixedUnmasker, MarginUnmasker, RandomUnmasker
from .specification import UNMASKERS, build_unmasker
from .unmasker import Unmasker

__all__ = [
    "UNMASKERS",
    "EntropyBoundUnmasker",
    "EntropyUnmasker",
    "FactorUnmasker",
    "FixedUnmasker",
    "HierarchicalUnmasker",
    "LocalLeapUnmasker",
    "MarginUnmasker",
    "RandomUnmasker",
    "ThresholdUnmasker",
    "Unmasker",
    "build_unmasker",
]
