"""grouped_gemm and grouped_swiglu against a loop of torch products over the experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import ops

from .compare import DTYPES, compare, title

EXPERTS, K, ROWS = 16, 1024, 1024
OPS = {
    "grouped_gemm": (ops.grouped_gemm, ops.grouped_gemm_reference),
    "grouped_swiglu": (ops.grouped_swiglu, ops.grouped_swiglu_reference),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("assignments", [64, 1024])
@pytest.mark.parametrize("op", OPS)
def test_grouped(benchmark: Any, op: str, assignments: int, dtype: torch.dtype) -> None:
    kernel, reference = OPS[op]
    x, weight = torch.randn(assignments, K).to(dtype), (torch.randn(EXPERTS, ROWS, K) / K**0.5).to(dtype)
    _, offsets = ops.expert_order(torch.randint(0, EXPERTS, (assignments, 1)), EXPERTS)
    peers = {"loop over experts": lambda: reference(x, weight, offsets)}
    name = title(op, dtype, A=assignments, E=EXPERTS, K=K, N=ROWS)
    used = int((offsets.diff() > 0).sum())
    compare(
        benchmark,
        name,
        lambda: kernel(x, weight, offsets),
        peers,
        dtype=dtype,
        bytes_moved=x.nbytes + used * weight[0].nbytes + kernel(x, weight, offsets).nbytes,
        flops=2.0 * assignments * K * ROWS,
    )
