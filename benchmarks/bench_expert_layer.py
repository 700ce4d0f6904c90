"""expert_layer in every format against the ops that it is made of and the same in plain PyTorch.

The 7B's layer with half its experts, to fit small machines. Two layers take turns, so that no weight is still in the
cache from the call before, as in a model. PyTorch has the weights plain, in the dtype of the stream; the quantised
formats are checked against it on the bf16 weights that they were rounded from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import cycle
from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from torch import Tensor

from .compare import compare, title

TOKENS = (1, 8, 32, 128, 512)
EXPERTS, SLOTS, HIDDEN, INTERMEDIATE = 32, 8, 2048, 1024
NORM: dict[str, Any] = {"eps": 1e-5}
# How far from PyTorch's result, relative to its root mean square.
TOLERANCE = {"bf16": 0.02, "fp32": 1e-4, "int8": 0.05, "int4": 0.25}
OPS = (ops.add_rms_norm, ops.router, ops.moe_mlp)
PYTORCH = (ops.add_rms_norm_reference, ops.router_reference, ops.moe_mlp_reference)

Plain = tuple[Tensor, Tensor, Tensor]
"""The router's weight, gate_up_proj, down_proj."""


@lru_cache(maxsize=1)
def plain_layers(dtype: torch.dtype) -> list[Plain]:
    """Two layers: the same experts, in reverse order in the second."""
    gate = torch.empty(EXPERTS, HIDDEN).normal_(0, HIDDEN**-0.5)
    gate_up_proj = torch.empty(EXPERTS, 2 * INTERMEDIATE, HIDDEN, dtype=dtype).normal_(0, HIDDEN**-0.5)
    down_proj = torch.empty(EXPERTS, HIDDEN, INTERMEDIATE, dtype=dtype).normal_(0, INTERMEDIATE**-0.5)
    first = (gate.to(dtype), gate_up_proj, down_proj)
    return [first, (first[0].flip(0), first[1].flip(0), first[2].flip(0))]


@lru_cache(maxsize=1)
def packed_layers(format: str) -> list[tuple[Tensor, ops.PackedExperts]]:
    """The same two packed."""
    plain = plain_layers(torch.float32 if format == "fp32" else torch.bfloat16)
    return [(gate, ops.pack_experts(gate_up_proj, down_proj, format)) for gate, gate_up_proj, down_proj in plain]


def half_layer(
    parts: tuple[Callable[..., Any], ...], stream: tuple[Tensor, ...], gate: Tensor, *experts: Any
) -> tuple[Tensor, Tensor]:
    """What expert_layer computes, by a norm, a choice and the experts."""
    add_rms_norm, router, moe_mlp = parts
    normed, total = add_rms_norm(*stream, **NORM)
    weights, chosen = router(normed, gate, SLOTS)
    return moe_mlp(normed, weights.to(normed.dtype), chosen, *experts), total


@pytest.mark.parametrize("format", TOLERANCE)
def test_expert_layer(benchmark: Any, format: str, tokens: int) -> None:
    packed = packed_layers(format)
    dtype = packed[0][0].dtype
    update, residual = (torch.randn(tokens, HIDDEN).to(dtype) for _ in range(2))
    stream = (update, residual, torch.ones(HIDDEN, dtype=dtype))
    turns, plain_turns = cycle(packed), cycle(plain_layers(dtype))
    normed, _ = ops.add_rms_norm(*stream, **NORM)
    used = len(ops.router(normed, packed[0][0], SLOTS)[1].unique()) / EXPERTS
    compare(
        benchmark,
        title("expert_layer", format, T=tokens),
        lambda: ops.expert_layer(*stream, *next(turns), SLOTS, **NORM),
        {
            "PyTorch": lambda: half_layer(PYTORCH, stream, *next(plain_turns)),
            "single ops": lambda: half_layer(OPS, stream, *next(turns)),
        },
        dtype=format if format.startswith("int") else dtype,
        bytes_moved=4.0 * update.nbytes + packed[0][0].nbytes + used * packed[0][1].nbytes,
        flops=tokens * HIDDEN * (6.0 * SLOTS * INTERMEDIATE + 2.0 * EXPERTS),
        cold=True,
        tolerance=TOLERANCE[format],
    )
