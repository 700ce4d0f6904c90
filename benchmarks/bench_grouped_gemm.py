"""grouped_gemm and grouped_swiglu on packed weights in every format, against a loop of torch products and _grouped_mm.

The two halves of the 7B's expert layer, rows sorted by expert, eight experts a token. Two layers' weights take turns,
so that none is in a cache from its turn before. "plain weights" is our op on the tensors as they are. PyTorch has no
grouped product of int8 or int4 weights on the CPU: there, the peers are the loop and _grouped_mm on the bf16 weights
that ours were rounded from.
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
from torch.nn import functional

from .compare import compare, title

EXPERTS, SLOTS = 32, 8  # half of the 7B's experts, to fit small machines
SIZES = {"grouped_gemm": (1024, 2048), "grouped_swiglu": (2048, 2048)}  # (K, N): down; gate and up
TOKENS = (8, 32, 128, 512)
# How far from the first peer, relative to the result's root mean square.
TOLERANCE = {"fp32": 1e-5, "bf16": 0.01, "int8": 0.03, "int4": 0.25}
LOOP = "loop over experts"

Product = Callable[[Tensor, Any, Tensor], Tensor]


def grouped_mm(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """What transformers calls."""
    return torch._grouped_mm(x, weight.mT, offs=offsets[1:])


def grouped_mm_swiglu(x: Tensor, gate_up_proj: Tensor, offsets: Tensor) -> Tensor:
    """The same with SwiGLU behind it."""
    gate, up = grouped_mm(x, gate_up_proj, offsets).chunk(2, dim=-1)
    return functional.silu(gate) * up


PRODUCTS: dict[str, tuple[Product, Product, Product]] = {
    "grouped_gemm": (ops.grouped_gemm, ops.grouped_gemm_reference, grouped_mm),
    "grouped_swiglu": (ops.grouped_swiglu, ops.grouped_swiglu_reference, grouped_mm_swiglu),
}


def pack(op: str, weight: Tensor, format: str) -> ops.PackedGroups | ops.PackedExperts:
    """As the op takes it: grouped_swiglu reads its part of whole experts."""
    if op == "grouped_gemm":
        return ops.pack_grouped(weight, format)
    experts, rows, hidden = weight.shape
    return ops.pack_experts(weight, weight.new_zeros(experts, hidden, rows // 2), format)


@lru_cache(maxsize=1)
def two_layers(op: str, format: str) -> tuple[list[Tensor], list[Any]]:
    """Plain and packed."""
    k, n = SIZES[op]
    dtype = torch.float32 if format == "fp32" else torch.bfloat16
    plain = [torch.empty(EXPERTS, n, k).normal_(0, k**-0.5).to(dtype) for _ in range(2)]
    return plain, [pack(op, weight, format) for weight in plain]


def panel_bytes(packed: ops.PackedGroups | ops.PackedExperts) -> int:
    """Of the weights that the op reads."""
    return packed.gate_up.nbytes if isinstance(packed, ops.PackedExperts) else packed.nbytes


@pytest.mark.parametrize("format", TOLERANCE)
@pytest.mark.parametrize("op", SIZES)
def test_grouped(benchmark: Any, op: str, format: str, tokens: int) -> None:
    k, n = SIZES[op]
    plain, packed = two_layers(op, format)
    chosen = torch.rand(tokens, EXPERTS).topk(SLOTS).indices
    _, offsets = ops.expert_order(chosen, EXPERTS)
    x = torch.randn(tokens * SLOTS, k).to(plain[0].dtype)

    def run(product: Product, layers: list[Any]) -> Callable[[], Tensor]:
        turns = cycle(layers)
        return lambda: product(x, next(turns), offsets)

    kernel, loop, torch_grouped = PRODUCTS[op]
    ours = run(kernel, packed)
    peers = {LOOP: run(loop, plain), "_grouped_mm": run(torch_grouped, plain)}
    if format in ("fp32", "bf16"):
        peers["plain weights"] = run(kernel, plain)
    used = len(chosen.unique()) / EXPERTS
    compare(
        benchmark,
        title(op, format, T=tokens, E=EXPERTS, k=SLOTS, K=k, N=n),
        ours,
        peers,
        dtype=format if format.startswith("int") else x.dtype,
        bytes_moved=x.nbytes + used * panel_bytes(packed[0]) + kernel(x, packed[0], offsets).nbytes,
        flops=2.0 * tokens * SLOTS * k * n,
        cold=True,
        tolerance=TOLERANCE[format],
    )
