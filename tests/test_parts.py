"""``--part I/N``: the parts are all tests, each once."""

from __future__ import annotations

import pytest

from .parts import part_of


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_parts_are_everything_once(size: int, count: int) -> None:
    parts = [part_of(list(range(size)), f"{i + 1}/{count}") for i in range(count)]
    assert sorted(item for part in parts for item in part) == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("part", ["0/2", "3/2"])
def test_a_part_that_does_not_exist(part: str) -> None:
    with pytest.raises(pytest.UsageError, match=rf"I/N with I of 1 … N is wanted, got {part}"):
        part_of([1, 2, 3], part)
