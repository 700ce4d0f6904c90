"""attention_layer in every format against the ops that it is made of and the same in plain PyTorch, the 7B's sizes.

So many layers take turns that no weight is still in the cache from its turn before. PyTorch has the weights plain, in
the dtype of the stream; the quantised formats are checked against it on the bf16 weights that they were rounded from.
Operations count at the peak of the projections, although attention's own are never in integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import cycle
from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from llada_moe_ops.machine import extension
from torch import Tensor
from torch.nn import functional

from .compare import compare, title

TOKENS = (1, 8, 32, 128, 512)
HIDDEN, HEADS, DEPTH = 2048, 16, 128
NORM: dict[str, Any] = {"eps": 1e-5}
ROPE: dict[str, Any] = {"theta": 50000.0, "rotary_dim": DEPTH, **NORM}
# How far from PyTorch's result, relative to its root mean square.
TOLERANCE = {"bf16": 0.02, "fp32": 1e-4, "int8": 0.05, "int4": 0.25}
OPS = (ops.add_rms_norm, ops.linear, ops.qk_norm_rope, ops.attention)
PYTORCH = (ops.add_rms_norm_reference, functional.linear, ops.qk_norm_rope_reference, ops.attention_reference)

Projections = tuple[Any, Any]
"""Queries, keys and values in one; output."""


@lru_cache(maxsize=1)
def cold_layers(format: str) -> tuple[list[Projections], list[Projections]]:
    """Copies of a layer, packed and plain: more than the caches hold."""
    dtype = torch.float32 if format == "fp32" else torch.bfloat16
    shapes = ((3 * HEADS * DEPTH, HIDDEN), (HIDDEN, HEADS * DEPTH))
    plain = [torch.empty(shape).normal_(0, shape[1] ** -0.5).to(dtype) for shape in shapes]
    layer_bytes = sum(ops.pack_linear(weight, format).nbytes for weight in plain)
    copies = max(2, math.ceil(2 * extension().cache_sizes()["l3"] / layer_bytes))
    packed = [(ops.pack_linear(plain[0], format), ops.pack_linear(plain[1], format)) for _ in range(copies)]
    return packed, [(plain[0].clone(), plain[1].clone()) for _ in range(2)]


def half_layer(
    parts: tuple[Callable[..., Any], ...], stream: tuple[Tensor, ...], qkv: Any, out: Any, head: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """What attention_layer computes, by a norm, a projection, a rotation and an attention."""
    add_rms_norm, linear, qk_norm_rope, attention = parts
    normed, total = add_rms_norm(*stream, **NORM)
    q, k, v = linear(normed, qkv).unflatten(-1, (-1, DEPTH)).chunk(3, 2)
    q, k = qk_norm_rope(q, k, head, head, places, **ROPE)
    return linear(attention(q, k, v).flatten(2), out), total


@pytest.mark.parametrize("format", TOLERANCE)
def test_attention_layer(benchmark: Any, tokens: int, format: str) -> None:
    packed, plain = cold_layers(format)
    dtype = plain[0][0].dtype
    update, residual = (torch.randn(1, tokens, HIDDEN).to(dtype) for _ in range(2))
    stream, head = (update, residual, torch.ones(HIDDEN, dtype=dtype)), torch.ones(DEPTH, dtype=dtype)
    places = torch.arange(tokens)[None]
    options: dict[str, Any] = {"heads": HEADS, "key_heads": HEADS, "q_weight": head, "k_weight": head, **ROPE}
    turns, plain_turns = cycle(packed), cycle(plain)
    compare(
        benchmark,
        title("attention_layer", format, T=tokens),
        lambda: ops.attention_layer(*stream, *next(turns), places, **options),
        {
            "PyTorch": lambda: half_layer(PYTORCH, stream, *next(plain_turns), head, places),
            "single ops": lambda: half_layer(OPS, stream, *next(turns), head, places),
        },
        dtype=format if format.startswith("int") else dtype,
        bytes_moved=4.0 * update.nbytes + sum(weight.nbytes for weight in packed[0]),
        flops=8.0 * tokens * HIDDEN * HEADS * DEPTH + 4.0 * tokens * tokens * HEADS * DEPTH,
        cold=True,
        tolerance=TOLERANCE[format],
    )
