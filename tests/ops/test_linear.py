"""linear: budget, bits that do not depend on the batch or the threads, packing, gradients, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops import ops
from llada_moe_ops.machine import extension
from llada_moe_ops.ops._panels import format_of, pack_panels_reference
from torch import Tensor

from tests import cases
from tests.emulated import PATHS, SEEDS, emulated, emulated_ops, needs_emulator

from .budget import AVAILABLE, DTYPES, assert_within_budget, forced_isa, rms, threads


def inputs(rows: int, k: int, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return (
        cases.random(rows, k, dtype=dtype, seed=1),
        cases.random(n, k, dtype=dtype, seed=2, scale=k**-0.5),
        cases.random(n, dtype=dtype, seed=3),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", cases.LINEAR)
def test_stays_within_the_budget(shape: tuple[int, int, int], dtype: torch.dtype, isa: str) -> None:
    x, weight, bias = inputs(*shape, dtype)
    for b in (None, bias):
        y = ops.linear(x, weight, b)
        assert y.shape == (shape[0], shape[2])
        assert torch.equal(y, ops.linear(x, ops.pack_linear(weight), b))
        if x.numel() > 0:
            exact = ops.linear_reference(x.double(), weight.double(), None if b is None else b.double())
            assert_within_budget(y, ops.linear_reference(x, weight, b), exact)


@pytest.mark.skipif(not AVAILABLE, reason="the extension is not built")
@pytest.mark.parametrize("rows", [5, 40])
def test_long_fp32_sums_are_cut_into_short_chains(rows: int, isa: str) -> None:
    """Adding to a sum that grows to s rounds it by up to u |s|, u = 2^-24, on average less than half of that.

    With n products of size 1 a chain, s² is their number, so K of them add up errors of (n + K / n) / 2 · K · (u / 2)².
    """
    k, chain = 2048, 128
    x, weight, _ = inputs(rows, k, 256, torch.float32)
    exact = ops.linear_reference(x.double(), weight.double())
    allowed = 2.0**-25 * ((chain + k / chain) / 2) ** 0.5
    assert rms(ops.linear(x, weight).double() - exact) <= allowed * rms(exact)


@pytest.mark.skipif(not {"avx512fma", "avx2"} <= set(AVAILABLE), reason=f"not both paths here: {AVAILABLE}")
@pytest.mark.parametrize("rows", [11, 300])
def test_bf16_by_vfmadd_has_the_bits_of_avx2(rows: int) -> None:
    """Both add the even element's product of a lane before the odd one's, each with one rounding."""
    x, weight, _ = inputs(rows, 1100, 2000, torch.bfloat16)
    with forced_isa("avx512fma"):
        y = ops.linear(x, weight)
    with forced_isa("avx2"):
        assert torch.equal(ops.linear(x, weight), y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_alone_gives_the_same_bits(dtype: torch.dtype, isa: str) -> None:
    x, weight, bias = inputs(29, 1100, 70, dtype)
    whole = ops.linear(x, weight, bias)
    for row in range(29):
        assert torch.equal(ops.linear(x[row : row + 1], weight, bias)[0], whole[row])
    for size in range(1, 13):
        assert torch.equal(ops.linear(x[:size], weight, bias), whole[:size])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_threads_do_not_change_bits(rows: int, dtype: torch.dtype, isa: str) -> None:
    x, weight, bias = inputs(rows, 300, 100, dtype)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(ops.linear(x, weight, bias))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_rows_and_leading_dimensions(dtype: torch.dtype, isa: str) -> None:
    wide = cases.random(3, 4, 90, dtype=dtype, seed=4)
    weight = cases.random(20, 90, dtype=dtype, seed=5)[:, 13:50]
    x = wide[..., 13:50]
    assert not x.is_contiguous()
    expected = ops.linear(x.contiguous(), weight.contiguous())
    assert torch.equal(ops.linear(x, weight), expected)
    assert torch.equal(ops.linear(x, ops.pack_linear(weight)), expected)
    assert torch.equal(ops.linear(x[1, 2], weight), expected[1, 2])
    assert torch.equal(ops.linear(x[:1].expand(3, 4, 37)[:, 0], weight), expected[:1, 0].expand(3, 20))
    with pytest.raises(ValueError, match=r"x must have evenly spaced rows.*call .contiguous\(\)"):
        ops.linear(wide[:, 1:3], cases.random(20, 90, dtype=dtype, seed=5))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(1, 70), st.integers(1, 70), st.sampled_from(DTYPES))
def test_packing_loses_nothing(rows: int, k: int, n: int, dtype: torch.dtype) -> None:
    x, weight, _ = inputs(rows, k, n, dtype)
    packed = ops.pack_linear(weight)
    assert torch.equal(packed.unpack(), weight)
    assert torch.equal(packed.panels, pack_panels_reference([weight], format_of(dtype)))
    assert packed.format == format_of(dtype)
    assert packed.nbytes == packed.panels.nbytes
    assert torch.equal(ops.linear(x, packed), ops.linear(x, weight))


def test_packing_formats() -> None:
    weight = cases.random(5, 6, dtype=torch.float32, seed=1)
    assert torch.equal(ops.pack_linear(weight, format="bf16").unpack(), weight.bfloat16())
    assert ops.pack_linear(weight.bfloat16(), format="fp32").panels.dtype == torch.float32
    with pytest.raises(ValueError, match="format must be 'fp32' or 'bf16' or 'int8' or 'int4', got 'fp8'"):
        ops.pack_linear(weight, format="fp8")


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_reach_their_row_only(dtype: torch.dtype, isa: str) -> None:
    x, weight, _ = inputs(14, 50, 40, dtype)
    clean = ops.linear(x, weight)
    x[3, 7], x[9, 49] = torch.nan, torch.inf
    y = ops.linear(x, weight)
    assert y[3].isnan().all()
    assert not y[9].isfinite().any()
    others = [row for row in range(14) if row not in (3, 9)]
    assert torch.equal(y[others], clean[others])


def test_gradients() -> None:
    for bias in (None, cases.random(9, dtype=torch.float32, seed=3).requires_grad_()):
        x = cases.random(2, 5, 8, dtype=torch.float32, seed=1).requires_grad_()
        weight = cases.random(9, 8, dtype=torch.float32, seed=2).requires_grad_()
        leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
        got = torch.autograd.grad(ops.linear(x, weight, bias).square().sum(), leaves)
        expected = torch.autograd.grad(ops.linear_reference(x, weight, bias).square().sum(), leaves)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_opcheck() -> None:
    x, weight, bias = (leaf.requires_grad_() for leaf in inputs(5, 8, 9, torch.float32))
    torch.library.opcheck(torch.ops.llada_moe.linear.default, (x, weight, bias))
    torch.library.opcheck(torch.ops.llada_moe.linear.default, (x, weight))
    packed = ops.pack_linear(weight.detach())
    torch.library.opcheck(torch.ops.llada_moe.linear_packed.default, (x.detach(), packed.panels, 9, bias.detach()))
    torch.library.opcheck(torch.ops.llada_moe.pack_linear.default, (weight.detach(), packed.panels.clone()))


def test_compiles_whole() -> None:
    x, weight, _ = inputs(5, 8, 9, torch.float32)
    packed = ops.pack_linear(weight)
    compiled = torch.compile(
        lambda t: ops.linear(t, packed) + ops.linear(t, weight), backend="aot_eager", fullgraph=True
    )
    assert torch.equal(compiled(x), 2 * ops.linear(x, weight))


X, WEIGHT = torch.zeros(3, 4), torch.zeros(5, 4)
ERRORS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    (("x", WEIGHT), TypeError, "linear: x must be a torch.Tensor, got str"),
    ((X.double(), WEIGHT), TypeError, "linear: x must be float32 or bfloat16, got float64"),
    ((X, WEIGHT.bfloat16()), TypeError, "linear: weight must be float32, got bfloat16"),
    ((torch.zeros(()), WEIGHT), ValueError, "linear: x must be of at least one dimension"),
    ((X, WEIGHT[:, :3]), ValueError, r"linear: weight must have shape \[N, 4\], got \[5, 3\]"),
    ((X, WEIGHT[0]), ValueError, r"linear: weight must have shape \[N, 4\], got \[4\]"),
    ((X, torch.zeros(4, 5).T), ValueError, "linear: weight must have a contiguous last dimension"),
    ((torch.zeros(4, 3).T, WEIGHT), ValueError, "linear: x must have a contiguous last dimension"),
    ((X, WEIGHT, torch.zeros(4)), ValueError, r"linear: bias must have shape \[5\], got \[4\]"),
    ((X, WEIGHT, torch.zeros(5).bfloat16()), TypeError, "linear: bias must be float32, got bfloat16"),
    ((X, ops.pack_linear(torch.zeros(5, 6))), ValueError, r"linear: x must be \[.., 6\], got \[3, 4\]"),
    ((X, ops.pack_linear(WEIGHT.bfloat16())), TypeError, "linear: x must be bfloat16, the dtype of the packed weights"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), ERRORS)
def test_errors(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.linear(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, torch.zeros(5, 3)), "weight must have shape"),
        ((X.int(), WEIGHT.int()), "x must be float32 or bfloat16"),
        ((X, WEIGHT.bfloat16()), "weight must be float32"),
        ((X, WEIGHT, torch.zeros(6)), "bias must have shape"),
        ((X, torch.zeros(4, 5).T), "weight must have a contiguous last dimension"),
        ((torch.zeros(2, 6, 4)[:, 1:4], WEIGHT), "evenly spaced rows"),
        ((torch.zeros(()), WEIGHT), "at least one dimension"),
    ],
)
def test_the_op_itself_checks(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.llada_moe.linear(*arguments)


def test_the_packed_op_itself_checks() -> None:
    panels = ops.pack_linear(WEIGHT).panels
    for bad, features in ((panels[:, :3], 5), (panels, 33), (panels, -1), (panels.flatten(), 5), (panels.int(), 5)):
        with pytest.raises(RuntimeError):
            torch.ops.llada_moe.linear_packed(X, bad, features)
    with pytest.raises(RuntimeError):
        torch.ops.llada_moe.pack_linear(WEIGHT, panels[:0])


def test_numpy_door() -> None:
    native = extension()
    x, weight, bias = inputs(5, 8, 9, torch.float32)
    y = native.linear(x.numpy(), weight.numpy(), bias.numpy())
    assert isinstance(y, np.ndarray)
    assert torch.equal(torch.from_numpy(y), ops.linear(x, weight, bias))
    assert torch.equal(torch.from_numpy(native.linear(x.numpy()[::2], weight)), ops.linear(x[::2].contiguous(), weight))
    half = native.linear(x.bfloat16(), weight.bfloat16())
    assert torch.equal(torch.from_dlpack(half), ops.linear(x.bfloat16(), weight.bfloat16()))
    assert half.shape == (5, 9)
    assert half.bits.dtype == np.uint16
    assert torch.equal(torch.from_numpy(half.bits.view(np.int16)).view(torch.bfloat16), torch.from_dlpack(half))
    with pytest.raises(TypeError, match="x must be float32 or bfloat16, got float64"):
        native.linear(x.double().numpy(), weight)
    with pytest.raises(ValueError, match=r"weight must have shape \[9, 8\]|weight must have shape"):
        native.linear(x.numpy()[:, :7].copy(), weight)
    with pytest.raises(TypeError, match="expected a NumPy array or a DLPack tensor, got str"):
        native.linear("x", weight)
    with pytest.raises(ValueError, match="dimensions"):
        native.linear(np.zeros((1,) * 7, np.float32), weight)


# CUDA's tiles: 16 columns by 64 rows while wider ones would be fewer than the multiprocessors (4 here: up to 384
# columns), else 128 by 32 (sm80) or 64 (sm90a), or with many rows 128 by 128 or 192; 64 of K, 32 in fp32.
CUDA_SHAPES = (  # (rows, K, N)
    *((rows, 40, 33) for rows in (0, 1, 8, 9, 31, 32, 33, 63, 64, 65)),
    *((rows, 72, 400) for rows in (1, 17, 64)),
    *((rows, 72, 264) for rows in (127, 128, 129, 257)),
    *((rows, 72, 400) for rows in (95, 97, 129, 191, 192, 193)),
    *((12, k, n) for k, n in ((1, 1), (8, 15), (64, 16), (136, 17), (1032, 40))),
    *((130, k, n) for k, n in ((1, 1), (63, 127), (64, 128), (65, 129), (72, 136), (200, 264))),
)


@needs_emulator
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", CUDA_SHAPES)
def test_cuda_stays_within_the_budget(shape: tuple[int, int, int], path: str, seed: int) -> None:
    x, weight, bias = inputs(*shape, (*DTYPES, torch.float16)[seed % 3])
    b = bias if seed % 2 else None
    with emulated(seed, path):
        y = emulated_ops(seed).linear(x, weight, b)
    assert y.shape == (shape[0], shape[2])
    if x.numel() > 0:
        exact = ops.linear_reference(x.double(), weight.double(), None if b is None else b.double())
        assert_within_budget(y, ops.linear_reference(x, weight, b), exact)


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_bits_depend_on_the_row_alone(dtype: torch.dtype, path: str) -> None:
    """Not on the tile either: 195 rows of 264 columns take the largest, few rows the narrow one."""
    x, weight, bias = inputs(195, 328, 264, dtype)
    with emulated(0, path):
        whole = ops.linear(x, weight, bias)
    for seed, size in enumerate((1, 2, 31, 32, 33, 129, 193, 195)):
        with emulated(seed, path):
            assert torch.equal(ops.linear(x[-size:], weight, bias), whole[-size:])


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
def test_cuda_takes_strided_rows_leading_dimensions_and_an_empty_k(path: str) -> None:
    wide, weight = (cases.random(*shape, dtype=torch.bfloat16, seed=4) for shape in ((3, 4, 96), (20, 96)))
    for columns, same in ((slice(8, 48), path), (slice(13, 53), "sm80")):  # rows that are not aligned: as on sm80
        x, rows = wide[..., columns], weight[:, columns]
        with emulated(2, same):
            expected = ops.linear(x.contiguous(), rows.contiguous())
        with emulated(3, path):
            assert torch.equal(ops.linear(x, rows), expected)
            assert torch.equal(ops.linear(x[1, 2], rows), expected[1, 2])
            assert torch.equal(ops.linear(x[:1].expand(3, 4, x.shape[2])[:, 0], rows), expected[:1, 0].expand(3, 20))
    with emulated(3, path):
        bias = cases.random(20, dtype=torch.bfloat16, seed=5)
        assert torch.equal(ops.linear(torch.zeros(2, 0).bfloat16(), weight[:, :0], bias), bias.expand(2, 20))


@needs_emulator
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X.double(), WEIGHT.double()), "linear: x must be float32 or bfloat16 or float16, got float64"),
        ((X, WEIGHT.half()), "linear: weight must be float32, got float16"),
        ((X, WEIGHT[:, :3]), "linear: weight must have shape"),
        ((X, WEIGHT, torch.zeros(6)), "linear: bias must have shape"),
        ((X, torch.zeros(4, 5).T), "linear: weight must have a contiguous last dimension"),
        ((torch.zeros(2, 6, 4)[:, 1:4], WEIGHT), "linear: x must have evenly spaced rows"),
    ],
)
def test_cuda_checks_too(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        emulated_ops().linear(*arguments)
