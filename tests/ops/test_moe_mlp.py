"""moe_mlp: budget, golden data, bits, packing, skipped experts, gradients, errors."""

from __future__ import annotations

from importlib import import_module
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
from tests.emulated import ON_GPU, PATHS, SEEDS, emulated, emulated_ops, launches, needs_emulator
from tests.golden import tensors

from .budget import DTYPES, assert_within_budget, assert_within_budget_or_zero, threads


def in_float64(x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
    """Every token through every one of its experts, all in float64."""
    y = torch.zeros_like(x, dtype=torch.float64)
    for expert in range(gate_up_proj.shape[0]):
        weight = (weights.double() * (experts == expert)).sum(-1, keepdim=True)
        gate, up = (x.double() @ gate_up_proj[expert].double().T).chunk(2, -1)
        y += weight * ((functional.silu(gate) * up) @ down_proj[expert].double().T)
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("choice", cases.EXPERT_CHOICES)
@pytest.mark.parametrize("shape", cases.EXPERT_LAYERS)
def test_stays_within_the_budget(shape: tuple[int, ...], choice: str, dtype: torch.dtype, isa: str) -> None:
    layer = cases.expert_layer(shape, choice, dtype)
    y, exact = ops.moe_mlp(*layer), in_float64(*layer)
    assert torch.equal(y, ops.moe_mlp(*layer[:3], ops.pack_experts(*layer[3:])))
    if exact.count_nonzero() == 0:
        assert y.shape == exact.shape
        assert y.count_nonzero() == 0
    else:
        assert_within_budget(y, ops.moe_mlp_reference(*layer), exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_golden(dtype: torch.dtype, isa: str) -> None:
    golden = {name.removeprefix("moe_mlp/"): value for name, value in tensors("ops").items() if "moe_mlp/" in name}
    x, gate_up_proj, down_proj = (golden[name].to(dtype) for name in ("x", "gate_up", "down"))
    y = ops.moe_mlp(x, golden["weights"], golden["experts"], gate_up_proj, down_proj)
    eager = ops.moe_mlp_reference(x, golden["weights"], golden["experts"], gate_up_proj, down_proj)
    assert_within_budget(y, golden["out_reference_fp32"] if dtype == torch.float32 else eager, golden["out_float64"])
    x_sorted = x[golden["order"].long() // 3]
    hidden = ops.grouped_swiglu(x_sorted, gate_up_proj, golden["offsets"])
    eager_hidden = ops.grouped_swiglu_reference(x_sorted, gate_up_proj, golden["offsets"])
    assert_within_budget(hidden, eager_hidden, golden["swiglu_sorted"])
    down = ops.grouped_gemm(hidden, down_proj, golden["offsets"])
    eager_down = ops.grouped_gemm_reference(eager_hidden, down_proj, golden["offsets"])
    assert_within_budget(down, eager_down, golden["down_sorted"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_alone_gives_the_same_bits(dtype: torch.dtype, isa: str) -> None:
    x, weights, experts, gate_up_proj, down_proj = cases.expert_layer((40, 3, 5, 600, 48), "not_mine", dtype)
    whole = ops.moe_mlp(x, weights, experts, gate_up_proj, down_proj)
    packed = ops.pack_experts(gate_up_proj, down_proj)
    for t in range(0, 40, 3):
        one = slice(t, t + 1)
        assert torch.equal(ops.moe_mlp(x[one], weights[one], experts[one], packed)[0], whole[t])
    order = torch.arange(39, -1, -1)
    assert torch.equal(ops.moe_mlp(x[order], weights[order], experts[order], packed), whole[order])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("choice", ["random", "last"])
def test_threads_do_not_change_bits(choice: str, dtype: torch.dtype, isa: str) -> None:
    layer = cases.expert_layer((100, 3, 5, 64, 48), choice, dtype)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(ops.moe_mlp(*layer))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("format", ["fp32", "bf16", "int8", "int4"])
def test_many_tokens_go_in_several_passes(format: str, isa: str) -> None:
    """1024 tokens whose outputs are added up as they come, then 476 whose outputs are stored past the caches.

    The pieces have theirs stored, or lie in both.
    """
    dtype = torch.float32 if format == "fp32" else torch.bfloat16
    x, weights, experts, *projections = cases.expert_layer((1500, 8, 8, 2048, 16), "not_mine", dtype)
    packed = ops.pack_experts(*projections, format=format)
    y = ops.moe_mlp(x, weights, experts, packed)
    for piece in (slice(0, 40), slice(1000, 1100), slice(1490, 1500)):
        assert torch.equal(ops.moe_mlp(x[piece], weights[piece], experts[piece], packed), y[piece])
    for count in (1, 3):
        with threads(count):
            assert torch.equal(ops.moe_mlp(x, weights, experts, packed), y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs(dtype: torch.dtype, isa: str) -> None:
    x, weights, experts, gate_up_proj, down_proj = cases.expert_layer((13, 2, 4, 64, 32), "random", dtype)
    expected = ops.moe_mlp(
        x[:, 3:40].contiguous(), weights, experts, gate_up_proj[..., 3:40].contiguous(), down_proj[:, 3:40].contiguous()
    )
    wide = experts.repeat_interleave(2, dim=1)[:, ::2]
    got = ops.moe_mlp(x[:, 3:40], weights, wide.long(), gate_up_proj[..., 3:40], down_proj[:, 3:40])
    assert torch.equal(got, expected)
    rounded = weights.to(dtype)
    assert torch.equal(
        ops.moe_mlp(x, rounded, experts, gate_up_proj, down_proj),
        ops.moe_mlp(x, rounded.float(), experts, gate_up_proj, down_proj),
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 6), st.integers(1, 40), st.integers(1, 40))
def test_packing_loses_nothing(tokens: int, k: int, experts: int, hidden: int, intermediate: int) -> None:
    for dtype in DTYPES:
        layer = cases.expert_layer((tokens, k, experts, hidden, intermediate), "not_mine", dtype)
        packed = ops.pack_experts(*layer[3:])
        for unpacked, plain in zip(packed.unpack(), layer[3:], strict=True):
            assert torch.equal(unpacked, plain)
        assert torch.equal(ops.moe_mlp(*layer[:3], packed), ops.moe_mlp(*layer))


def test_packing_expert_by_expert() -> None:
    gate_up_proj, down_proj = cases.expert_layer((1, 1, 3, 20, 24), "random", torch.bfloat16)[3:]
    packed = ops.PackedExperts.empty(3, 20, 24, "bf16")
    for expert in range(3):
        packed.set_expert(expert, gate_up_proj[expert, :24], gate_up_proj[expert, 24:], down_proj[expert])
    whole = ops.pack_experts(gate_up_proj, down_proj)
    assert torch.equal(packed.gate_up, whole.gate_up)
    assert torch.equal(packed.down, whole.down)
    assert (packed.num_experts, packed.format) == (3, "bf16")
    assert packed.nbytes == packed.gate_up.nbytes + packed.down.nbytes
    with pytest.raises(ValueError, match=r"set_expert: expert must be in 0 .. 2, got 3"):
        packed.set_expert(3, gate_up_proj[0, :24], gate_up_proj[0, 24:], down_proj[0])
    with pytest.raises(ValueError, match=r"set_expert: up must have shape \[24, 20\]"):
        packed.set_expert(0, gate_up_proj[0, :24], gate_up_proj[0, :23], down_proj[0])
    with pytest.raises(TypeError, match="set_expert: down must be bfloat16, got float32"):
        packed.set_expert(0, gate_up_proj[0, :24], gate_up_proj[0, 24:], down_proj[0].float())
    with pytest.raises(ValueError, match="format must be 'fp32' or 'bf16' or 'int8' or 'int4', got 'fp16'"):
        ops.PackedExperts.empty(3, 20, 24, "fp16")
    with pytest.raises(ValueError, match="sizes must be not negative"):
        ops.PackedExperts.empty(3, -20, 24, "fp32")


def test_the_reference_packs_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extension the same panels are made and read, by plain PyTorch."""
    layer = cases.expert_layer((9, 2, 3, 20, 24), "random", torch.float32)
    packed = ops.pack_experts(*layer[3:])
    y = ops.moe_mlp(*layer)
    for module in ("packing", "moe_mlp", "linear", "grouped_gemm"):
        monkeypatch.setattr(import_module(f"llada_moe_ops.ops.{module}"), "runs_natively", lambda x, op="": False)
    slow = ops.pack_experts(*layer[3:])
    assert torch.equal(slow.gate_up, packed.gate_up)
    assert torch.equal(slow.down, packed.down)
    torch.testing.assert_close(ops.moe_mlp(*layer[:3], slow), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choice", ["random", "not_mine", "last"])
def test_gradients(choice: str) -> None:
    x, weights, experts, gate_up_proj, down_proj = cases.expert_layer((13, 2, 4, 12, 10), choice, torch.float32)
    leaves = [leaf.requires_grad_() for leaf in (x, weights, gate_up_proj, down_proj)]
    got = torch.autograd.grad(ops.moe_mlp(x, weights, experts, gate_up_proj, down_proj).square().sum(), leaves)
    reference = ops.moe_mlp_reference(x, weights, experts, gate_up_proj, down_proj)
    expected = torch.autograd.grad(reference.square().sum(), leaves)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_opcheck_and_compile() -> None:
    x, weights, experts, gate_up_proj, down_proj = cases.expert_layer((13, 2, 4, 12, 10), "not_mine", torch.float32)
    packed = ops.pack_experts(gate_up_proj, down_proj)
    arguments = (x, weights, experts, packed.gate_up, packed.down, 10)
    torch.library.opcheck(torch.ops.llada_moe.moe_mlp_packed.default, arguments)
    gate, up = gate_up_proj[0].chunk(2)
    torch.library.opcheck(
        torch.ops.llada_moe.pack_expert.default, (gate, up, down_proj[0], packed.gate_up[0], packed.down[0])
    )
    compiled = torch.compile(lambda t: ops.moe_mlp(t, weights, experts, packed), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), ops.moe_mlp(x, weights, experts, packed))
    leaves = [leaf.requires_grad_() for leaf in (x, weights, gate_up_proj, down_proj)]
    torch.library.opcheck(torch.ops.llada_moe.moe_mlp.default, (*leaves[:2], experts, *leaves[2:]))


LAYER = cases.expert_layer((5, 2, 4, 12, 10), "random", torch.float32)
ERRORS: list[tuple[dict[int, Any], type[Exception], str]] = [
    ({0: LAYER[0].double()}, TypeError, "x must be float32 or bfloat16, got float64"),
    ({0: LAYER[0][0]}, ValueError, r"x must have shape \[T, H\], got \[12\]"),
    ({0: LAYER[0].T.contiguous().T}, ValueError, "x must have a contiguous last dimension"),
    ({1: LAYER[1][:4]}, ValueError, r"weights must have shape \[5, k\], got \[4, 2\]"),
    ({1: LAYER[1].double()}, TypeError, "weights must be float32"),
    ({2: LAYER[2][:, :1]}, ValueError, r"experts must have shape \[5, 2\], got \[5, 1\]"),
    ({2: LAYER[2].float()}, TypeError, "experts must be int32 or int64, got float32"),
    ({2: LAYER[2] + 4}, ValueError, r"experts must be in 0 .. 4, got \d"),
    ({2: LAYER[2] - 4}, ValueError, r"experts must be in 0 .. 4, got -\d"),
    ({2: LAYER[2].long() + 2**32}, ValueError, r"experts must be in 0 .. 4, got 429496729\d"),
    ({3: LAYER[3][..., :11]}, ValueError, r"gate_up_proj must have shape \[E, 2I, 12\], got \[4, 20, 11\]"),
    ({3: LAYER[3].bfloat16()}, TypeError, "gate_up_proj must be float32, got bfloat16"),
    ({3: LAYER[3][:, :19]}, ValueError, "gate_up_proj must be of an even second size"),
    ({4: LAYER[4][:3]}, ValueError, r"down_proj must have shape \[4, 12, 10\], got \[3, 12, 10\]"),
    ({4: None}, TypeError, "down_proj must be a torch.Tensor, got NoneType"),
]


@pytest.mark.parametrize(("changes", "error", "message"), ERRORS)
def test_errors(changes: dict[int, Any], error: type[Exception], message: str) -> None:
    arguments = [changes.get(i, value) for i, value in enumerate(LAYER)]
    with pytest.raises(error, match=f"moe_mlp: {message}"):
        ops.moe_mlp(*arguments)
    with pytest.raises(RuntimeError):
        torch.ops.llada_moe.moe_mlp(*arguments)


def test_errors_of_packed_experts() -> None:
    packed = ops.pack_experts(*LAYER[3:])
    with pytest.raises(ValueError, match="down_proj must be absent when the experts are packed"):
        ops.moe_mlp(*LAYER[:3], packed, LAYER[4])
    with pytest.raises(ValueError, match=r"x must be \[T, 12\], got \[5, 11\]"):
        ops.moe_mlp(LAYER[0][:, :11], *LAYER[1:3], packed)
    for format in ("int8", "int4"):  # their last lane has room for the missing value
        with pytest.raises(ValueError, match=r"x must be \[T, 12\], got \[5, 11\]"):
            ops.moe_mlp(LAYER[0][:, :11], *LAYER[1:3], ops.pack_experts(*LAYER[3:], format=format))
    with pytest.raises(TypeError, match="x must be float32, the dtype of the packed weights, got bfloat16"):
        ops.moe_mlp(LAYER[0].bfloat16(), *LAYER[1:3], packed)
    op = torch.ops.llada_moe.moe_mlp_packed
    for gate_up, down, size in (
        (packed.gate_up[:2], packed.down, 10),
        (packed.gate_up, packed.down, 17),
        (packed.gate_up, packed.down, -1),
        (packed.gate_up, packed.down.flatten(), 10),
        (packed.gate_up.bfloat16(), packed.down, 10),
        (packed.gate_up[0, 0, 0, 0, 0], packed.down, 10),
    ):
        with pytest.raises(RuntimeError, match="moe_mlp: "):
            op(*LAYER[:3], gate_up, down, size)


def test_numpy_door() -> None:
    native = extension()
    arrays = [value.numpy() for value in LAYER]
    assert torch.equal(torch.from_numpy(native.moe_mlp(*arrays)), ops.moe_mlp(*LAYER))
    half = [value.bfloat16() if i in (0, 3, 4) else value for i, value in enumerate(LAYER)]
    assert torch.equal(torch.from_dlpack(native.moe_mlp(*half)), ops.moe_mlp(*half))
    with pytest.raises(ValueError, match=r"experts must be in 0 .. 4, got"):
        native.moe_mlp(*arrays[:2], arrays[2] + 4, *arrays[3:])
    wide = native.moe_mlp(*arrays[:2], arrays[2].astype("int64"), *arrays[3:])
    assert torch.equal(torch.from_numpy(wide), ops.moe_mlp(*LAYER))
    with pytest.raises(TypeError, match="experts must be int32 or int64, got float32"):
        native.moe_mlp(*arrays[:2], arrays[2].astype("float32"), *arrays[3:])


# CUDA's tiles: 32 or 64 assignments, or 128 or 192 from more than that per expert on; 64 of I, 128 of H; 64 deep, 32 in
# fp32.
CUDA_LAYERS = (*cases.EXPERT_LAYERS, (16, 2, 1, 72, 64), (200, 1, 1, 264, 136), (70, 4, 3, 128, 72))


@needs_emulator
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", CUDA_LAYERS)
def test_cuda_stays_within_the_budget(shape: tuple[int, ...], path: str, seed: int) -> None:
    for choice in cases.EXPERT_CHOICES[seed % 3 :: 3]:
        layer = cases.expert_layer(shape, choice, (*DTYPES, torch.float16)[seed * 3 // 8])
        with emulated(seed, path):
            y = emulated_ops(seed).moe_mlp(*layer)
        assert_within_budget_or_zero(y, ops.moe_mlp_reference(*layer), in_float64(*layer))


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_gives_a_token_the_same_bits_alone_and_in_any_order_of_threads(dtype: torch.dtype, path: str) -> None:
    x, weights, experts, gate_up_proj, down_proj = cases.expert_layer((110, 3, 5, 200, 136), "not_mine", dtype)
    experts[40:, 0] = 3  # more of one expert than the smaller tile has rows
    with emulated(0, path):
        whole = ops.moe_mlp(x, weights, experts, gate_up_proj, down_proj)
    for seed in SEEDS:
        rows = slice(11 * seed, 11 * seed + 1 + seed % 3)
        with emulated(seed, path):
            alone = ops.moe_mlp(x[rows], weights[rows], experts[rows], gate_up_proj, down_proj)
            assert torch.equal(alone, whole[rows])
            if seed in (3, 6):
                assert torch.equal(ops.moe_mlp(x, weights, experts, gate_up_proj, down_proj), whole)


@needs_emulator
@pytest.mark.skipif(ON_GPU, reason="counts launches in the emulator")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tokens", [1, 64, 128, 129, 512, 513, 4097])
def test_cuda_routes_and_sorts_in_few_launches(tokens: int, path: str) -> None:
    """One for the router with its product, one for order and offsets; tiles find their experts in the offsets. Hopper's
    first product sorts few rows itself. Two products, one launch to combine."""
    x = torch.randn(tokens, 16, dtype=torch.bfloat16)
    gate_up, down = torch.randn(64, 16, 16).bfloat16(), torch.randn(64, 16, 8).bfloat16()
    with emulated(0, path):
        begun = launches()
        weights, experts = ops.router(x, torch.randn(64, 16).bfloat16(), 8)
        assert launches() - begun == 1
        ops.expert_order(experts, 64)
        assert launches() - begun == 2
        begun = launches()
        ops.moe_mlp(x, weights, experts, gate_up, down)
        sorts_itself = path == "sm90a" and tokens <= 128
        assert launches() - begun == 3 + (not sorts_itself)


@needs_emulator
@pytest.mark.skipif(ON_GPU, reason="counts launches in the emulator")
def test_cuda_routes_and_sorts_the_longest_batch_in_two_launches() -> None:
    """16384 tokens of the 7B model: its expert layer takes them in one pass."""
    tokens = 16384
    weights, experts = ops.router(torch.randn(1, 16), torch.randn(64, 16), 8)
    experts = torch.full_like(experts, 64).expand(tokens, 8).contiguous()  # none is mine: no products to wait for
    x, gate_up = torch.zeros(tokens, 2048, dtype=torch.bfloat16), torch.zeros(64, 16, 2048, dtype=torch.bfloat16)
    with emulated(0, "sm80"):
        begun = launches()
        ops.router(x[:, :16], torch.randn(64, 16).bfloat16(), 8)
        ops.expert_order(experts, 64)
        assert launches() - begun == 2
        begun = launches()
        ops.moe_mlp(x, weights.expand(tokens, 8).contiguous(), experts, gate_up, torch.zeros(64, 2048, 8).bfloat16())
        assert launches() - begun == 4


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
def test_cuda_takes_many_tokens_in_several_passes(path: str) -> None:
    """More outputs than the workspace holds at a time, nearly all of them not mine."""
    x, weights, experts, gate_up_proj, down_proj = cases.expert_layer(
        (2054, 8, 1, 1 << 14, 1), "all_not_mine", DTYPES[1]
    )
    mine = [5, 2047, 2048, 2053]
    experts[mine, 3:5] = 0
    with emulated(1, path):
        y = emulated_ops(1).moe_mlp(x, weights, experts, gate_up_proj, down_proj)
        alone = emulated_ops(2).moe_mlp(x[mine], weights[mine], experts[mine], gate_up_proj, down_proj)
    assert torch.equal(y[mine], alone)
    assert y[mine].count_nonzero() > 0.9 * y[mine].numel()
    assert y.count_nonzero() == y[mine].count_nonzero()


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_takes_strided_inputs(dtype: torch.dtype, path: str) -> None:
    x, weights, experts, gate_up_proj, down_proj = cases.expert_layer((13, 2, 4, 64, 32), "random", dtype)
    for columns in (slice(8, 48), slice(3, 40)):
        strided = x[:, columns], weights, experts, gate_up_proj[..., columns], down_proj[:, columns]
        with emulated(2, path):
            expected = ops.moe_mlp(*(value.contiguous() for value in strided))
        with emulated(4, path):
            assert torch.equal(ops.moe_mlp(*strided), expected)
            assert torch.equal(ops.moe_mlp(*strided[:2], experts.long(), *strided[3:]), expected)


@needs_emulator
@pytest.mark.parametrize("path", PATHS)
def test_cuda_skips_experts_out_of_range(path: str) -> None:
    """They are not read by the host, and count as not mine, whatever their weight."""
    x, weights, experts, gate_up_proj, down_proj = cases.expert_layer((20, 3, 4, 40, 24), "random", torch.bfloat16)
    out = torch.rand(20, 3, generator=torch.Generator().manual_seed(1)) < 0.3
    with emulated(2, path):
        kept = ops.moe_mlp(x, weights, experts.masked_fill(out, 4), gate_up_proj, down_proj)
    nan = weights.masked_fill(out, torch.nan)
    for bad in (-1, 5, 1 << 30):
        with emulated(5, path):
            y = emulated_ops(5).moe_mlp(x, nan, experts.masked_fill(out, bad), gate_up_proj, down_proj)
        assert torch.equal(y, kept)


@needs_emulator
# The host reads no values: experts out of range are skipped by the kernel (above).
@pytest.mark.parametrize("changes", [changes for changes, _, message in ERRORS if "in 0 .. 4" not in message])
def test_cuda_checks_too(changes: dict[int, Any]) -> None:
    arguments = [changes.get(i, value) for i, value in enumerate(LAYER)]
    with pytest.raises(RuntimeError):
        emulated_ops().moe_mlp(*arguments)
