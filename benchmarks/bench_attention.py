"""attention against scaled_dot_product_attention, 16 heads of 128: full, masked, and few queries against a cache.

Cold cases take keys and values in turn from copies that do not fit into L3 together, as the layers of a model do. The
masked cases print their time over that of the same work without a mask as "x unmasked".
"""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from llada_moe_ops.machine import extension
from torch import Tensor
from torch.nn import functional

from .compare import DTYPES, compare, title

TOKENS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
HEADS, DEPTH = 16, 128


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2)


def inputs(batch: int, queries: int, keys: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(batch, length, HEADS, DEPTH).to(dtype) for length in (queries, keys, keys)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_full(benchmark: Any, tokens: int, dtype: torch.dtype) -> None:
    q, k, v = inputs(1, tokens, tokens, dtype)
    flops = 4.0 * tokens * tokens * HEADS * DEPTH
    peers = {"sdpa": lambda: sdpa(q, k, v)}
    compare(
        benchmark,
        title("attention", dtype, S=tokens),
        lambda: ops.attention(q, k, v),
        peers,
        dtype=dtype,
        bytes_moved=4.0 * q.nbytes,
        flops=flops,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
@pytest.mark.parametrize("queries", [1, 4, 8, 32])
@pytest.mark.parametrize("keys", [512, 1024, 4096])
def test_cached(benchmark: Any, keys: int, queries: int, cold: bool, dtype: torch.dtype) -> None:
    q, k, v = inputs(1, queries, keys, dtype)
    flops = 4.0 * queries * keys * HEADS * DEPTH
    copies = math.ceil(2 * extension().cache_sizes()["l3"] / (2 * k.nbytes)) if cold else 1
    caches = cycle([(k, v), *((k.clone(), v.clone()) for _ in range(copies - 1))])
    name = title("attention cached cold" if cold else "attention cached", dtype, S=queries, L=keys)
    compare(
        benchmark,
        name,
        lambda: ops.attention(q, *next(caches)),
        {"sdpa": lambda: sdpa(q, *next(caches))},
        dtype=dtype,
        bytes_moved=2.0 * (q.nbytes + k.nbytes),
        flops=flops,
        cold=cold,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["mask", "key_range", "cu_seqlens", "block_size"])
def test_masked(benchmark: Any, kind: str, dtype: torch.dtype) -> None:
    length, block = 1024, 32
    q, k, v = inputs(1, length, length, dtype)
    blocks = torch.arange(length) // block
    options: dict[str, Any] = {
        "mask": torch.ones(length, length, dtype=torch.bool),
        "key_range": torch.tensor([[0, length]]),
        "cu_seqlens": torch.arange(0, length + 1, 256),
        "block_size": block,
    }
    masks: dict[str, Tensor] = {
        "mask": options["mask"],
        "key_range": options["mask"],
        "cu_seqlens": torch.arange(length)[:, None] // 256 == torch.arange(length) // 256,
        "block_size": blocks[:, None] >= blocks,
    }
    kept = float(masks[kind].float().mean())
    flops = 4.0 * length * length * kept * HEADS * DEPTH
    rows = [x.reshape(4, length // 4, HEADS, DEPTH) for x in (q, k, v)]  # the work of cu_seqlens without a mask
    same_work = (lambda: ops.attention(*rows)) if kind == "cu_seqlens" else (lambda: ops.attention(q, k, v))
    name = title(f"attention {kind}", dtype, S=length)
    peers = {"sdpa": lambda: sdpa(q, k, v, masks[kind]), "unmasked": same_work}
    compare(
        benchmark,
        name,
        lambda: ops.attention(q, k, v, **{kind: options[kind]}),
        peers,
        dtype=dtype,
        bytes_moved=4.0 * q.nbytes,
        flops=flops,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_padded_batch(benchmark: Any, dtype: torch.dtype) -> None:
    length, starts = 256, torch.tensor([0, 64, 128, 192])
    q, k, v = inputs(4, length, length, dtype)
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
