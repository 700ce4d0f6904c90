"""grouped_gemm and grouped_swiglu with packed weights in every format, and moe_mlp as their composition."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops import ops
from torch import Tensor

from tests import cases

from .budget import DTYPES, assert_within_budget, rms, threads
from .test_grouped_gemm import GROUPS, SIZES, inputs
from .test_quantized import assert_close

FORMATS = ("fp32", "bf16", "int8", "int4")
Packed = ops.PackedGroups | ops.PackedExperts
OPS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "grouped_gemm": (ops.grouped_gemm, ops.grouped_gemm_reference),
    "grouped_swiglu": (ops.grouped_swiglu, ops.grouped_swiglu_reference),
}


def pack(op: str, weight: Tensor, format: str | None) -> Packed:
    """The weight of either op, packed; the experts' down projection has nothing to do with it."""
    if op == "grouped_gemm":
        return ops.pack_grouped(weight, format)
    experts, rows, hidden = weight.shape
    return ops.pack_experts(weight, weight.new_ones(experts, hidden, rows // 2), format)


def activations(format: str) -> tuple[torch.dtype, ...]:
    return {"fp32": (torch.float32,), "bf16": (torch.bfloat16,)}.get(format, DTYPES)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("groups", GROUPS)
def test_follows_the_specification(groups: tuple[int, ...], format: str, op: str, isa: str) -> None:
    kernel, reference = OPS[op]
    for dtype in activations(format):
        for sizes in SIZES:
            x, weight, offsets = inputs(groups, sizes, dtype)
            packed = pack(op, weight, format)
            y, specified = kernel(x, packed, offsets), reference(x, packed, offsets)
            if packed.quantized:
                assert_close(y, specified)
            else:
                assert torch.equal(y, kernel(x, weight, offsets))
                assert y.shape == specified.shape
                if x.numel():
                    assert_within_budget(y, specified, reference(x.double(), weight.double(), offsets))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("sizes", [(520, 70), (2100, 320)])  # panels that stay in cache, and that do not
def test_bits_depend_on_the_row_alone(sizes: tuple[int, int], format: str, op: str, isa: str) -> None:
    kernel, _ = OPS[op]
    x, weight, offsets = inputs((1, 11, 0, 40), sizes, activations(format)[-1])
    packed = pack(op, weight, format)
    whole = kernel(x, packed, offsets)
    for group, (begin, end) in enumerate(zip(offsets.tolist(), offsets.tolist()[1:], strict=False)):
        alone = pack(op, weight[group : group + 1], format)
        for row in range(begin, end, 9):
            one_group = kernel(x[row : row + 1], alone, torch.tensor([0, 1]))
            assert torch.equal(one_group[0], whole[row])
            rising = (torch.arange(5) > group).int()
            assert torch.equal(kernel(x[row : row + 1], packed, rising)[0], whole[row])
    for count in (1, 3):
        with threads(count):
            assert torch.equal(kernel(x, packed, offsets), whole)


@pytest.mark.parametrize("format", FORMATS)
def test_linear_is_the_one_group_case(format: str, isa: str) -> None:
    x, weight, offsets = inputs((17,), (520, 65), activations(format)[0])
    grouped, dense = ops.pack_grouped(weight, format), ops.pack_linear(weight[0], format)
    assert torch.equal(grouped.panels[0], dense.panels)
    assert torch.equal(ops.grouped_gemm(x, grouped, offsets), ops.linear(x, dense))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("format", FORMATS)
def test_rows_of_no_group_are_zero_and_rows_may_be_strided(format: str, op: str, isa: str) -> None:
    kernel, _ = OPS[op]
    x, weight, offsets = inputs((3, 0, 5), (40, 34), activations(format)[0])
    packed = pack(op, weight, format)
    expected = kernel(x, packed, offsets)
    wide = torch.full((12, 51), torch.nan, dtype=x.dtype)
    wide[:8, 5:45] = x
    y = kernel(wide[:, 5:45], packed, offsets.long())
    assert torch.equal(y[:8], expected)
    assert y[8:].shape[0] == 4
    assert y[8:].count_nonzero() == 0


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_nan_reaches_its_row_only(format: str, isa: str) -> None:
    x, weight, offsets = inputs((6, 8), (50, 40), torch.float32)
    packed = ops.pack_grouped(weight, format)
    clean = ops.grouped_gemm(x, packed, offsets)
    x[3, 7], x[9, 49] = torch.nan, torch.inf
    y = ops.grouped_gemm(x, packed, offsets)
    assert y[[3, 9]].isnan().all()
    others = [row for row in range(14) if row not in (3, 9)]
    assert torch.equal(y[others], clean[others])


# Of the result's size. The composition rounds each expert's output to the activations' dtype before the weighted sum,
# which moe_mlp keeps in fp32: half a unit in the last place of each of the summands. The intermediate has the same bits
# in both.
ROUNDING = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", cases.EXPERT_LAYERS)
@pytest.mark.parametrize("choice", ["random", "not_mine"])
def test_moe_mlp_is_the_composition(choice: str, shape: tuple[int, ...], format: str, isa: str) -> None:
    for dtype in activations(format):
        x, weights, experts, gate_up_proj, down_proj = cases.expert_layer(shape, choice, dtype)
        packed = ops.pack_experts(gate_up_proj, down_proj, format)
        down = ops.PackedGroups(packed.down, packed.hidden_size, packed.intermediate_size, format)
        assert torch.equal(down.panels, ops.pack_grouped(down_proj, format).panels)
        order, offsets = ops.expert_order(experts, packed.num_experts)
        x_sorted = ops.permute(x, order, experts.shape[1])
        hidden = ops.grouped_swiglu(x_sorted, packed, offsets)
        composed = ops.unpermute(ops.grouped_gemm(hidden, down, offsets), order, weights)
        fused = ops.moe_mlp(x, weights, experts, packed)
        assert composed.dtype == fused.dtype
        assert composed.shape == fused.shape
        assert rms(composed.double() - fused) <= ROUNDING[dtype] * rms(fused) if fused.numel() else True


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.integers(0, 70), st.integers(0, 70), st.sampled_from(FORMATS), st.sampled_from(DTYPES))
def test_packing(groups: int, columns: int, k: int, format: str, dtype: torch.dtype) -> None:
    weight = cases.random(groups, columns, k, dtype=dtype, seed=1)
    packed = ops.pack_grouped(weight, format)
    assert (packed.num_groups, packed.out_features, packed.in_features) == (groups, columns, k)
    assert packed.nbytes == packed.panels.nbytes
    assert packed.unpack().shape == weight.shape
    for group in range(groups):
        one = ops.pack_linear(weight[group], format)
        assert torch.equal(packed.panels[group], one.panels)
        assert torch.equal(packed.unpack()[group], one.unpack())
    if not packed.quantized:
        assert torch.equal(packed.unpack(), weight.to(packed.panels.dtype))
    assert ops.pack_grouped(weight).panels.dtype == dtype


@pytest.mark.parametrize("format", FORMATS)
def test_the_reference_packs_alike(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extension the same panels are made and read, by plain PyTorch."""
    x, weight, offsets = inputs((3, 0, 5), (40, 34), activations(format)[0])
    packed = ops.pack_grouped(weight, format)
    with monkeypatch.context() as patched:
        for module in ("packing", "grouped_gemm"):
            patched.setattr(import_module(f"llada_moe_ops.ops.{module}"), "runs_natively", lambda x, op="": False)
        slow = ops.pack_grouped(weight, format)
        y = ops.grouped_gemm(x, slow, offsets)
    assert_close(y, ops.grouped_gemm(x, slow, offsets))
    if format == "int4":  # near-equal choices of a multiplier may fall differently
        errors = [rms(choice.unpack() - weight) for choice in (slow, packed)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    else:
        assert torch.equal(slow.panels, packed.panels)


def test_opcheck_and_compile() -> None:
    x, weight, offsets = inputs((3, 0, 5), (8, 6), torch.float32)
    groups, experts = ops.pack_grouped(weight, "int8"), pack("grouped_swiglu", weight, "int8")
    assert isinstance(experts, ops.PackedExperts)
    torch.library.opcheck(torch.ops.llada_moe.grouped_gemm_packed.default, (x, groups.panels, 6, offsets))
    torch.library.opcheck(torch.ops.llada_moe.grouped_swiglu_packed.default, (x, experts.gate_up, 3, offsets))
    for op, packed in (("grouped_gemm", groups), ("grouped_swiglu", experts)):
        kernel, _ = OPS[op]
        compiled = torch.compile(lambda t, k=kernel, w=packed: k(t, w, offsets), backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(x), kernel(x, packed, offsets))


X, WEIGHT, OFFSETS = inputs((3, 5), (8, 6), torch.float32)
ERRORS: list[tuple[Callable[[str], Any], type[Exception], str]] = [
    (lambda op: OPS[op][0](X[:, :7], pack(op, WEIGHT, None), OFFSETS), ValueError, r"x_sorted must be \[.., 8\], got"),
    (lambda op: OPS[op][0](X.bfloat16(), pack(op, WEIGHT, None), OFFSETS), TypeError, "x_sorted must be float32, the"),
    (lambda op: OPS[op][0](X.half(), pack(op, WEIGHT, "int4"), OFFSETS), TypeError, "x_sorted must be float32 or bf"),
    (lambda op: OPS[op][0](X, pack(op, WEIGHT, "int8"), OFFSETS[:2]), ValueError, r"offsets must have shape \[3\]"),
    (lambda op: OPS[op][0](X, pack(op, WEIGHT, "int8"), OFFSETS.flip(0)), ValueError, "offsets must be rising from 0"),
    (lambda op: OPS[op][0](X, pack(op, WEIGHT, "int8"), OFFSETS + 1), ValueError, r"offsets must be in 0 .. 8, got 9"),
    (lambda op: OPS[op][0](X, ops.pack_linear(WEIGHT[0]), OFFSETS), TypeError, "must be a torch.Tensor, got PackedLi"),
]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors(call: Callable[[str], Any], error: type[Exception], message: str, op: str) -> None:
    with pytest.raises(error, match=f"{op}: .*{message}"):
        call(op)


def test_errors_of_packing() -> None:
    with pytest.raises(ValueError, match=r"pack_grouped: weight must have shape \[E, N, K\], got \[6, 8\]"):
        ops.pack_grouped(WEIGHT[0])
    with pytest.raises(TypeError, match="pack_grouped: weight must be float32 or bfloat16, got float16"):
        ops.pack_grouped(WEIGHT.half())
    with pytest.raises(ValueError, match="pack_grouped: format must be 'fp32' or 'bf16' or 'int8' or 'int4', got 'x'"):
        ops.pack_grouped(WEIGHT, "x")
    with pytest.raises(ValueError, match="pack_grouped: weight must have a contiguous last dimension"):
        ops.pack_grouped(WEIGHT.mT)


@pytest.mark.parametrize("format", FORMATS)
def test_the_ops_themselves_check(format: str) -> None:
    x = X.bfloat16() if format == "bf16" else X
    for op in OPS:
        packed = pack(op, WEIGHT, format)
        panels = packed.gate_up if isinstance(packed, ops.PackedExperts) else packed.panels
        size = packed.intermediate_size if isinstance(packed, ops.PackedExperts) else packed.out_features
        call = getattr(torch.ops.llada_moe, f"{op}_packed")
        for arguments in (
            (x.repeat(1, 10), panels, size, OFFSETS),
            (x, panels[:, :0], size, OFFSETS),
            (x, panels[:1], size, OFFSETS),
            (x, panels.flatten(), size, OFFSETS),
            (x, panels.flatten()[0], size, OFFSETS),
            (x, panels.double(), size, OFFSETS),
            (x, panels, 33, OFFSETS),
            (x, panels, -1, OFFSETS),
            (x, panels, size, OFFSETS.long()),
            (x, panels, size, OFFSETS + 1),
            (x, panels.transpose(0, 1), size, OFFSETS),
            (x[0], panels, size, OFFSETS),
        ):
            with pytest.raises(RuntimeError, match=f"{op}|grouped_gemm or grouped_swiglu"):
                call(*arguments)
