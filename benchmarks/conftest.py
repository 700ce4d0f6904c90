"""The options of every benchmark, and facts of the machine in its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from llada_moe_ops.machine import machine_facts

from .compare import TOKENS

EVERY_SIZE = (1, 8, 32, 64, 128, 256, 512, 1024, 2048)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Called by pytest."""
    group = parser.getgroup("llada_moe_ops")
    sizes = " ".join(map(str, EVERY_SIZE))
    group.addoption("--every-size", action="store_true", help=f"also of {sizes} tokens, not of the module's few alone")
    group.addoption("--threads", type=int, nargs="+", help="each case with each of these thread counts")


@pytest.hookimpl(trylast=True)  # after the marks: tokens and threads vary fastest, so that weights serve many cases
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Called by pytest for each test function; a module may have TOKENS and THREADS of its own."""
    if "tokens" in metafunc.fixturenames:
        more = EVERY_SIZE if metafunc.config.getoption("--every-size", default=False) else ()
        metafunc.parametrize("tokens", sorted({*getattr(metafunc.module, "TOKENS", TOKENS), *more}))
    counts = metafunc.config.getoption("--threads", default=None)
    if counts and not hasattr(metafunc.module, "THREADS"):
        metafunc.parametrize("threads", counts, ids=lambda count: f"threads{count}", indirect=True)


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The thread count of a case: PyTorch's own unless --threads says otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(getattr(request, "param", before))
    yield torch.get_num_threads()
    torch.set_num_threads(before)


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Called by pytest-benchmark."""
    machine_info["llada_moe_ops"] = machine_facts()
