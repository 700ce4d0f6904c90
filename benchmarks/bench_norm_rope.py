"""rms_norm, add_rms_norm and qk_norm_rope against PyTorch: hidden 2048, 16 heads of 128."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from torch.nn import functional

from .compare import DTYPES, compare, title

HIDDEN, HEADS, DEPTH, EPS = 2048, 16, 128, 1e-5


def work(x: torch.Tensor, arrays: int, operations: int) -> dict[str, Any]:
    """Of arrays as large as x, and so many operations for each of its elements."""
    return {"dtype": x.dtype, "bytes_moved": float(arrays * x.nbytes), "flops": float(operations * x.numel())}


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(benchmark: Any, tokens: int, dtype: torch.dtype) -> None:
    x, weight = torch.randn(tokens, HIDDEN).to(dtype), torch.randn(HIDDEN).to(dtype)
    peers = {
        "reference": lambda: ops.rms_norm_reference(x, weight, EPS),
        "torch rms_norm": lambda: functional.rms_norm(x, (HIDDEN,), weight, EPS),
    }
    name = title("rms_norm", dtype, T=tokens)
    compare(benchmark, name, lambda: ops.rms_norm(x, weight, EPS), peers, **work(x, 2, 4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rms_norm(benchmark: Any, tokens: int, dtype: torch.dtype) -> None:
    x, residual = torch.randn(tokens, HIDDEN).to(dtype), torch.randn(tokens, HIDDEN).to(dtype)
    weight = torch.randn(HIDDEN).to(dtype)
    peers = {"reference": lambda: ops.add_rms_norm_reference(x, residual, weight, EPS)}
    name = title("add_rms_norm", dtype, T=tokens)
    compare(benchmark, name, lambda: ops.add_rms_norm(x, residual, weight, EPS), peers, **work(x, 4, 5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_qk_norm_rope(benchmark: Any, tokens: int, dtype: torch.dtype) -> None:
    q, k = (torch.randn(1, tokens, HEADS, DEPTH).to(dtype) for _ in range(2))
    weight, positions = torch.randn(DEPTH).to(dtype), torch.arange(tokens)[None]

    def run(function: Any) -> Any:
        return function(q, k, weight, weight, positions, theta=50000.0, rotary_dim=DEPTH, eps=EPS)

    peers = {"reference": lambda: run(ops.qk_norm_rope_reference)}
    name = title("qk_norm_rope", dtype, T=tokens)
    compare(benchmark, name, lambda: run(ops.qk_norm_rope), peers, **work(q, 4, 14))
