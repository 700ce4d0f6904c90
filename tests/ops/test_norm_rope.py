"""rms_norm, add_rms_norm, qk_norm_rope: within the budget; in bf16 they round where the published code rounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops.machine import extension
from llada_moe_ops.ops.norm_rope import (
    add_rms_norm,
    add_rms_norm_reference,
    qk_norm_rope,
    qk_norm_rope_reference,
    rms_norm,
    rms_norm_reference,
    rope_frequencies,
)
from torch import Tensor

from ..emulated import SEEDS, emulated_ops, needs_emulator
from .budget import DTYPES, assert_within_budget, threads

EPS = 1e-5
# The last five are a CUDA block's round in fp32 and in bf16, and one to either side.
SHAPES = [
    (1, 1),
    (3, 15),
    (5, 16),
    (7, 17),
    (33, 64),
    (2, 3, 2048),
    (1, 1023),
    (2, 1025),
    (1, 2047),
    (2, 2049),
    (1, 4100),
]
ROPE: dict[str, Any] = {"theta": 50000.0, "rotary_dim": 32, "eps": EPS}


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact_norm(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.double()
    return wide / (wide.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()


def heads(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, length, q_heads, k_heads, depth = shape
    q = random(batch, length, q_heads, depth, dtype=dtype)
    k = random(batch, length, k_heads, depth, dtype=dtype, seed=1)
    positions = torch.randint(0, 8192, (batch, length), generator=torch.Generator().manual_seed(2))
    return q, k, random(depth, dtype=dtype, seed=3) + 1, random(depth, dtype=dtype, seed=4) + 1, positions


def exact_rope(x: Tensor, weight: Tensor | None, positions: Tensor, rotary_dim: int, clip: float | None) -> Tensor:
    x = x.double() if weight is None else exact_norm(x, weight)
    if clip is not None:
        x = x.clamp(-clip, clip)
    # The published angles are fp32 products: they are part of the definition.
    angles = (positions.float()[..., None] * rope_frequencies(50000.0, rotary_dim, x.device)).double()[:, :, None]
    first, second = x[..., :rotary_dim].chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    turned = [first * cos - second * sin, second * cos + first * sin, x[..., rotary_dim:]]
    return torch.cat(turned, dim=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_stay_within_the_budget(kernels: object, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, residual, weight = (
        random(*shape, dtype=dtype),
        random(*shape, dtype=dtype, seed=1),
        random(shape[-1], dtype=dtype),
    )
    assert_within_budget(rms_norm(x, weight, EPS), rms_norm_reference(x, weight, EPS), exact_norm(x, weight))
    out, total = add_rms_norm(x, residual, weight, EPS)
    eager, expected = add_rms_norm_reference(x, residual, weight, EPS)
    assert torch.equal(total, expected)
    assert_within_budget(out, eager, exact_norm(x.double() + residual.double(), weight))


@pytest.mark.parametrize("options", [{}, {"clip": 0.9}, {"rotary_dim": 16}, {"rotary_dim": 0}, {"bare": True}])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 32), (2, 5, 4, 2, 33), (1, 19, 3, 1, 128)])
def test_qk_norm_rope_stays_within_the_budget(
    kernels: object, shape: tuple[int, ...], dtype: torch.dtype, options: dict[str, Any]
) -> None:
    q, k, q_weight, k_weight, positions = heads(shape, dtype)
    weights = (None, None) if options.get("bare") else (q_weight, k_weight)
    keywords = {**ROPE, **{name: value for name, value in options.items() if name != "bare"}}
    ours = qk_norm_rope(q, k, *weights, positions, **keywords)
    eager = qk_norm_rope_reference(q, k, *weights, positions, **keywords)
    for x, weight, mine, reference in zip((q, k), weights, ours, eager, strict=True):
        exact = exact_rope(x, weight, positions, keywords["rotary_dim"], keywords.get("clip"))
        assert_within_budget(mine, reference, exact)
        assert mine.is_contiguous()


def test_bf16_rounds_where_the_published_code_rounds(kernels: object) -> None:
    q, k, q_weight, k_weight, positions = heads((2, 50, 4, 2, 64), torch.bfloat16)
    ours = qk_norm_rope(q, k, q_weight, k_weight, positions, **ROPE, clip=1.5)
    eager = qk_norm_rope_reference(q, k, q_weight, k_weight, positions, **ROPE, clip=1.5)
    for mine, reference in zip(ours, eager, strict=True):
        assert (mine != reference).float().mean() < 1e-3


@pytest.mark.parametrize("position", [0, 1, 4095, 8191, 100_000, 2**24])
def test_angles_at_large_positions(kernels: object, position: int) -> None:
    q = torch.ones(1, 1, 1, 64)
    positions = torch.tensor([[position]])
    ours, _ = qk_norm_rope(q, q, None, None, positions, theta=10000.0, rotary_dim=64, eps=EPS)
    reference, _ = qk_norm_rope_reference(q, q, None, None, positions, theta=10000.0, rotary_dim=64, eps=EPS)
    assert (ours - reference).abs().max() < 4e-7


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_alone_gives_the_same_bits(kernels: object, dtype: torch.dtype) -> None:
    x, weight = random(40, 70, dtype=dtype), random(70, dtype=dtype)
    whole = rms_norm(x, weight, EPS)
    assert torch.equal(rms_norm(x[17:18], weight, EPS), whole[17:18])
    q, k, q_weight, k_weight, positions = heads((2, 30, 2, 2, 32), dtype)
    with threads(1):
        one = qk_norm_rope(q, k, q_weight, k_weight, positions, **ROPE)
    with threads(2):
        two = qk_norm_rope(q, k, q_weight, k_weight, positions, **ROPE)
    part = qk_norm_rope(q[1:, 7:9], k[1:, 7:9], q_weight, k_weight, positions[1:, 7:9], **ROPE)
    for first, second, alone in zip(one, two, part, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(alone, first[1:, 7:9])


def test_reads_views_of_a_fused_buffer_in_place(kernels: object) -> None:
    fused = random(2, 6, 5, 32)
    q, k = fused[:, :, :3], fused[:, :, 3:]
    positions = torch.arange(6).expand(2, 6)
    ours = qk_norm_rope(q, k, None, None, positions, **ROPE)
    copied = qk_norm_rope(q.contiguous(), k.contiguous(), None, None, positions.contiguous().int(), **ROPE)
    for mine, other in zip(ours, copied, strict=True):
        assert torch.equal(mine, other)


def test_nan_passes(kernels: object) -> None:
    q = torch.ones(1, 1, 2, 32)
    q[0, 0, 1, 3] = torch.nan
    out, _ = qk_norm_rope(q, q, None, None, torch.zeros(1, 1, dtype=torch.long), **ROPE, clip=2.0)
    assert out[0, 0, 0].isfinite().all()
    assert out[0, 0, 1, 3].isnan()


def test_empty(kernels: object) -> None:
    assert rms_norm(torch.zeros(0, 5), torch.ones(5), EPS).shape == (0, 5)
    q = torch.zeros(1, 0, 2, 32)
    out, _ = qk_norm_rope(q, q, None, None, torch.zeros(1, 0, dtype=torch.long), **ROPE)
    assert out.shape == q.shape


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 90), st.integers(0, 99))
def test_any_sizes(rows: int, hidden: int, seed: int) -> None:
    x, weight = random(rows, hidden, seed=seed), random(hidden, seed=seed + 1)
    assert torch.allclose(rms_norm(x, weight, EPS), rms_norm_reference(x, weight, EPS), rtol=1e-5, atol=1e-6)


def test_gradients_are_the_reference_s() -> None:
    x, residual, weight = (random(4, 9, seed=s).requires_grad_() for s in (0, 1, 2))
    weight = random(9, seed=3).requires_grad_()

    def loss(function: Any) -> Tensor:
        out, total = function(x, residual, weight, EPS)
        return (out.square() + total.sin()).sum()

    pairs = [(loss(add_rms_norm), loss(add_rms_norm_reference), [x, residual, weight])]
    pairs.append(
        (rms_norm(x, weight, EPS).square().sum(), rms_norm_reference(x, weight, EPS).square().sum(), [x, weight])
    )
    tensors = [tensor.requires_grad_() for tensor in heads((1, 3, 2, 1, 32), torch.float32)[:4]]
    positions = torch.arange(3)[None]

    def rotated(function: Any) -> Tensor:
        q, k = function(*tensors, positions, **ROPE, clip=1.2)
        return q.square().mul(q.sin()).sum() + k.cos().sum()

    pairs.append((rotated(qk_norm_rope), rotated(qk_norm_rope_reference), tensors))
    for ours, theirs, inputs in pairs:
        gradients = zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True)
        for mine, reference in gradients:
            assert torch.allclose(mine, reference, rtol=1e-4, atol=1e-5)


def test_opcheck() -> None:
    ops = torch.ops.llada_moe
    x, weight = random(3, 8).requires_grad_(), random(8).requires_grad_()
    torch.library.opcheck(ops.rms_norm.default, (x, weight, EPS))
    torch.library.opcheck(ops.add_rms_norm.default, (x, random(3, 8, seed=1).requires_grad_(), weight, EPS))
    q, k, q_weight, k_weight, positions = heads((1, 3, 2, 1, 8), torch.float32)
    for tensor in (q, k, q_weight):
        tensor.requires_grad_()
    frequencies = rope_frequencies(10000.0, 6, q.device)
    torch.library.opcheck(ops.qk_norm_rope.default, (q, k, q_weight, None, positions, frequencies, EPS, 1.0))
    torch.library.opcheck(ops.qk_norm_rope.default, (q, k, q_weight, k_weight, positions, frequencies, EPS))


def test_numpy_door() -> None:
    x, weight = random(3, 8), random(8)
    np.testing.assert_array_equal(
        extension().rms_norm(x.numpy(), weight.numpy(), EPS), rms_norm(x, weight, EPS).numpy()
    )
    out, total = extension().add_rms_norm(x.numpy(), x.numpy(), weight.numpy(), EPS)
    np.testing.assert_array_equal(total, 2 * x.numpy())
    np.testing.assert_array_equal(out, rms_norm(2 * x, weight, EPS).numpy())
    half = torch.from_dlpack(extension().rms_norm(x.bfloat16(), weight.bfloat16(), EPS))
    assert torch.equal(half, rms_norm(x.bfloat16(), weight.bfloat16(), EPS))
    q, k, q_weight, k_weight, positions = heads((1, 3, 2, 1, 32), torch.float32)
    frequencies = rope_frequencies(50000.0, 32, q.device)
    arrays = [tensor.numpy() for tensor in (q, k, q_weight, k_weight, positions, frequencies)]
    expected = qk_norm_rope(q, k, q_weight, k_weight, positions, **ROPE)
    for mine, other in zip(extension().qk_norm_rope(*arrays, eps=EPS), expected, strict=True):
        np.testing.assert_array_equal(mine, other.numpy())
    with pytest.raises(ValueError, match="weight must have shape"):
        extension().rms_norm(x.numpy(), weight.numpy()[:3], EPS)


def test_errors() -> None:
    x, weight = torch.zeros(3, 8), torch.ones(8)
    with pytest.raises(TypeError, match="x must be float32 or bfloat16, got float16"):
        rms_norm(x.half(), weight, EPS)
    with pytest.raises(TypeError, match="weight must be float32, got bfloat16"):
        rms_norm(x, weight.bfloat16(), EPS)
    with pytest.raises(ValueError, match=r"weight must have shape \[8\], got \[7\]"):
        rms_norm(x, weight[:7], EPS)
    with pytest.raises(ValueError, match="x must be contiguous"):
        rms_norm(torch.zeros(8, 3).T, weight, EPS)
    with pytest.raises(ValueError, match="eps must be not negative"):
        rms_norm(x, weight, -1.0)
    with pytest.raises(ValueError, match=r"residual must have shape \[3, 8\]"):
        add_rms_norm(x, x[:2], weight, EPS)
    with pytest.raises(ValueError, match="weight must be on cpu, got meta"):
        rms_norm(x, weight.to("meta"), EPS)
    q, k, q_weight, k_weight, positions = heads((2, 3, 2, 1, 32), torch.float32)
    with pytest.raises(ValueError, match=r"k must have shape \[2, 3, Hk, 32\]"):
        qk_norm_rope(q, k[:, :2], q_weight, k_weight, positions, **ROPE)
    with pytest.raises(ValueError, match=r"positions must have shape \[2, 3\]"):
        qk_norm_rope(q, k, q_weight, k_weight, positions[:1], **ROPE)
    with pytest.raises(TypeError, match="positions must be int32 or int64"):
        qk_norm_rope(q, k, q_weight, k_weight, positions.float(), **ROPE)
    for rotary_dim in (31, 34, -2):
        with pytest.raises(ValueError, match="rotary_dim must be even and within 0 and 32"):
            qk_norm_rope(q, k, q_weight, k_weight, positions, **{**ROPE, "rotary_dim": rotary_dim})
    with pytest.raises(ValueError, match="clip must be positive"):
        qk_norm_rope(q, k, q_weight, k_weight, positions, **ROPE, clip=0.0)
    with pytest.raises(ValueError, match="theta must be positive"):
        qk_norm_rope(q, k, q_weight, k_weight, positions, theta=-1, rotary_dim=32, eps=EPS)


def test_the_core_checks_too() -> None:
    ops, x = torch.ops.llada_moe, torch.zeros(3, 8)
    with pytest.raises(RuntimeError, match="rms_norm: weight"):
        ops.rms_norm(x, torch.ones(7), EPS)
    with pytest.raises(RuntimeError, match="add_rms_norm: residual"):
        ops.add_rms_norm(x, x[:2], torch.ones(8), EPS)
    with pytest.raises(RuntimeError, match="rms_norm: eps must be not negative, got -1"):
        ops.rms_norm(x, torch.ones(8), -1.0)
    q = torch.zeros(1, 2, 1, 8)
    with pytest.raises(RuntimeError, match="qk_norm_rope: eps must be not negative, got nan"):
        ops.qk_norm_rope(q, q, None, None, torch.zeros(1, 2).long(), torch.zeros(4), math.nan)
    with pytest.raises(RuntimeError, match="qk_norm_rope: frequencies"):
        ops.qk_norm_rope(q, q, None, None, torch.zeros(1, 2, dtype=torch.long), torch.zeros(5), EPS)


@needs_emulator
def test_cuda_takes_float16_and_gives_one_result_for_every_order_of_threads() -> None:
    x, residual, weight = (random(4, 520, dtype=torch.float16, seed=seed) for seed in (0, 1, 2))
    q, k, q_weight, k_weight, positions = heads((2, 5, 4, 2, 48), torch.float16)
    frequencies = rope_frequencies(50000.0, 32, q.device)

    def run(seed: int) -> tuple[Tensor, ...]:
        ops = emulated_ops(seed)
        norms = ops.rms_norm(x, weight[0], EPS), *ops.add_rms_norm(x, residual, weight[0], EPS)
        return *norms, *ops.qk_norm_rope(q, k, q_weight, k_weight, positions, frequencies, EPS, 1.5)

    first = run(0)
    for seed in SEEDS[1:]:
        assert all(torch.equal(mine, other) for mine, other in zip(run(seed), first, strict=True))
    assert_within_budget(first[0], rms_norm_reference(x, weight[0], EPS), exact_norm(x, weight[0]))
    assert torch.equal(first[2], x + residual)
    eager = qk_norm_rope_reference(q, k, q_weight, k_weight, positions, **ROPE, clip=1.5)
    for mine, reference, (side, factor) in zip(first[3:], eager, ((q, q_weight), (k, k_weight)), strict=True):
        assert_within_budget(mine, reference, exact_rope(side, factor, positions, 32, 1.5))


@needs_emulator
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_cuda_gives_the_same_bits_for_unaligned_rows(dtype: torch.dtype) -> None:
    ops, make = emulated_ops(5), random(3 * 64 + 1, dtype=dtype)
    aligned, weight = make[:-1].clone().view(3, 64), random(65, dtype=dtype, seed=1)
    shifted = torch.cat([make[:1], make[:-1]])[1:].view(3, 64)
    assert shifted.data_ptr() % 16 != 0
    expected = ops.rms_norm(aligned, weight[:64].clone(), EPS)
    assert torch.equal(ops.rms_norm(shifted, weight[:64], EPS), expected)
    frequencies, positions = rope_frequencies(50000.0, 32, aligned.device), torch.arange(3)[None]
    turned = [
        ops.qk_norm_rope(x.view(1, 3, 2, 32), x.view(1, 3, 2, 32), None, None, positions, frequencies, EPS)[0]
        for x in (aligned, shifted)
    ]
    assert torch.equal(*turned)


@needs_emulator
def test_cuda_checks_too() -> None:
    ops, x = emulated_ops(), torch.zeros(3, 8)
    with pytest.raises(RuntimeError, match=r"rms_norm: weight must have shape \[8\], got \[7\]"):
        ops.rms_norm(x, torch.ones(7), EPS)
    with pytest.raises(RuntimeError, match="rms_norm: x must be float32 or bfloat16 or float16, got float64"):
        ops.rms_norm(x.double(), torch.ones(8), EPS)
    with pytest.raises(RuntimeError, match="add_rms_norm: residual must be of shape"):
        ops.add_rms_norm(x, x[:2], torch.ones(8), EPS)
    q, positions = torch.zeros(1, 2, 1, 8200), torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(RuntimeError, match="q must be of head size at most 8192 on a GPU, got 8200"):
        ops.qk_norm_rope(q, q, None, None, positions, torch.zeros(4), EPS)
