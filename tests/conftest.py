"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.emulated import KERNELS, counts, emulated
from tests.ops.budget import AVAILABLE, ISAS, forced_isa
from tests.parts import part_of

with suppress(ModuleNotFoundError):  # a machine that only runs make gpu-check may lack it
    from hypothesis import settings

    settings.register_profile("thorough", max_examples=2500)


@pytest.fixture(params=ISAS if AVAILABLE else ["reference"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn, forced; one that this machine lacks is skipped."""
    if not AVAILABLE:
        yield "reference"
        return
    with forced_isa(request.param):
        yield request.param


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Iterator[str | int]:
    """The CPU's kernels, then CUDA's in the emulator, in turn."""
    if request.param == "native":
        yield "native"
        return
    with emulated(request.param):
        yield request.param


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", default="1/1", metavar="I/N", help="every N-th test, from the I-th on")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Counted after ``-k`` has chosen."""
    chosen = part_of(items, config.getoption("--part"))
    kept = set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = chosen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how much the emulator has run."""
    if line := counts():
        terminalreporter.write_line(line)
