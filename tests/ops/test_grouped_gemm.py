"""grouped_gemm and grouped_swiglu: budget, bits, empty groups, gradients, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops import ops
from llada_moe_ops.machine import extension
from torch import Tensor
from torch.nn import functional

from tests import cases
from tests.emulated import PATHS, SEEDS, emulated, emulated_ops, needs_emulator

from .budget import DTYPES, assert_within_budget, threads

Op = Callable[[Tensor, Tensor, Tensor], Tensor]
OPS = [(ops.grouped_gemm, ops.grouped_gemm_reference), (ops.grouped_swiglu, ops.grouped_swiglu_reference)]
GROUPS = (  # rows of each expert
    (0, 0, 0),
    (1,),
    (0, 0, 13),
    (30, 0, 0),
    (1, 11, 0, 12, 25),
)
SIZES = ((1, 2), (33, 34), (40, 64), (520, 30))  # (K, weight rows)


def inputs(groups: tuple[int, ...], sizes: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    k, rows = sizes
    offsets = torch.tensor([0, *groups]).cumsum(0, dtype=torch.int32)
    weight = cases.random(len(groups), rows, k, dtype=dtype, seed=2, scale=k**-0.5)
    return cases.random(sum(groups), k, dtype=dtype, seed=1), weight, offsets


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", GROUPS)
def test_stays_within_the_budget(groups: tuple[int, ...], dtype: torch.dtype, op: tuple[Op, Op], isa: str) -> None:
    kernel, reference = op
    for sizes in SIZES:
        x, weight, offsets = inputs(groups, sizes, dtype)
        y, eager = kernel(x, weight, offsets), reference(x, weight, offsets)
        assert y.shape == eager.shape
        if x.numel() > 0:
            assert_within_budget(y, eager, reference(x.double(), weight.double(), offsets))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_depend_on_the_row_alone(dtype: torch.dtype, op: tuple[Op, Op], isa: str) -> None:
    kernel, _ = op
    x, weight, offsets = inputs((1, 11, 0, 40), (520, 70), dtype)
    whole = kernel(x, weight, offsets)
    for group, (begin, end) in enumerate(zip(offsets.tolist(), offsets.tolist()[1:], strict=False)):
        for row in range(begin, end, 3):
            alone = kernel(x[row : row + 1], weight[group : group + 1], torch.tensor([0, 1]))
            assert torch.equal(alone[0], whole[row])
    with threads(1):
        assert torch.equal(kernel(x, weight, offsets), whole)


def test_linear_is_the_one_group_case(isa: str) -> None:
    x, weight, offsets = inputs((17,), (40, 64), torch.float32)
    assert torch.equal(ops.grouped_gemm(x, weight, offsets), ops.linear(x, weight[0]))


@pytest.mark.parametrize("op", OPS)
def test_rows_of_no_group_are_zero(op: tuple[Op, Op], isa: str) -> None:
    kernel, _ = op
    x, weight, offsets = inputs((3, 5), (16, 8), torch.float32)
    more = torch.cat([x, torch.full((4, 16), torch.nan)])
    y = kernel(more, weight, offsets)
    assert torch.equal(y[:8], kernel(x, weight, offsets))
    assert y[8:].shape[0] == 4
    assert y[8:].count_nonzero() == 0


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strided(dtype: torch.dtype, op: tuple[Op, Op], isa: str) -> None:
    kernel, _ = op
    x, weight, offsets = inputs((3, 5), (61, 18), dtype)
    x, weight = x[:, 7:40], weight[:, 2:14, 7:40]
    assert torch.equal(kernel(x, weight, offsets.long()), kernel(x.contiguous(), weight.contiguous(), offsets))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 40), st.integers(1, 20), st.sampled_from(OPS)
)
def test_any_grouping(groups: list[int], k: int, half: int, op: tuple[Op, Op]) -> None:
    kernel, reference = op
    x, weight, offsets = inputs(tuple(groups), (k, 2 * half), torch.float32)
    torch.testing.assert_close(kernel(x, weight, offsets), reference(x, weight, offsets), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", OPS)
def test_gradients(op: tuple[Op, Op]) -> None:
    kernel, reference = op
    x, weight, offsets = inputs((3, 0, 5), (8, 6), torch.float32)
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    got = torch.autograd.grad(kernel(x, weight, offsets).square().sum(), leaves)
    expected = torch.autograd.grad(reference(x, weight, offsets).square().sum(), leaves)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_opcheck() -> None:
    x, weight, offsets = inputs((3, 0, 5), (8, 6), torch.float32)
    arguments = (x.requires_grad_(), weight.requires_grad_(), offsets)
    torch.library.opcheck(torch.ops.llada_moe.grouped_gemm.default, arguments)
    torch.library.opcheck(torch.ops.llada_moe.grouped_swiglu.default, arguments)


X, WEIGHT, OFFSETS = inputs((3, 5), (8, 6), torch.float32)
ERRORS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((X.half(), WEIGHT, OFFSETS), TypeError, "x_sorted must be float32 or bfloat16, got float16"),
    ((X[0], WEIGHT, OFFSETS), ValueError, r"x_sorted must have shape \[A, [KH]\], got \[8\]"),
    ((X, WEIGHT.bfloat16(), OFFSETS), TypeError, "must be float32, got bfloat16"),
    ((X, WEIGHT[..., :5], OFFSETS), ValueError, r"must have shape \[E, 2?[NI], 8\], got \[2, 6, 5\]"),
    ((X, WEIGHT, OFFSETS.float()), TypeError, "offsets must be int32 or int64, got float32"),
    ((X, WEIGHT, OFFSETS[:2]), ValueError, r"offsets must have shape \[3\], got \[2\]"),
    ((X, WEIGHT, torch.tensor([0, 3, 9])), ValueError, r"offsets must be in 0 .. 8, got 9"),
    ((X, WEIGHT, torch.tensor([0, 5, 3])), ValueError, r"offsets must be rising from 0, got \[0, 5, 3\]"),
    ((X, WEIGHT, torch.tensor([1, 5, 8])), ValueError, "offsets must be rising from 0"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), ERRORS)
def test_errors(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    for kernel, name in ((ops.grouped_gemm, "grouped_gemm"), (ops.grouped_swiglu, "grouped_swiglu")):
        with pytest.raises(error, match=f"{name}: .*{message}"):
            kernel(*arguments)
        with pytest.raises(RuntimeError):
            getattr(torch.ops.llada_moe, name)(*arguments)


def test_odd_gate_up_is_refused() -> None:
    with pytest.raises(ValueError, match="gate_up_proj must be of an even second size"):
        ops.grouped_swiglu(X, WEIGHT[:, :5], OFFSETS)
    with pytest.raises(RuntimeError, match="even second size"):
        torch.ops.llada_moe.grouped_swiglu(X, WEIGHT[:, :5], OFFSETS)


def test_numpy_door() -> None:
    native = extension()
    for name in ("grouped_gemm", "grouped_swiglu"):
        y = getattr(native, name)(X.numpy(), WEIGHT.numpy(), OFFSETS.numpy())
        assert torch.equal(torch.from_numpy(y), getattr(ops, name)(X, WEIGHT, OFFSETS))
        with pytest.raises(ValueError, match="offsets"):
            getattr(native, name)(X.numpy(), WEIGHT.numpy(), OFFSETS.numpy()[:2])
        with pytest.raises(TypeError, match="offsets must be int32, got int64"):
            getattr(native, name)(X.numpy(), WEIGHT.numpy(), OFFSETS.long().numpy())


# CUDA's tiles: 128 weight rows by 32 rows (sm80) or 64 (sm90a); with more rows per expert than that, and tiles enough
# for all multiprocessors, by 128 (sm80) or 192 (sm90a). 64 of K at a time, 32 in fp32.
FEW = ((0, 0, 0), (1,), (0, 0, 31), (9, 0, 17), (64, 0, 0), (0, 33, 1, 0, 65))
FEW_SIZES = ((1, 2), (33, 34), (8, 126), (64, 128), (72, 130), (200, 386))
MANY = ((129,), (193,), (384, 0), (1, 64, 200), (130, 0, 150))
MANY_SIZES = ((33, 258), (40, 258), (64, 264), (136, 390), (200, 516))
WITH_FLOAT16 = (*DTYPES, torch.float16)


@contextmanager
def cuda(op: tuple[Op, Op], seed: int, path: str) -> Iterator[Op]:
    """The CUDA op itself: the package's functions take no float16 on the CPU."""
    with emulated(seed, path):
        yield getattr(emulated_ops(seed), op[0].__name__)


