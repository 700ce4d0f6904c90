"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ops.budget import AVAILABLE, ISAS, forced_isa


@pytest.fixture(params=ISAS if AVAILABLE else ["reference"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn, forced; one that this machine lacks is skipped."""
    if not AVAILABLE:
        yield "reference"
        return
    with forced_isa(request.param):
        yield request.param
