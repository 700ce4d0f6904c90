"""expert_order, permute, unpermute: exact where integers move, within the budget where rows are summed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops.machine import extension
from llada_moe_ops.ops.permute import (
    expert_order,
    expert_order_reference,
    permute,
    permute_reference,
    unpermute,
    unpermute_reference,
)
from safetensors.torch import load_file
from torch import Tensor

from ..cases import EXPERT_CHOICES, choose_experts
from ..emulated import SEEDS, emulated_ops, needs_emulator
from .budget import DTYPES, assert_within_budget, threads

GOLDEN = load_file(Path(__file__).parent.parent / "data" / "golden" / "ops.safetensors")
GOLDEN_CASES = sorted({name.split("/")[1] for name in GOLDEN if name.startswith("expert_order/")})


def routed(tokens: int, k: int, num_experts: int, not_mine: bool = False) -> Tensor:
    make = torch.Generator().manual_seed(tokens + k)
    return torch.randint(0, num_experts + not_mine, (tokens, k), generator=make, dtype=torch.int32)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_order(kernels: object, case: str) -> None:
    experts, order, offsets = (GOLDEN[f"expert_order/{case}/{name}"] for name in ("experts", "order", "offsets"))
    ours = expert_order(experts, offsets.shape[0] - 1)
    assert torch.equal(ours[0], order)
    assert torch.equal(ours[1], offsets)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("experts", [routed(0, 2, 4), routed(1, 1, 4), routed(37, 3, 5), torch.full((9, 2), 3).int()])
def test_order_is_the_reference_s(kernels: object, experts: Tensor, dtype: torch.dtype) -> None:
    for ours, reference in zip(expert_order(experts.to(dtype), 5), expert_order_reference(experts, 5), strict=True):
        assert torch.equal(ours, reference)
        assert ours.dtype == torch.int32


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 9))
def test_order_sorts_stably_with_not_mine_last(tokens: int, k: int, num_experts: int) -> None:
    experts = routed(tokens, k, num_experts, not_mine=True)
    order, offsets = expert_order(experts, num_experts)
    flat = experts.flatten().long()
    assert sorted(order.tolist()) == list(range(tokens * k))
    keys = flat[order.long()] * (tokens * k + 1) + order
    assert torch.equal(keys, keys.sort().values)
    assert int(offsets[-1]) == int((flat < num_experts).sum())
    for expert in range(num_experts):
        assert (flat[order[offsets[expert] : offsets[expert + 1]].long()] == expert).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "k", "hidden"), [(1, 1, 1), (5, 2, 33), (40, 8, 64), (17, 3, 7), (3, 5, 2056)])
def test_unpermute_stays_within_the_budget(
    kernels: object, tokens: int, k: int, hidden: int, dtype: torch.dtype
) -> None:
    order, _ = expert_order(routed(tokens, k, 6), 6)
    y = torch.randn(tokens * k, hidden).to(dtype)
    weights = torch.rand(tokens, k)
    rows = torch.empty(tokens * k, hidden, dtype=torch.float64)
    rows[order.long()] = y.double()
    exact = (rows.view(tokens, k, hidden) * weights.double().unsqueeze(-1)).sum(1)
    assert_within_budget(unpermute(y, order, weights), unpermute_reference(y, order, weights), exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_permute_moves_rows(kernels: object, dtype: torch.dtype) -> None:
    experts = routed(23, 3, 5, not_mine=True)
    order, offsets = expert_order(experts, 5)
    x = torch.randn(23, 40).to(dtype)[:, 5:26]
    assert torch.equal(permute(x, order, 3), permute_reference(x, order, 3))
    mine = order[: int(offsets[-1])]
    y = permute(x, mine, 3)
    weights = torch.rand(23, 3)
    expected = x.float() * (weights * (experts < 5)).sum(-1, keepdim=True)
    assert torch.allclose(unpermute(y, mine, weights).float(), expected, rtol=0.02, atol=0.02)
    assert torch.equal(unpermute(y, mine, weights.to(dtype)), unpermute_reference(y, mine, weights.to(dtype)))


def test_empty(kernels: object) -> None:
    order, offsets = expert_order(torch.zeros(0, 2, dtype=torch.int32), 3)
    assert order.numel() == 0
    assert offsets.tolist() == [0, 0, 0, 0]
    assert permute(torch.zeros(0, 4), order, 2).shape == (0, 4)
    assert unpermute(torch.zeros(0, 4), order, torch.zeros(0, 2)).shape == (0, 4)
    assert unpermute(torch.zeros(0, 4), order, torch.ones(3, 2)).count_nonzero() == 0


def test_threads_and_batch_do_not_change_bits(kernels: object) -> None:
    order, _ = expert_order(routed(100, 4, 6), 6)
    y, weights = torch.randn(400, 65), torch.rand(100, 4)
    with threads(1):
        one = unpermute(y, order, weights)
    with threads(2):
        assert torch.equal(unpermute(y, order, weights), one)
    mine = (order // 4 == 37).nonzero().flatten()
    alone = unpermute(y[mine], (order[mine] - 37 * 4), weights[37:38])
    assert torch.equal(alone[0], one[37])


def test_gradients_are_the_reference_s() -> None:
    order, offsets = expert_order(routed(7, 3, 4, not_mine=True), 4)
    order = order[: int(offsets[-1])]
    x, weights = torch.randn(7, 5, requires_grad=True), torch.rand(7, 3, requires_grad=True)
    factor = torch.randn(7, 5)
    ours = torch.autograd.grad((unpermute(permute(x, order, 3), order, weights) * factor).sum(), [x, weights])
    composed = unpermute_reference(permute_reference(x, order, 3), order, weights)
    theirs = torch.autograd.grad((composed * factor).sum(), [x, weights])
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, reference, rtol=1e-5, atol=1e-6)


def test_opcheck() -> None:
    ops = torch.ops.llada_moe
    experts = routed(6, 2, 4)
    torch.library.opcheck(ops.expert_order.default, (experts, 4))
    order, _ = expert_order(experts, 4)
    torch.library.opcheck(ops.permute.default, (torch.randn(6, 5, requires_grad=True), order, 2))
    y, weights = torch.randn(12, 5, requires_grad=True), torch.rand(6, 2, requires_grad=True)
    torch.library.opcheck(ops.unpermute.default, (y, order, weights))


def test_numpy_door() -> None:
    experts = routed(6, 2, 4)
    order, offsets = extension().expert_order(experts.numpy(), 4)
    expected = expert_order(experts, 4)
    np.testing.assert_array_equal(order, expected[0].numpy())
    np.testing.assert_array_equal(offsets, expected[1].numpy())
    x, weights = np.random.default_rng(0).random((6, 5), dtype=np.float32), np.ones((6, 2), dtype=np.float32)
    y = extension().permute(x, order, 2)
    np.testing.assert_array_equal(y, x[order // 2])
    np.testing.assert_allclose(extension().unpermute(y, order, weights), 2 * x, rtol=1e-6)
    with pytest.raises(ValueError, match=r"order must be in 0 \.\. 11"):
        extension().permute(x, order + 100, 2)
    many = np.array([0, 2**31 - 1], np.int32)  # tokens times k does not fit 64 bits
    np.testing.assert_array_equal(extension().permute(x, many, 2**62), x[[0, 0]])


def test_errors() -> None:
    order = torch.tensor([0, 1], dtype=torch.int32)
    x = torch.zeros(2, 4)
    with pytest.raises(TypeError, match="experts must be int32 or int64, got float32"):
        expert_order(torch.zeros(2, 2), 4)
    with pytest.raises(ValueError, match=r"experts must have shape \[T, k\]"):
        expert_order(order, 4)
    with pytest.raises(ValueError, match="experts must be contiguous"):
        expert_order(torch.zeros(2, 3, dtype=torch.int32).T, 4)
    with pytest.raises(ValueError, match=r"experts must be in 0 \.\. 4, got 5"):
        expert_order(torch.tensor([[0, 5]]), 4)
    with pytest.raises(ValueError, match="num_experts must be within 1"):
        expert_order(torch.zeros(2, 2, dtype=torch.int32), 0)
    with pytest.raises(TypeError, match="order must be int32, got int64"):
        permute(x, order.long(), 1)
    with pytest.raises(ValueError, match=r"order must be in 0 \.\. 1, got 7"):
        permute(x, torch.tensor([7], dtype=torch.int32), 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        permute(x, order, 0)
    with pytest.raises(ValueError, match="order must be of 3 rows, got 2"):
        unpermute(torch.zeros(3, 4), order, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="order must be without repetition"):
        unpermute(x, torch.tensor([1, 1], dtype=torch.int32), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="weights must be on cpu, got meta"):
        unpermute(x, order, torch.zeros(2, 1, device="meta"))


def test_the_core_checks_too() -> None:
    ops = torch.ops.llada_moe
    order, x = torch.tensor([0, 9], dtype=torch.int32), torch.zeros(2, 4)
    with pytest.raises(RuntimeError, match="expert_order: experts"):
        ops.expert_order(torch.tensor([[9]]), 4)
    with pytest.raises(RuntimeError, match="permute: order"):
        ops.permute(x, order, 1)
    with pytest.raises(RuntimeError, match="unpermute: order"):
        ops.unpermute(x, order, torch.zeros(2, 1))
    with pytest.raises(RuntimeError, match="unpermute: order must be without repetition"):
        ops.unpermute(x, torch.zeros(2, dtype=torch.int32), torch.zeros(2, 1))


# A CUDA block takes 4096 assignments, a warp of it a multiple of 32; with more blocks, 8192 are read at a time.
@needs_emulator
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "assignments", [31, 32, 255, 256, 257, 4095, 4096, 4097, 8191, 8192, 8193, 9000, 12288, 12289, 16385]
)
def test_cuda_sorts_any_number_of_assignments(assignments: int, seed: int) -> None:
    for choice in EXPERT_CHOICES:
        experts = choose_experts(choice, assignments, 1, 64)
        order, offsets = emulated_ops(seed).expert_order(experts, 64)
        expected = expert_order_reference(experts, 64)
        assert torch.equal(order, expected[0]), choice
        assert torch.equal(offsets, expected[1]), choice


@needs_emulator
@pytest.mark.parametrize("num_experts", [1, 31, 32, 33, 256, 2048])
def test_cuda_sorts_by_any_number_of_experts(num_experts: int) -> None:
    experts = routed(1200, 5, num_experts, not_mine=True)
    for ours, reference in zip(
        emulated_ops(2).expert_order(experts.long(), num_experts),
        expert_order_reference(experts, num_experts),
        strict=True,
    ):
        assert torch.equal(ours, reference)


# T = 16384 at k = 8; beyond 128 blocks each takes more.
@needs_emulator
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("assignments", [131071, 131072, 131073, 524288, 524289])
def test_cuda_sorts_long_batches(assignments: int, dtype: torch.dtype) -> None:
    experts = choose_experts("random", assignments, 1, 64).to(dtype)
    for ours, reference in zip(
        emulated_ops(1).expert_order(experts, 64), expert_order_reference(experts, 64), strict=True
    ):
        assert torch.equal(ours, reference)


@needs_emulator
def test_cuda_takes_float16_and_gives_one_result_for_every_order_of_threads() -> None:
    order, _ = expert_order(routed(9, 5, 4), 4)
    y, weights = torch.randn(45, 70).half(), torch.rand(9, 5).half()
    first = emulated_ops(0).unpermute(y, order, weights)
    rows = torch.empty(45, 70, dtype=torch.float64)
    rows[order.long()] = y.double()
    exact = (rows.view(9, 5, 70) * weights.double().unsqueeze(-1)).sum(1)
    assert_within_budget(first, unpermute_reference(y, order, weights), exact)
    for seed in SEEDS[1:]:
        assert torch.equal(emulated_ops(seed).unpermute(y, order, weights), first)
    x = torch.randn(9, 70).half()
    assert torch.equal(emulated_ops(3).permute(x, order, 5), permute_reference(x, order, 5))


@needs_emulator
def test_cuda_reads_unaligned_and_strided_rows() -> None:
    order, _ = expert_order(routed(7, 2, 4), 4)
    wide, weights = torch.randn(14, 100).bfloat16(), torch.rand(7, 2)
    for x in (wide[:, 3:75], wide[:, 8:72]):
        assert torch.equal(emulated_ops().permute(x[:7], order, 2), permute_reference(x[:7], order, 2))
        copied = unpermute(x.contiguous(), order, weights)
        assert torch.equal(emulated_ops().unpermute(x, order, weights), copied)


@needs_emulator
def test_cuda_is_safe_with_values_out_of_range() -> None:
    """They are not read by the host: an expert is "not mine", a row is of zeros or left out."""
    ops = emulated_ops(4)
    order, offsets = ops.expert_order(torch.tensor([[7, -1], [0, 4]]), 4)
    assert order.tolist() == [2, 0, 1, 3]
    assert offsets.tolist() == [0, 1, 1, 1, 1]
    bad, x = torch.tensor([1, -5, 2, 99], dtype=torch.int32), torch.ones(2, 5)
    assert ops.permute(x, bad, 2).sum(1).tolist() == [5, 0, 5, 0]
    assert ops.unpermute(torch.ones(4, 5), bad, torch.ones(2, 2)).tolist() == [[1.0] * 5] * 2


@needs_emulator
def test_cuda_checks_too() -> None:
    ops, order, x = emulated_ops(), torch.tensor([0, 1], dtype=torch.int32), torch.zeros(2, 4)
    with pytest.raises(RuntimeError, match="expert_order: num_experts must be within 1 and 2048 on a GPU, got 2049"):
        ops.expert_order(torch.zeros(2, 2, dtype=torch.int32), 2049)
    with pytest.raises(RuntimeError, match="expert_order: experts must be int32 or int64, got float32"):
        ops.expert_order(torch.zeros(2, 2), 4)
    with pytest.raises(RuntimeError, match="permute: order must be int32, got int64"):
        ops.permute(x, order.long(), 1)
    with pytest.raises(RuntimeError, match="permute: k must be at least 1, got 0"):
        ops.permute(x, order, 0)
    with pytest.raises(RuntimeError, match=r"unpermute: order must have shape \[3\], got \[2\]"):
        ops.unpermute(torch.zeros(3, 4), order, torch.zeros(2, 1))
