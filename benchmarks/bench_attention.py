"""attention against scaled_dot_product_attention, 16 heads of 128, bidirectional; and padded by a key range."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from torch import Tensor
from torch.nn import functional

from .compare import DTYPES, compare, title

HEADS, DEPTH = 16, 128


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [32, 128, 512, 1024])
def test_full(benchmark: Any, length: int, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(1, length, HEADS, DEPTH).to(dtype) for _ in range(3))
    flops = 4.0 * length * length * HEADS * DEPTH
    peers = {"sdpa": lambda: sdpa(q, k, v)}
    compare(
        benchmark,
        title("attention", dtype, S=length),
        lambda: ops.attention(q, k, v),
        peers,
        dtype=dtype,
        bytes_moved=4.0 * q.nbytes,
        flops=flops,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_padded_batch(benchmark: Any, dtype: torch.dtype) -> None:
    length, starts = 256, torch.tensor([0, 64, 128, 192])
    q, k, v = (torch.randn(4, length, HEADS, DEPTH).to(dtype) for _ in range(3))
    key_range = torch.stack([starts, torch.full_like(starts, length)], 1)
    mask = (torch.arange(length) >= starts[:, None])[:, None, None]
    keys = float((length - starts).sum())
    bytes_moved = 2.0 * q.nbytes + 2.0 * keys * k[0, 0].nbytes
    name = title("attention padded", dtype, B=4, S=length)
    peers = {"sdpa": lambda: sdpa(q, k, v, mask)}
    compare(
        benchmark,
        name,
        lambda: ops.attention(q, k, v, key_range=key_range),
        peers,
        dtype=dtype,
        bytes_moved=bytes_moved,
        flops=4.0 * length * keys * HEADS * DEPTH,
    )
