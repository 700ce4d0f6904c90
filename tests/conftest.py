"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ops.budget import ISAS, forced_isa


@pytest.fixture(params=ISAS or ["reference"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this machine in turn, forced."""
    if not ISAS:
        yield "reference"
        return
    with forced_isa(request.param):
        yield request.param
