"""Fused experts in Triton in the usual style, written for this comparison: assignments sorted by expert and padded to
blocks of rows, one grouped product for gate and up, SwiGLU, one for down with the routing weights, and a sum.

    align      experts [T, k] -> assignment of each padded row, expert of each block, padded rows
    product    C[row] = A[token of row] · W[expert of row's block]ᵀ       64 x 64 experts in one launch
    activate   silu(gate) · up
    product    … · down, times the routing weight
    sum        over a token's k rows

All sizes stay on the device: blocks past the last padded row end at once, so the whole can be captured in a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """The tile of a product, and how it is run."""

    rows: int
    columns: int
    depth: int
    group: int
    warps: int
    stages: int


def candidates(tokens: int, slots: int, experts: int) -> list[Tiles]:
    """Tiles worth trying at so many tokens; a table of tuned ones would have one of these for each size."""
    per_expert = tokens * slots / experts
    if per_expert <= 16:
        return [Tiles(16, 128, 64, 1, 4, 4), Tiles(16, 64, 128, 1, 4, 4), Tiles(16, 128, 128, 1, 8, 3)]
    if per_expert <= 64:
        return [Tiles(32, 128, 64, 8, 4, 4), Tiles(64, 128, 64, 8, 4, 4), Tiles(64, 64, 128, 8, 4, 3)]
    return [Tiles(64, 128, 64, 8, 4, 4), Tiles(128, 128, 64, 8, 8, 3), Tiles(128, 256, 64, 8, 8, 3)]


@triton.jit
def _count(experts, counts, assignments, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(experts + at, mask=at < assignments, other=0)
    tl.atomic_add(counts + expert, 1, mask=at < assignments)


@triton.jit
def _starts(
    counts, starts, block_experts, rows_padded, num_experts, blocks, ROWS: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    expert = tl.arange(0, EXPERTS)
    count = tl.load(counts + expert, mask=expert < num_experts, other=0)
    padded = (count + ROWS - 1) // ROWS * ROWS
    end = tl.cumsum(padded, 0)
    tl.store(starts + expert, end - padded, mask=expert < num_experts)
    tl.store(rows_padded, tl.sum(padded, 0))
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        owner = tl.sum((end[None, :] <= block[:, None] * ROWS).to(tl.int32), 1)
        tl.store(block_experts + block, tl.minimum(owner, num_experts - 1), mask=block < blocks)


@triton.jit
def _place(experts, starts, taken, rows, assignments, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < assignments
    expert = tl.load(experts + at, mask=inside, other=0)
    rank = tl.atomic_add(taken + expert, 1, mask=inside)
    tl.store(rows + tl.load(starts + expert, mask=inside, other=0) + rank, at, mask=inside)


@triton.jit
def _product(
    a, w, c, weights, rows, block_experts, rows_padded, assignments, N, K, DIVIDE: tl.constexpr,
    WEIGHTED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(N, COLUMNS)
    program = tl.program_id(0)
    group = program // (GROUP * across)
    blocks = tl.num_programs(0) // across
    height = tl.minimum(blocks - group * GROUP, GROUP)
    block = group * GROUP + program % (GROUP * across) % height
    column = program % (GROUP * across) // height
    if block * ROWS >= tl.load(rows_padded):
        return
    row = tl.load(rows + block * ROWS + tl.arange(0, ROWS))
    real = row < assignments
    n = column * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    expert = tl.load(block_experts + block).to(tl.int64)
    left = a + (row // DIVIDE).to(tl.int64)[:, None] * K + k[None, :]
    right = w + expert * N * K + n[None, :] * K + k[:, None]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, K, DEPTH):
        deep = k < K - first
        x = tl.load(left + first, mask=real[:, None] & deep[None, :], other=0.0)
        y = tl.load(right + first, mask=deep[:, None] & (n < N)[None, :], other=0.0)
        total = tl.dot(x, y, total)
    if WEIGHTED:
        total *= tl.load(weights + row, mask=real, other=0.0)[:, None]
    tl.store(c + row.to(tl.int64)[:, None] * N + n[None, :], total.to(c.dtype.element_ty), mask=real[:, None] & (n < N))


@triton.jit
def _activate(gate_up, out, size, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up + row * 2 * size + i, mask=i < size, other=0.0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * size + i, mask=i < size, other=0.0).to(tl.float32)
    tl.store(out + row * size + i, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=i < size)


@triton.jit
def _sum(parts, out, H, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    token, h = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for slot in range(SLOTS):
        total += tl.load(parts + (token * SLOTS + slot) * H + h, mask=h < H, other=0.0).to(tl.float32)
    tl.store(out + token * H + h, total.to(out.dtype.element_ty), mask=h < H)


def align(experts: Tensor, num_experts: int, rows_of_block: int) -> tuple[Tensor, Tensor, Tensor]:
    """(assignment of each padded row or T·k for none, expert of each block of rows, number of padded rows)."""
    assignments, device = experts.numel(), experts.device
    most = assignments + min(num_experts, assignments) * (rows_of_block - 1)
    blocks = triton.cdiv(most, rows_of_block)
    rows = torch.full((blocks * rows_of_block,), assignments, dtype=torch.int32, device=device)
    counters = torch.zeros(2, num_experts, dtype=torch.int32, device=device)
    starts = torch.empty(num_experts, dtype=torch.int32, device=device)
    block_experts = torch.empty(blocks, dtype=torch.int32, device=device)
    rows_padded = torch.empty(1, dtype=torch.int32, device=device)
    grid = (triton.cdiv(assignments, 256),)
    flat = experts.reshape(-1)
    _count[grid](flat, counters[0], assignments, BLOCK=256)
    _starts[(1,)](
        counters[0], starts, block_experts, rows_padded, num_experts, blocks, ROWS=rows_of_block,
        EXPERTS=triton.next_power_of_2(num_experts), BLOCKS=64,
    )  # fmt: skip
    _place[grid](flat, starts, counters[1], rows, assignments, BLOCK=256)
    return rows, block_experts, rows_padded


def fused_experts(
    x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor, tiles: Tiles
) -> Tensor:
    """As :func:`llada_moe_ops.ops.moe_mlp`, without "not mine"; weights float32."""
    tokens, slots = experts.shape
    num_experts, hidden, intermediate = down_proj.shape
    rows, block_experts, rows_padded = align(experts, num_experts, tiles.rows)
    assignments = tokens * slots

    def product(a: Tensor, w: Tensor, divide: int, weighted: bool) -> Tensor:
        out = torch.empty(assignments, w.shape[1], dtype=x.dtype, device=x.device)
        programs = block_experts.numel() * triton.cdiv(w.shape[1], tiles.columns)
        _product[(programs,)](
            a, w, out, weights, rows, block_experts, rows_padded, assignments, w.shape[1], w.shape[2], DIVIDE=divide,
            WEIGHTED=weighted, ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, GROUP=tiles.group,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
        return out

    gate_up = product(x, gate_up_proj, slots, False)
    activated = torch.empty(assignments, intermediate, dtype=x.dtype, device=x.device)
    _activate[(assignments, triton.cdiv(intermediate, 1024))](gate_up, activated, intermediate, BLOCK=1024)
    parts = product(activated, down_proj, 1, True)
    out = torch.empty(tokens, hidden, dtype=x.dtype, device=x.device)
    _sum[(tokens, triton.cdiv(hidden, 1024))](parts, out, hidden, SLOTS=slots, BLOCK=1024)
    return out
