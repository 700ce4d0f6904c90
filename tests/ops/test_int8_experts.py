"""Experts in bytes for GPUs: what the bytes stand for, and the kernels in the emulator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from torch import Tensor
from torch.nn import functional

from tests import cases
from tests.emulated import PATHS, SEEDS, emulated, emulated_ops, needs_emulator

from .budget import DTYPES, assert_within_budget, assert_within_budget_or_zero

# CUDA's tiles: 32 rows (sm80) or 64 (sm90a), 128 weight rows (64 pairs), 128 of K, three or six stages.
LAYERS = (
    (0, 2, 4, 16, 8),
    (1, 1, 1, 1, 1),
    (1, 2, 3, 8, 17),
    (13, 2, 4, 33, 16),
    (21, 3, 5, 64, 31),
    (31, 1, 1, 130, 64),
    (33, 1, 1, 520, 65),
    (65, 1, 1, 136, 64),
    (9, 8, 8, 256, 129),
)
HALVES = (torch.bfloat16, torch.float16)


def layer(shape: tuple[int, ...], choice: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, ops.Int8Experts]:
    x, weights, experts, gate_up_proj, down_proj = cases.expert_layer(shape, choice, dtype)
    return x, weights, experts, ops.quantize_experts(gate_up_proj.float(), down_proj.float())


def kernel(seed: int, x: Tensor, weights: Tensor, experts: Tensor, int8: ops.Int8Experts) -> Tensor:
    y: Tensor = emulated_ops(seed).moe_mlp_int8(
        x, weights, experts, int8.gate_up, int8.gate_up_scale, int8.down, int8.down_scale
    )
    return y


def in_float64(x: Tensor, weights: Tensor, experts: Tensor, int8: ops.Int8Experts) -> Tensor:
    gate_up_proj, down_proj = (weight.double() for weight in int8.unpack())
    y = torch.zeros_like(x, dtype=torch.float64)
    for expert in range(int8.num_experts):
        weight = (weights.double() * (experts == expert)).sum(-1, keepdim=True)
        gate, up = (x.double() @ gate_up_proj[expert].T).chunk(2, -1)
        y += weight * ((functional.silu(gate) * up) @ down_proj[expert].T)
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1), (17, 5), (16, 33), (40, 64)])
def test_a_byte_is_within_half_a_step(sizes: tuple[int, int], dtype: torch.dtype) -> None:
    hidden, intermediate = sizes
    gate_up_proj = cases.random(3, 2 * intermediate, hidden, dtype=dtype, seed=1)
    gate_up_proj[1, 0] = 0
    down_proj = cases.random(3, hidden, intermediate, dtype=dtype, seed=2)
    int8 = ops.quantize_experts(gate_up_proj, down_proj)
    for weight, got in zip((gate_up_proj, down_proj), int8.unpack(), strict=True):
        step = weight.float().abs().amax(-1, keepdim=True) / 127
        assert got.shape == weight.shape
        assert ((got - weight.float()).abs() <= step * 0.5001).all()
    assert int8.gate_up.shape == (3, 2 * intermediate, -(-hidden // 16) * 16)
    assert int8.nbytes == int8.gate_up.numel() + int8.down.numel() + 4 * 3 * (2 * intermediate + hidden)


def test_the_order_of_bytes() -> None:
    row = torch.arange(1.0, 33.0)
    row[31] = 127.0
    int8 = ops.quantize_experts(row.expand(1, 2, 32).contiguous(), torch.ones(1, 32, 1))
    expected = [1, 2, 9, 10, 3, 4, 11, 12, 5, 6, 13, 14, 7, 8, 15, 16]
    assert int8.gate_up[0, 0, :16].tolist() == expected
    assert int8.gate_up[0, 0, 16:].tolist() == [127 if k == 16 else k + 16 for k in expected]


@pytest.mark.parametrize("dtype", DTYPES)
def test_on_the_cpu_the_reference_runs(dtype: torch.dtype) -> None:
    arguments = layer((13, 2, 4, 33, 16), "not_mine", dtype)
    y = ops.moe_mlp(*arguments)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), in_float64(*arguments), rtol=0.02, atol=0.02)


def test_meta() -> None:
    x, weights, experts, int8 = layer((13, 2, 4, 33, 16), "random", torch.bfloat16)
    parts = (int8.gate_up, int8.gate_up_scale, int8.down, int8.down_scale)
    on_meta = ops.Int8Experts(*(part.to("meta") for part in parts), 33, 16)
    assert ops.moe_mlp(x.to("meta"), weights.to("meta"), experts.to("meta"), on_meta).shape == (13, 33)


@needs_emulator
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", LAYERS)
def test_cuda_stays_within_the_budget(shape: tuple[int, ...], path: str, seed: int) -> None:
    for choice in cases.EXPERT_CHOICES[seed % 3 :: 3]:
        arguments = layer(shape, choice, HALVES[seed // 4])
        with emulated(seed, path):
            y = kernel(seed, *arguments)
        assert_within_budget_or_zero(y, ops.moe_mlp_reference(*arguments), in_float64(*arguments))


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", HALVES)
def test_cuda_gives_a_token_the_same_bits_alone_and_in_any_order_of_threads(dtype: torch.dtype, path: str) -> None:
    x, weights, experts, int8 = layer((70, 3, 5, 264, 136), "not_mine", dtype)
    experts[:, 0] = 3  # more of one expert than a tile has rows
    with emulated(0, path):
        whole = kernel(0, x, weights, experts, int8)
    for seed in SEEDS:
        rows = slice(8 * seed, 8 * seed + 1 + seed % 3)
        with emulated(seed, path):
            assert torch.equal(kernel(seed, x[rows], weights[rows], experts[rows], int8), whole[rows])
    wide = torch.zeros(70, 296).to(dtype)
    wide[:, 8:272] = x
    with emulated(3, path):
        assert torch.equal(kernel(3, wide[:, 8:272], weights, experts, int8), whole)
        wide[:, 5:269] = x  # not aligned to 16 bytes: the first product is sm80's
        assert_within_budget(kernel(3, wide[:, 5:269], weights, experts, int8), whole, whole.double())


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
def test_cuda_takes_more_rows_than_a_block_sorts_for_itself(path: str) -> None:
    x, weights, experts, int8 = layer((130, 8, 4, 32, 16), "not_mine", torch.bfloat16)
    with emulated(1, path):
        whole = kernel(1, x, weights, experts, int8)
        assert torch.equal(kernel(1, x[:128], weights[:128], experts[:128], int8), whole[:128])


X, WEIGHTS, EXPERTS, INT8 = layer((5, 2, 3, 20, 8), "random", torch.bfloat16)


@needs_emulator
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: X.float()}, "x must be bfloat16 or float16, got float32"),
        ({3: INT8.gate_up[:, :, :20]}, r"gate_up must have shape \[3, 16, 32\], got \[3, 16, 20\]"),
        ({3: INT8.gate_up.float()}, "gate_up must be int8, got float32"),
        ({4: INT8.gate_up_scale[:, :8]}, r"gate_up_scale must have shape \[3, 16\], got \[3, 8\]"),
        ({5: INT8.down[:2]}, r"down must have shape \[3, 20, 16\], got \[2, 20, 16\]"),
        ({6: INT8.down_scale.double()}, "down_scale must be float32, got float64"),
    ],
)
def test_cuda_checks_too(changes: dict[int, Any], message: str) -> None:
    arguments = (X, WEIGHTS, EXPERTS, INT8.gate_up, INT8.gate_up_scale, INT8.down, INT8.down_scale)
    with pytest.raises(RuntimeError, match=f"moe_mlp: {message}"):
        emulated_ops().moe_mlp_int8(*(changes.get(i, value) for i, value in enumerate(arguments)))


def test_errors() -> None:
    with pytest.raises(ValueError, match="gate_up_proj must be of an even second size"):
        ops.quantize_experts(torch.zeros(2, 5, 8), torch.zeros(2, 8, 2))
    with pytest.raises(ValueError, match=r"down_proj must have shape \[2, 8, 3\], got \[2, 8, 2\]"):
        ops.quantize_experts(torch.zeros(2, 6, 8), torch.zeros(2, 8, 2))
    with pytest.raises(TypeError, match="down_proj must be float32, got bfloat16"):
        ops.quantize_experts(torch.zeros(2, 6, 8), torch.zeros(2, 8, 3).bfloat16())
    with pytest.raises(ValueError, match="down_proj must be absent when the experts are packed"):
        ops.moe_mlp(X, WEIGHTS, EXPERTS, INT8, torch.zeros(3, 20, 8))
    with pytest.raises(ValueError, match=r"x must be \[T, 20\], got \[5, 19\]"):
        ops.moe_mlp(X[:, :19], WEIGHTS, EXPERTS, INT8)
