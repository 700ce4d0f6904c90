"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.emulated import CUDA_KERNELS, EmulatedWork, emulated, summary, work_so_far
from tests.ops.budget import AVAILABLE, ISAS, forced_isa

with suppress(ModuleNotFoundError):  # a machine that only runs make gpu-check may lack it
    from hypothesis import settings

    settings.register_profile("thorough", max_examples=2500)


CPU_KERNELS = ISAS if AVAILABLE else ["reference"]


@pytest.fixture(params=CPU_KERNELS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn, forced; one that this machine lacks is skipped."""
    if not AVAILABLE:
        yield "reference"
        return
    with forced_isa(request.param):
        yield request.param


@pytest.fixture(params=[*CPU_KERNELS, *CUDA_KERNELS])
def kernels(request: pytest.FixtureRequest) -> Iterator[str | int]:
    """The CPU's kernels of each instruction set, then CUDA's in the emulator, in turn."""
    if request.param == "reference":
        yield request.param
        return
    with forced_isa(request.param) if request.param in AVAILABLE else emulated(request.param):
        yield request.param


_emulated_elsewhere: list[EmulatedWork] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)  # of a process of pytest-xdist
    if output is not None:
        output["emulated"] = tuple(work_so_far())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if work := getattr(node, "workeroutput", {}).get("emulated"):
        _emulated_elsewhere.append(EmulatedWork(*work))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how much the emulator has run, in all processes."""
    if line := summary([work_so_far(), *_emulated_elsewhere]):
        terminalreporter.write_line(line)
