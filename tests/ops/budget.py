"""Shared by the op tests: instruction sets, thread counts, and the error budget.

The budget: error(kernel) <= 2 x error(the same in eager PyTorch at that dtype), both root mean square against float64,
plus a floor of half a unit in the last place of the result's size, for inputs on which eager happens to be exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from llada_moe_ops.machine import extension
from llada_moe_ops.ops._library import native
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)
AVAILABLE: list[str] = extension().available_isas() if native() else []
ISAS = [
    pytest.param(name, marks=pytest.mark.skipif(name not in AVAILABLE, reason=f"no {name} path here: {AVAILABLE}"))
    for name in ("avx512", "avx512fma", "avx2", "portable")
]


@contextmanager
def forced_isa(name: str) -> Iterator[None]:
    extension().force_isa(name)
    try:
        yield
    finally:
        extension().force_isa("")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def assert_within_budget(kernel: Tensor, eager: Tensor, exact: Tensor) -> None:
    assert kernel.dtype == eager.dtype
    assert kernel.shape == exact.shape
    size = rms(exact)
    assert size > 1e-6, "a reference of zeros proves nothing"
    floor = torch.finfo(kernel.dtype).eps / 2 * size
    error, allowed = rms(kernel.double() - exact), 2 * rms(eager.double() - exact) + floor
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def assert_within_budget_or_zero(kernel: Tensor, eager: Tensor, exact: Tensor) -> None:
    """The budget; where nothing adds to the result (no expert is chosen, no key allowed), exactly zeros."""
    if exact.count_nonzero() > 0:
        return assert_within_budget(kernel, eager, exact)
    assert kernel.shape == exact.shape
    assert kernel.count_nonzero() == 0
    return None


def doubled(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.double() if x.is_floating_point() else x for x in tensors]
