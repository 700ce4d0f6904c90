"""Tests shared out among processes."""

from __future__ import annotations

from typing import TypeVar

import pytest

Item = TypeVar("Item")


def part_of(items: list[Item], part: str) -> list[Item]:
    """Part I of N, given as ``I/N``: every N-th. Cases of one test cost about the same, so the parts do too."""
    which, count = map(int, part.split("/"))
    if not 1 <= which <= count:
        raise pytest.UsageError(f"--part: I/N with I of 1 … N is wanted, got {part}")
    return items[which - 1 :: count]