@needs_emulator
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("groups", [*FEW, *MANY])
def test_cuda_stays_within_the_budget(groups: tuple[int, ...], op: tuple[Op, Op], path: str, seed: int) -> None:
    sizes = (FEW_SIZES if groups in FEW else MANY_SIZES)[(seed + len(groups)) % 5 :: 5]
    for size in sizes:
        x, weight, offsets = inputs(groups, size, WITH_FLOAT16[seed % 3])
        with cuda(op, seed, path) as kernel:
            y = kernel(x, weight, offsets)
        eager = op[1](x, weight, offsets)
        if x.numel() > 0:
            assert_within_budget(y, eager, op[1](x.double(), weight.double(), offsets))
        else:
            assert y.shape == eager.shape


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", WITH_FLOAT16)
def test_cuda_bits_depend_on_the_row_alone(dtype: torch.dtype, op: tuple[Op, Op], path: str) -> None:
    x, weight, offsets = inputs((1, 70, 0, 200), (136, 264), dtype)
    with cuda(op, 0, path) as kernel:
        whole = kernel(x, weight, offsets)
    for seed in SEEDS[1:]:
        group = (0, 1, 3)[seed % 3]
        begin, end = offsets[group : group + 2].tolist()
        with cuda(op, seed, path) as kernel:
            if seed in (3, 6):
                assert torch.equal(kernel(x, weight, offsets), whole)
            for count in (1, 9, 40):
                rows = slice(begin + (end - begin) * seed // 9, end)
                rows = slice(rows.start, min(rows.start + count, end))
                alone = torch.tensor([0, rows.stop - rows.start], dtype=torch.int32)
                assert torch.equal(kernel(x[rows], weight[group : group + 1], alone), whole[rows])


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", WITH_FLOAT16)
@pytest.mark.parametrize("groups", [(3, 0, 30), (140, 3, 0)])
def test_cuda_reads_strided_and_unaligned_rows(
    groups: tuple[int, ...], dtype: torch.dtype, op: tuple[Op, Op], path: str
) -> None:
    """Where rows begin, and not how long they are, decides; those not aligned to 16 bytes are sm80's on either path."""
    x, weight, offsets = inputs(groups, (112, 132), dtype)
    for columns, same in ((slice(8, 96), path), (slice(16, 89), path), (slice(7, 95), "sm80")):
        rows, weights = x[:, columns], weight[:, 2:98, columns]
        aligned = [functional.pad(values, (0, -values.shape[-1] % 8)) for values in (rows, weights)]
        with cuda(op, 2, same) as kernel:
            expected = kernel(*(values[..., : rows.shape[1]] for values in aligned), offsets)
        with cuda(op, 3, path) as kernel:
            assert torch.equal(kernel(rows, weights, offsets), expected)
        if path == "sm80":
            with cuda(op, 1, path) as kernel:
                assert torch.equal(kernel(rows.contiguous(), weights.contiguous(), offsets), expected)


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("groups", [(3, 5), (70, 131), tuple(range(40))])
def test_cuda_gives_zeros_for_rows_of_no_group(groups: tuple[int, ...], op: tuple[Op, Op], path: str) -> None:
    x, weight, offsets = inputs(groups, (40, 36), torch.bfloat16)
    with emulated(5, path):
        y = op[0](torch.cat([x, torch.full((50, 40), torch.nan).bfloat16()]), weight, offsets.long())
        assert torch.equal(y[:-50], op[0](x, weight, offsets))
    assert y[-50:].count_nonzero() == 0


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("op", OPS)
def test_cuda_is_safe_with_offsets_out_of_order(op: tuple[Op, Op], path: str) -> None:
    """They are not read by the host; the emulator reports what is read or written outside."""
    x, weight, _ = inputs((40, 30), (40, 36), torch.bfloat16)
    with cuda(op, 6, path) as kernel:
        for offsets in ((0, 90, 70), (-5, 20, 1000), (60, 30, 10), (-9, -8, -7)):
            assert kernel(x, weight, torch.tensor(offsets, dtype=torch.int32)).shape[0] == 70


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
def test_cuda_keeps_nan_and_infinity_in_their_row(path: str) -> None:
    x, weight, offsets = inputs((6, 8), (40, 36), torch.bfloat16)
    for op in OPS:
        bad = x.clone()
        bad[3, 7], bad[9, 39] = torch.nan, torch.inf
        with cuda(op, 7, path) as kernel:
            clean, y = kernel(x, weight, offsets), kernel(bad, weight, offsets)
        assert y[3].isnan().all()
        assert not y[9].isfinite().all()
        others = [row for row in range(14) if row not in (3, 9)]
        assert torch.equal(y[others], clean[others])


@needs_emulator
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X.double(), WEIGHT.double(), OFFSETS), "x_sorted must be float32 or bfloat16 or float16, got float64"),
        ((X[0], WEIGHT, OFFSETS), "x_sorted must have shape"),
        ((X, WEIGHT.bfloat16(), OFFSETS), "must be float32, got bfloat16"),
        ((X, WEIGHT[..., :5], OFFSETS), "must have shape"),
        ((X, WEIGHT.mT.contiguous().mT, OFFSETS), "must have a contiguous last dimension"),
        ((X, WEIGHT, OFFSETS.long()), "offsets must be int32, got int64"),
        ((X, WEIGHT, OFFSETS[:2]), "offsets must have shape"),
    ],
)
def test_cuda_checks_too(arguments: tuple[Any, ...], message: str) -> None:
    for op in OPS:
        with pytest.raises(RuntimeError, match=f"{op[0].__name__}: .*{message}"):
            getattr(emulated_ops(), op[0].__name__)(*arguments)
    with pytest.raises(RuntimeError, match="grouped_swiglu: gate_up_proj must be of an even second size"):
        emulated_ops().grouped_swiglu(X, WEIGHT[:, :5], OFFSETS)
