"""Cases of the expert layer: the whole of it, with experts in bytes as well, and its two products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from llada_moe_ops import ops
from torch import Tensor
from torch.nn import functional

from .case import OURS, Case, Geometry, Run

TOKENS = (64, 32, 2048, 8192, 128, 512, 1, 8)  # those with targets first
PRODUCT_TOKENS = (64, 2048)
LOOP, GROUPED = "expert loop", "torch._grouped_mm"
DENSE = "dense cuBLAS, same bytes and flops"
INT8_TOKENS = (64, 32)
BF16 = "ours, bf16"


def choose(geometry: Geometry, tokens: int) -> Tensor:
    """[T, k] int32: distinct experts, uniformly random."""
    scores = torch.rand(tokens, geometry.experts, device=geometry.device)
    return scores.argsort(1)[:, : geometry.slots].int().contiguous()


def sort_by_expert(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """(assignments by expert, the end of each expert's), in torch's own ops and without waiting for the device."""
    chosen, order = experts.flatten().sort(stable=True)
    each = torch.arange(num_experts, dtype=experts.dtype, device=experts.device)
    return order, torch.searchsorted(chosen, each, right=True).int()


def grouped_mm(x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
    """The layer by torch's grouped product."""
    order, ends = sort_by_expert(experts, len(down_proj))
    slots = experts.shape[1]
    hidden = _swiglu(torch._grouped_mm(x[order // slots], gate_up_proj.mT, offs=ends))
    rows = torch._grouped_mm(hidden, down_proj.mT, offs=ends)
    back = torch.empty_like(rows).index_copy_(0, order, rows).view(*experts.shape, -1)
    return (back * weights.unsqueeze(-1)).sum(1).to(x.dtype)


def _swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def expert_loop(x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
    """The layer as model code usually has it: a loop over the experts that were chosen, each adding to its tokens."""
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in experts.unique().tolist():
        token, slot = (experts == expert).nonzero(as_tuple=True)
        rows = functional.linear(_swiglu(functional.linear(x[token], gate_up_proj[expert])), down_proj[expert])
        out.index_add_(0, token, rows * weights[token, slot].unsqueeze(-1))
    return out.to(x.dtype)


def dense(touched: int) -> Callable[..., Tensor]:
    """Batched products that read as many bytes and multiply as much: so many experts, evenly filled."""

    gathered: list[Tensor] = []  # made at the first call, which is not timed

    def run(x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
        if not gathered:
            rows = -(-experts.numel() // touched)
            gathered.append(x[:1].expand(touched, rows, x.shape[1]).contiguous())
        hidden = torch.bmm(gathered[0], gate_up_proj[:touched].mT)
        return torch.bmm(hidden[..., : down_proj.shape[2]], down_proj[:touched].mT)

    return run


def triton_variants(tokens: int, geometry: Geometry) -> tuple[Mapping[str, Run], str | None]:
    """The Triton kernel with each tile worth trying, or why it is absent."""
    try:
        from ..peers.triton_experts import candidates, fused_experts
    except ImportError as error:
        return {}, str(error)

    def with_tiles(tiles: object) -> Run:
        return lambda *layer: fused_experts(*layer, tiles)

    tried = candidates(tokens, geometry.slots, geometry.experts)
    return {f"{tile.rows}x{tile.columns}x{tile.depth}": with_tiles(tile) for tile in tried}, None


def weights_of(geometry: Geometry) -> tuple[Tensor, Tensor]:
    """gate_up_proj and down_proj of a layer."""
    experts, hidden, intermediate = geometry.experts, geometry.hidden, geometry.intermediate
    gate_up = geometry.random(experts, 2 * intermediate, hidden, scale=hidden**-0.5)
    return gate_up, geometry.random(experts, hidden, intermediate, scale=intermediate**-0.5)


def expected_experts(geometry: Geometry, tokens: int) -> float:
    """How many experts so many tokens touch, on average."""
    return geometry.experts * (1 - (1 - geometry.slots / geometry.experts) ** tokens)


def layer_case(geometry: Geometry, tokens: int) -> Case:
    """The whole layer."""
    hidden, size = geometry.hidden, geometry.dtype.itemsize

    def inputs() -> tuple[Tensor, ...]:
        weights = torch.rand(tokens, geometry.slots, device=geometry.device)
        return geometry.random(tokens, hidden), weights, choose(geometry, tokens), *weights_of(geometry)

    variants, absent = triton_variants(tokens, geometry)
    runs: dict[str, Callable[..., Tensor]] = {OURS: ops.moe_mlp, GROUPED: grouped_mm}
    if variants:
        runs["Triton"] = next(iter(variants.values()))
    touched = expected_experts(geometry, tokens)
    runs |= {LOOP: expert_loop, DENSE: dense(round(touched))}
    expert_bytes = 3 * geometry.intermediate * hidden * size
    return Case(
        "expert layer",
        f"T={tokens}",
        inputs,
        runs,
        LOOP,
        bytes_moved=touched * expert_bytes + 2 * tokens * hidden * size,
        flops=6.0 * tokens * geometry.slots * hidden * geometry.intermediate,
        variants={"Triton": variants} if variants else {},
        unchecked=(DENSE,),
        eager=(LOOP,),
        missing={} if absent is None else {"Triton": absent},
    )


def int8_case(geometry: Geometry, tokens: int) -> Case:
    """The whole layer on experts in bytes, beside ours on the bf16 weights that these were made of."""
    hidden, size = geometry.hidden, geometry.dtype.itemsize

    def inputs() -> tuple[Any, ...]:
        weights, experts = torch.rand(tokens, geometry.slots, device=geometry.device), choose(geometry, tokens)
        plain = weights_of(geometry)
        return geometry.random(tokens, hidden), weights, experts, *plain, ops.quantize_experts(*plain)

    touched = expected_experts(geometry, tokens)
    return Case(
        "expert layer, int8",
        f"T={tokens}",
        inputs,
        {
            OURS: lambda x, weights, experts, gate_up, down, packed: ops.moe_mlp(x, weights, experts, packed),
            BF16: lambda x, weights, experts, gate_up, down, packed: ops.moe_mlp(x, weights, experts, gate_up, down),
        },
        BF16,
        bytes_moved=touched * 3 * geometry.intermediate * hidden + 2 * tokens * hidden * size,
        flops=6.0 * tokens * geometry.slots * hidden * geometry.intermediate,
    )


def product_cases(geometry: Geometry, tokens: int) -> Iterator[Case]:
    """Gate and up with SwiGLU, and down, on rows that are sorted by expert."""
    hidden, intermediate, size = geometry.hidden, geometry.intermediate, geometry.dtype.itemsize
    rows = tokens * geometry.slots

    def inputs(columns: int, which: int) -> tuple[Tensor, ...]:
        ends = sort_by_expert(choose(geometry, tokens), geometry.experts)[1]
        return geometry.random(rows, columns), weights_of(geometry)[which], functional.pad(ends, (1, 0)).int()

    touched = expected_experts(geometry, tokens)
    yield Case(
        "gate and up product, SwiGLU",
        f"T={tokens}",
        lambda: inputs(hidden, 0),
        {
            OURS: ops.grouped_swiglu,
            GROUPED: lambda x, w, o: _swiglu(torch._grouped_mm(x, w.mT, offs=o[1:])),
        },
        GROUPED,
        bytes_moved=(touched * 2 * intermediate * hidden + rows * (hidden + intermediate)) * size,
        flops=4.0 * rows * hidden * intermediate,
    )
    yield Case(
        "down product",
        f"T={tokens}",
        lambda: inputs(intermediate, 1),
        {OURS: ops.grouped_gemm, GROUPED: lambda x, w, o: torch._grouped_mm(x, w.mT, offs=o[1:])},
        GROUPED,
        bytes_moved=(touched * intermediate * hidden + rows * (hidden + intermediate)) * size,
        flops=2.0 * rows * hidden * intermediate,
    )


def cases(geometry: Geometry) -> Iterator[Case]:
    """The layer at each number of tokens, in bytes at some, then its products."""
    for tokens in TOKENS:
        yield layer_case(geometry, tokens)
    for tokens in INT8_TOKENS:
        yield int8_case(geometry, tokens)
    for tokens in PRODUCT_TOKENS:
        yield from product_cases(geometry, tokens)
