"""int8 and int4 weights: packing against its specification, products against theirs, bits, bad values, errors.

Products of quantised operands are exact integers, so kernel and specification differ by the fp32 scales' rounding and,
where a value lies on the edge between two bytes, by one step of that value: a budget of 1e-3 of the result's size (bf16
results: a unit in the last place more), of 5e-3 where intermediates are quantised again, a step of them being 0.02 of
their size. A wrong layout would show as an error of the result's own size.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops import ops
from llada_moe_ops.ops._panels import pack_panels_reference, quantize_rows_reference
from llada_moe_ops.ops.confidence_of_logits import confidence_of_logits
from torch import Tensor

from tests import cases

from .budget import DTYPES, rms, threads

FORMATS = ("int8", "int4")
# Relative root mean square error of normal weights under each format (measured 0.006-0.008 and 0.087-0.095).
WEIGHT_ERROR = {"int8": 0.012, "int4": 0.11}


def shifted(panels: Tensor) -> Tensor:
    """The same bytes at an odd address."""
    return torch.cat([panels.new_zeros(1), panels.flatten()])[1:].view(panels.shape)


def assert_close(ours: Tensor, specified: Tensor, budget: float = 1e-3) -> None:
    assert ours.dtype == specified.dtype
    assert ours.shape == specified.shape
    if specified.numel() and rms(specified) > 0:
        allowed = budget + torch.finfo(ours.dtype).eps
        assert rms(ours.double() - specified.double()) <= allowed * rms(specified)
    else:
        assert torch.equal(ours, specified)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("k", "columns"), [(1, 1), (3, 32), (63, 33), (64, 40), (65, 70), (130, 31), (2048, 64)])
def test_packing_follows_the_specification(k: int, columns: int, format: str, dtype: torch.dtype) -> None:
    weight = cases.random(columns, k, dtype=dtype, seed=k)
    packed = ops.pack_linear(weight, format=format)
    expected = pack_panels_reference([weight], format)
    assert packed.panels.shape == expected.shape
    if format == "int8":
        assert torch.equal(packed.panels, expected)
    specified = ops.PackedLinear(expected, columns, k, format).unpack()
    exact = weight.double()
    # Near-equal choices of a multiplier may fall differently; none may be worse.
    assert rms(packed.unpack() - exact) <= rms(specified - exact) * (1 + 1e-3) + 1e-12
    if k > 8:
        assert rms(packed.unpack() - exact) < WEIGHT_ERROR[format] * rms(exact)


def test_bits_per_weight() -> None:
    weight = torch.zeros(2048, 2048)
    sizes = {name: ops.pack_linear(weight, format=name).nbytes * 8 / weight.numel() for name in FORMATS}
    assert sizes["int8"] < 8.02
    assert sizes["int4"] < 4.27


@pytest.mark.parametrize("format", FORMATS)
def test_weights_on_the_grid_survive(format: str) -> None:
    grid = torch.randint(-7, 8, (40, 96), generator=torch.Generator().manual_seed(0)).float()
    grid[:, ::32] = -8.0  # the largest magnitude of every group
    weight = grid * (127.0 if format == "int8" else 128.0) / 64
    torch.testing.assert_close(ops.pack_linear(weight, format=format).unpack(), weight, rtol=0.01, atol=0.08)
    if format == "int4":
        assert torch.equal(ops.pack_linear(weight, format=format).unpack(), weight)


@pytest.mark.parametrize("exponent", [-100, 100])
def test_very_small_and_large_weights_are_chosen_for_as_others(exponent: int) -> None:
    """Squares of their errors would not fit a float."""
    weight, factor = cases.random(40, 200, dtype=torch.float32, seed=1), 2.0**exponent
    packed = ops.pack_linear(weight, format="int4")
    assert torch.equal(ops.pack_linear(weight * factor, format="int4").unpack(), packed.unpack() * factor)
    specified = pack_panels_reference([weight * factor], "int4")[:, :-128]  # all but the scales
    assert torch.equal(specified, pack_panels_reference([weight], "int4")[:, :-128])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("rows", "k", "n"), cases.LINEAR)
def test_linear(rows: int, k: int, n: int, format: str, dtype: torch.dtype, isa: str) -> None:
    x, bias = cases.random(rows, k, dtype=dtype, seed=1), cases.random(n, dtype=dtype, seed=3)
    packed = ops.pack_linear(cases.random(n, k, dtype=dtype, seed=2), format=format)
    assert_close(ops.linear(x, packed), packed.reference(x))
    assert_close(ops.linear(x, packed, bias), packed.reference(x, bias))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.integers(1, 200), st.integers(1, 2100), st.sampled_from(FORMATS))
def test_a_row_alone_gives_the_same_bits(rows: int, k: int, n: int, format: str) -> None:
    """Also beyond the size up to which weights stay in cache, where another loop runs."""
    x = cases.random(rows, k, dtype=torch.bfloat16, seed=1)
    packed = ops.pack_linear(cases.random(n, k, dtype=torch.float32, seed=2), format=format)
    y = ops.linear(x, packed)
    for row in range(0, rows, 7):
        assert torch.equal(ops.linear(x[row : row + 1], packed)[0], y[row])


@pytest.mark.parametrize("format", FORMATS)
def test_nan_and_infinity_reach_their_row_only(format: str, isa: str) -> None:
    x = cases.random(14, 50, dtype=torch.float32, seed=1)
    packed = ops.pack_linear(cases.random(40, 50, dtype=torch.float32, seed=2), format=format)
    clean = ops.linear(x, packed)
    x[3, 7], x[9, 49], x[11] = torch.nan, -torch.inf, 0.0
    y = ops.linear(x, packed)
    assert y[[3, 9]].isnan().all()
    assert (y[11] == 0).all()
    others = [row for row in range(14) if row not in (3, 9, 11)]
    assert torch.equal(y[others], clean[others])


def test_rows_as_bytes() -> None:
    digits, scales = quantize_rows_reference(torch.tensor([[1.0, -2.0, 0.5], [0, 0, 0], [1, torch.inf, 0]]))
    assert digits.tolist() == [[64, -127, 32], [0, 0, 0], [0, 0, 0]]
    assert scales[:2].flatten().tolist() == pytest.approx([2 / 127, 0.0])
    assert scales[2].isnan()


@pytest.mark.parametrize("format", FORMATS)
def test_extreme_weights(format: str) -> None:
    weight = torch.zeros(5, 70)
    weight[1, 3], weight[2, 4], weight[3], weight[4, 5] = torch.nan, torch.inf, 1e-39, 3e38
    y = ops.linear(torch.ones(1, 70), ops.pack_linear(weight, format=format))
    assert y[0, 0] == 0
    assert not y[0, 1:3].isfinite().any()
    assert y[0, 3] == 0
    torch.testing.assert_close(y[0, 4], torch.tensor(3e38), rtol=0.01, atol=0)


@pytest.mark.parametrize(("first", "second"), [("int8", "fp32"), ("fp32", "int8"), ("int4", "int8"), ("fp32", "int4")])
def test_moe_mlp_of_two_formats(first: str, second: str, isa: str) -> None:
    """Each weight's own format says how its rows are packed: the op gives the bits of its two products."""
    x, _, _, gate_up_proj, down_proj = cases.expert_layer((40, 1, 5, 72, 48), "random", torch.float32)
    gate_up = ops.pack_experts(gate_up_proj, down_proj, format=first).gate_up
    down = ops.pack_experts(gate_up_proj, down_proj, format=second).down
    experts = torch.arange(40, dtype=torch.int32).div(8, rounding_mode="floor").unsqueeze(1)
    offsets = torch.arange(0, 41, 8, dtype=torch.int32)
    op = torch.ops.llada_moe
    hidden = op.grouped_swiglu_packed(x, gate_up, 48, offsets)
    expected = op.grouped_gemm_packed(hidden, down, 72, offsets)
    assert torch.equal(op.moe_mlp_packed(x, torch.ones(40, 1), experts, gate_up, down, 48), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("choice", cases.EXPERT_CHOICES)
@pytest.mark.parametrize("shape", cases.EXPERT_LAYERS)
def test_moe_mlp(shape: tuple[int, ...], choice: str, format: str, dtype: torch.dtype, isa: str) -> None:
    layer = cases.expert_layer(shape, choice, dtype)
    packed = ops.pack_experts(*layer[3:], format=format)
    assert_close(ops.moe_mlp(*layer[:3], packed), ops.moe_mlp_reference(*layer[:3], packed), budget=5e-3)


@pytest.mark.parametrize("format", FORMATS)
def test_moe_mlp_bits_do_not_depend_on_batch_or_threads(format: str, isa: str) -> None:
    x, weights, experts, *plain = cases.expert_layer((100, 3, 5, 600, 48), "not_mine", torch.bfloat16)
    packed = ops.pack_experts(*plain, format=format)
    whole = ops.moe_mlp(x, weights, experts, packed)
    for t in range(0, 100, 9):
        one = slice(t, t + 1)
        assert torch.equal(ops.moe_mlp(x[one], weights[one], experts[one], packed)[0], whole[t])
    for count in (1, 3):
        with threads(count):
            assert torch.equal(ops.moe_mlp(x, weights, experts, packed), whole)


def test_how_far_quantised_experts_are_from_the_full_ones() -> None:
    layer = cases.expert_layer((64, 2, 4, 512, 256), "random", torch.float32)
    full = ops.moe_mlp(*layer)
    for format, most in (("int8", 0.03), ("int4", 0.2)):  # measured 0.018 and 0.15
        error = rms(ops.moe_mlp(*layer[:3], ops.pack_experts(*layer[3:], format=format)) - full) / rms(full)
        assert 0 < error < most


@pytest.mark.parametrize("format", FORMATS)
def test_token_confidence(format: str, isa: str) -> None:
    hidden = cases.random(17, 70, dtype=torch.float32, seed=1)
    head = ops.pack_linear(cases.random(300, 70, dtype=torch.float32, seed=2), format=format)
    ours, expected = ops.token_confidence(hidden, head), confidence_of_logits(ops.linear(hidden, head))
    assert torch.equal(ours.token, expected.token)
    torch.testing.assert_close(ours.logprob, expected.logprob, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.entropy, expected.entropy, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_panels_lie_at_words(format: str) -> None:
    x, layer = torch.zeros(1, 8), cases.expert_layer((1, 1, 2, 8, 16), "first", torch.float32)
    linear, experts = ops.pack_linear(torch.ones(5, 8), format), ops.pack_experts(*layer[3:], format)
    raw, offsets = torch.ops.llada_moe, torch.tensor([0, 0, 1], dtype=torch.int32)
    crooked, gate_up, down = map(shifted, (linear.panels, experts.gate_up, experts.down))
    message = "must be aligned to 4 bytes, got an address 1 past that"
    for name, call in (
        ("linear: weight", lambda: raw.linear_packed(x, crooked, 5, None)),
        ("pack_linear: packed", lambda: raw.pack_linear(torch.ones(5, 8), crooked)),
        ("token_confidence: lm_head", lambda: raw.token_confidence(x, crooked, True, 5)),
        ("moe_mlp: gate_up_proj", lambda: raw.moe_mlp_packed(*layer[:3], gate_up, experts.down, 16)),
        ("moe_mlp: down_proj", lambda: raw.moe_mlp_packed(*layer[:3], experts.gate_up, down, 16)),
        ("grouped_gemm: weight", lambda: raw.grouped_gemm_packed(layer[0].new_zeros(1, 16), down, 8, offsets)),
    ):
        with pytest.raises(RuntimeError, match=f"{name} {message}"):
            call()
    with pytest.raises(ValueError, match=f"PackedLinear: panels {message}"):
        ops.PackedLinear(crooked, 5, 8, format)
    with pytest.raises(ValueError, match=f"PackedExperts: down {message}"):
        ops.PackedExperts(experts.gate_up, down, 8, 16, format)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: ops.linear(torch.zeros(1, 9), ops.pack_linear(w, "int8")), r"x must be \[.., 8\], got \[1, 9\]"),
        (lambda w: ops.pack_linear(torch.zeros(1, 65537), "int8"), "at most 65536 inputs when quantised, got 65537"),
        (
            lambda w: torch.ops.llada_moe.linear_packed(torch.zeros(1, 8), torch.zeros(1, 5, dtype=torch.int8), 5),
            "shape",
        ),
        (lambda w: ops.pack_linear(w, "int3"), "format must be"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        call(torch.zeros(5, 8))
