"""linear, packed and plain, against torch's own at the model's projections."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import ops

from .compare import DTYPES, TOKENS, compare, title

SIZES = ((2048, 2048), (2048, 64), (128, 128))  # (K, N): attention projections, router, the embedded model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("size", SIZES)
def test_linear(benchmark: Any, size: tuple[int, int], tokens: int, dtype: torch.dtype) -> None:
    k, n = size
    x, weight = torch.randn(tokens, k).to(dtype), (torch.randn(n, k) / k**0.5).to(dtype)
    packed = ops.pack_linear(weight)
    peers = {"torch": lambda: ops.linear_reference(x, weight), "plain weights": lambda: ops.linear(x, weight)}
    name = title("linear", dtype, T=tokens, K=k, N=n)
    compare(
        benchmark,
        name,
        lambda: ops.linear(x, packed),
        peers,
        dtype=dtype,
        bytes_moved=x.nbytes + weight.nbytes + tokens * n * dtype.itemsize,
        flops=2.0 * tokens * k * n,
    )
