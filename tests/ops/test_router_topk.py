"""router_topk and router: weights within the budget, choices as the reference's, ties, NaN, groups, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops.machine import extension
from llada_moe_ops.ops import linear
from llada_moe_ops.ops.router_topk import router, router_reference, router_topk, router_topk_reference
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from ..emulated import PATHS, SEEDS, emulated, emulated_ops, needs_emulator
from .budget import DTYPES, ISAS, assert_within_budget, forced_isa, threads

GOLDEN = load_file(Path(__file__).parent.parent / "data" / "golden" / "ops.safetensors")
GOLDEN_CASES = sorted({name.split("/")[1] for name in GOLDEN if name.startswith("router_topk/")})

SHAPES = [(1, 1, 1), (1, 5, 5), (17, 64, 8), (33, 7, 3), (5, 256, 8), (12, 31, 2), (13, 33, 33), (3, 65, 40)]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"renormalize": True},
    {"score": "sigmoid", "scale": 2.5},
    {"bias": True},
    {"bias": True, "bias_in_weights": False, "score": "sigmoid", "renormalize": True},
]


def options_of(template: dict[str, Any], num_experts: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    options = dict(template)
    if options.get("bias"):
        options["bias"] = (torch.rand(num_experts, generator=torch.Generator().manual_seed(5)) - 0.5).to(dtype)
    return options


def logits_of(tokens: int, num_experts: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Distinct within a row by more than any rounding, so that the choice is beyond doubt."""
    order = torch.rand(tokens, num_experts, generator=torch.Generator().manual_seed(tokens)).argsort(-1)
    return (order / 16 - 2).to(dtype)


@pytest.mark.parametrize("template", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_stays_within_the_budget(
    kernels: object, shape: tuple[int, int, int], dtype: torch.dtype, template: dict[str, Any]
) -> None:
    tokens, num_experts, k = shape
    logits = logits_of(tokens, num_experts, dtype)
    options = options_of(template, num_experts)
    weights, experts = router_topk(logits, k, **options)
    eager, chosen = router_topk_reference(logits, k, **options)
    assert torch.equal(experts, chosen)
    assert experts.dtype == torch.int32
    wide = logits.double()
    scores = wide.sigmoid() if options.get("score") == "sigmoid" else wide.softmax(-1)
    if "bias" in options and options.get("bias_in_weights", True):
        scores = scores + options["bias"].double()
    exact = scores.gather(-1, experts.long())
    if options.get("renormalize"):
        exact = exact / exact.sum(-1, keepdim=True)
    assert_within_budget(weights, eager, exact * options.get("scale", 1.0))


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden(kernels: object, case: str) -> None:
    data = {name: GOLDEN[f"router_topk/{case}/{name}"] for name in ("logits", "experts", "weights")}
    k = data["experts"].shape[1]
    weights, experts = router_topk(data["logits"], k)
    assert torch.equal(experts, data["experts"])
    assert torch.allclose(weights.double(), data["weights"], rtol=1e-6, atol=1e-9)
    renormalized, _ = router_topk(data["logits"], k, renormalize=True)
    expected = GOLDEN[f"router_topk/{case}/weights_renormalized"]
    assert torch.allclose(renormalized.double(), expected, rtol=1e-6, atol=1e-9)


def test_golden_bias_and_groups(kernels: object) -> None:
    def data(case: str) -> tuple[Tensor, ...]:
        return tuple(GOLDEN[f"{case}/{name}"] for name in ("logits", "bias", "weights", "experts"))

    logits, bias, expected, chosen = data("router_bias_weighs")
    weights, experts = router_topk(logits, chosen.shape[1], bias=bias)
    assert torch.equal(experts, chosen)
    assert torch.allclose(weights.double(), expected, rtol=1e-6)
    logits, bias, expected, chosen = data("router_grouped_sigmoid")
    options: dict[str, Any] = {"score": "sigmoid", "bias": bias, "bias_in_weights": False, "renormalize": True}
    weights, experts = router_topk(logits, 4, num_groups=6, topk_groups=2, scale=2.5, **options)
    # The published gate leaves a token's experts unordered.
    assert torch.equal(experts.sort(-1).values, chosen.sort(-1).values)
    ours, theirs = experts.argsort(-1), chosen.argsort(-1)
    assert torch.allclose(weights.double().gather(-1, ours), expected.gather(-1, theirs), rtol=1e-6)


@pytest.mark.parametrize("num_experts", [40, 64, 65, 130])
def test_ties_and_experts_that_a_bias_excludes(kernels: object, num_experts: int) -> None:
    generator = torch.Generator().manual_seed(num_experts)
    logits = torch.randint(-2, 3, (9, num_experts), generator=generator).float()
    bias = torch.where(torch.rand(num_experts, generator=generator) < 0.5, -torch.inf, 0.0)
    for k in (1, 8, num_experts - 1, num_experts):
        for options in ({}, {"score": "sigmoid", "bias": bias, "bias_in_weights": False}):
            weights, experts = router_topk(logits, k, **options)
            expected, chosen = router_topk_reference(logits, k, **options)
            assert torch.equal(experts, chosen)
            assert torch.allclose(weights, expected, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.sampled_from([(1, 1), (4, 2), (4, 1), (8, 3), (2, 2)]), st.integers(1, 4), st.data())
def test_groups_and_ties_as_the_reference(tokens: int, groups: tuple[int, int], size: int, data: Any) -> None:
    num_groups, topk_groups = groups
    logits = torch.randint(-2, 3, (tokens, num_groups * size), generator=torch.Generator().manual_seed(tokens)).float()
    k = data.draw(st.integers(1, topk_groups * size if num_groups > 1 else size))
    options = {"num_groups": num_groups, "topk_groups": topk_groups, "score": "sigmoid"}
    weights, experts = router_topk(logits, k, **options)
    expected, chosen = router_topk_reference(logits, k, **options)
    assert torch.equal(experts, chosen)
    assert torch.allclose(weights, expected, rtol=1e-6)


def test_equal_logits_go_to_lower_experts(kernels: object) -> None:
    weights, experts = router_topk(torch.zeros(3, 8), 5)
    assert experts.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert torch.allclose(weights, torch.full((3, 5), 1 / 8))


def test_nan_and_infinite_logits(kernels: object) -> None:
    logits = torch.zeros(4, 6)
    logits[0, 4] = torch.nan
    logits[1, 2] = torch.inf
    logits[2, 3] = -torch.inf
    for score in ("softmax", "sigmoid"):
        weights, experts = router_topk(logits, 6, score=score)
        expected, chosen = router_topk_reference(logits, 6, score=score)
        assert torch.equal(experts, chosen)
        assert torch.allclose(weights, expected, equal_nan=True)
        assert weights[0].isnan().any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 11, 12, 13, 40])
def test_router_is_the_product_and_the_choice(tokens: int, dtype: torch.dtype, isa: str) -> None:
    make = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, 50, generator=make).to(dtype)
    gate = torch.randn(33, 50, generator=make).to(dtype)
    with forced_isa(isa):
        weights, experts = router(x, gate, 4)
        expected, chosen = router_topk(linear(x, gate), 4)
        assert torch.equal(experts, chosen)
        assert torch.equal(weights, expected)
        for row in range(0, tokens, 7):
            alone, _ = router(x[row : row + 1], gate, 4)
            assert torch.equal(alone, weights[row : row + 1])


def test_threads_do_not_change_bits() -> None:
    x, gate = torch.randn(200, 64), torch.randn(70, 64)
    with threads(1):
        one = router(x, gate, 6)
    with threads(2):
        two = router(x, gate, 6)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


def test_strided_rows(kernels: object) -> None:
    wide = torch.randn(10, 40)
    logits = wide[:, 3:19]
    assert torch.equal(router_topk(logits, 3)[0], router_topk(logits.contiguous(), 3)[0])


@pytest.mark.parametrize("template", OPTIONS)
def test_gradients_are_the_reference_s(template: dict[str, Any]) -> None:
    logits = logits_of(6, 9).requires_grad_()
    options = options_of(template, 9)
    if "bias" in options:
        options["bias"].requires_grad_()
    tensors = [logits, *([options["bias"]] if "bias" in options else [])]
    factor = torch.randn(6, 4)
    ours = torch.autograd.grad((router_topk(logits, 4, **options)[0] * factor).sum(), tensors, allow_unused=True)
    loss = (router_topk_reference(logits, 4, **options)[0] * factor).sum()
    theirs = torch.autograd.grad(loss, tensors, allow_unused=True)
    for mine, reference in zip(ours, theirs, strict=True):
        if reference is not None:
            assert torch.allclose(mine, reference, rtol=1e-5, atol=1e-7)


def test_router_gradients() -> None:
    x, gate = torch.randn(6, 16, requires_grad=True), torch.randn(9, 16, requires_grad=True)
    factor = torch.randn(6, 3)
    ours = torch.autograd.grad((router(x, gate, 3)[0] * factor).sum(), [x, gate])
    theirs = torch.autograd.grad((router_reference(x, gate, 3)[0] * factor).sum(), [x, gate])
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, reference, rtol=1e-4, atol=1e-6)


def test_opcheck() -> None:
    ops = torch.ops.llada_moe
    bias = torch.rand(8, requires_grad=True)
    torch.library.opcheck(ops.router_topk.default, (torch.randn(5, 8, requires_grad=True), 3))
    torch.library.opcheck(
        ops.router_topk.default, (torch.randn(5, 8, requires_grad=True), 2, True, bias, True, 4, 2, True, 2.0)
    )
    x, gate = torch.randn(5, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    torch.library.opcheck(ops.router.default, (x, gate, 2))


def test_numpy_door() -> None:
    logits = logits_of(7, 16)
    weights, experts = extension().router_topk(logits.numpy(), 4, renormalize=True)
    expected, chosen = router_topk(logits, 4, renormalize=True)
    np.testing.assert_array_equal(weights, expected.numpy())
    np.testing.assert_array_equal(experts, chosen.numpy())
    with pytest.raises(ValueError, match="k must be within 1"):
        extension().router_topk(logits.numpy(), 17)


def test_errors() -> None:
    logits = torch.zeros(3, 8)
    with pytest.raises(TypeError, match=r"logits must be a torch\.Tensor"):
        router_topk(None, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="logits must be float32 or bfloat16, got float64"):
        router_topk(logits.double(), 2)
    with pytest.raises(ValueError, match=r"logits must have shape \[T, E\]"):
        router_topk(logits[0], 2)
    with pytest.raises(ValueError, match="contiguous last dimension"):
        router_topk(torch.zeros(8, 3).T, 2)
    for k in (0, 9):
        with pytest.raises(ValueError, match=f"k must be within 1 and 8, got {k}"):
            router_topk(logits, k)
    with pytest.raises(ValueError, match="score must be 'softmax' or 'sigmoid', got 'tanh'"):
        router_topk(logits, 2, score="tanh")
    with pytest.raises(ValueError, match="num_groups must be a divisor of 8, got 3"):
        router_topk(logits, 2, num_groups=3)
    with pytest.raises(ValueError, match="topk_groups must be within 1 and 4, got 5"):
        router_topk(logits, 2, num_groups=4, topk_groups=5)
    with pytest.raises(ValueError, match="k must be at most the experts of 1 groups, got 3"):
        router_topk(logits, 3, num_groups=4)
    with pytest.raises(ValueError, match=r"bias must have shape \[8\], got \[7\]"):
        router_topk(logits, 2, bias=torch.zeros(7))
    with pytest.raises(ValueError, match="bias must be on cpu, got meta"):
        router_topk(logits, 2, bias=torch.zeros(8, device="meta"))
    with pytest.raises(ValueError, match=r"gate_weight must have shape \[E, 8\]"):
        router(logits, torch.zeros(4, 7), 2)
    with pytest.raises(TypeError, match="gate_weight must be float32, got bfloat16"):
        router(logits, torch.zeros(4, 8).bfloat16(), 2)


def test_the_core_checks_too() -> None:
    logits, ops = torch.zeros(3, 8), torch.ops.llada_moe
    for arguments in [
        (logits, 9),
        (logits[0], 2),
        (logits.double(), 2),
        (logits, 2, False, torch.zeros(7)),
        (logits, -1),
    ]:
        with pytest.raises(RuntimeError, match="router_topk: "):
            ops.router_topk(*arguments)
    with pytest.raises(RuntimeError, match="router: "):
        ops.router(logits, torch.zeros(4, 7), 2)


@needs_emulator
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("groups", [(1, 1), (4, 2), (4, 1), (8, 3), (2, 2), (16, 16)])
@pytest.mark.parametrize("size", [1, 2, 5, 33])
def test_cuda_groups_and_ties_as_the_reference(size: int, groups: tuple[int, int], seed: int) -> None:
    num_groups, topk_groups = groups
    make = torch.Generator().manual_seed(seed)
    logits = torch.randint(-2, 3, (5, num_groups * size), generator=make).float()
    logits[0, size - 1] = torch.nan
    logits[1, 0] = -torch.inf
    options = {"num_groups": num_groups, "topk_groups": topk_groups, "score": "sigmoid"}
    k = min(9, topk_groups * size)
    expected, chosen = router_topk_reference(logits, k, **options)
    with emulated(seed):
        weights, experts = router_topk(logits, k, **options)
    assert torch.equal(experts, chosen)
    assert torch.allclose(weights, expected, rtol=1e-6, equal_nan=True)


@needs_emulator
@pytest.mark.parametrize("num_experts", [64, 65, 256, 257, 1024])
def test_cuda_at_the_edges_of_what_a_lane_holds(num_experts: int) -> None:
    logits = logits_of(5, num_experts)
    weights, experts = emulated_ops(3).router_topk(logits, 40)
    eager, chosen = router_topk_reference(logits, 40)
    assert torch.equal(experts, chosen)
    assert_within_budget(weights, eager, logits.double().softmax(-1).gather(-1, experts.long()))


@needs_emulator
def test_cuda_takes_float16_and_gives_one_result_for_every_order_of_threads() -> None:
    logits, bias = logits_of(9, 64, torch.float16), torch.rand(64).half()
    first = emulated_ops(0).router_topk(logits, 8, bias=bias, renormalize=True)
    for seed in SEEDS[1:]:
        again = emulated_ops(seed).router_topk(logits, 8, bias=bias, renormalize=True)
        assert all(torch.equal(mine, other) for mine, other in zip(again, first, strict=True))
    weights, experts = router_topk_reference(logits, 8, bias=bias, renormalize=True)
    assert torch.equal(first[1], experts)
    assert torch.allclose(first[0], weights, rtol=1e-6)
    for row in range(9):
        alone = emulated_ops(row).router_topk(logits[row : row + 1], 8, bias=bias, renormalize=True)
        assert torch.equal(alone[0][0], first[0][row])


def small_integers(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Their products' sums are exact in every dtype, in any order: the choice is beyond doubt, ties and all."""
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# CUDA's tiles: 16 tokens, 64 experts, two halves of H in steps of 64 (32 in fp32); above 256 experts product and choice
# are two kernels.
@needs_emulator
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_experts", [5, 63, 64, 65, 130, 256, 257])
@pytest.mark.parametrize("tokens", [0, 1, 15, 16, 17, 40])
def test_cuda_router_is_the_product_and_the_choice(tokens: int, num_experts: int, seed: int) -> None:
    hidden, dtype = (1, 64, 120, 136, 200, 264)[seed % 6], (*DTYPES, torch.float16)[seed % 3]
    x = small_integers(tokens, hidden, dtype=dtype, seed=seed)
    gate = small_integers(num_experts, hidden, dtype=dtype, seed=9 + seed)
    options = options_of(OPTIONS[seed % len(OPTIONS)], num_experts)
    bias, sigmoid = options.pop("bias", None), options.pop("score", "softmax") == "sigmoid"
    with emulated(seed, PATHS[seed // 4]):
        weights, experts = emulated_ops(seed).router(x, gate, 5, sigmoid, bias, **options)
    score = "sigmoid" if sigmoid else "softmax"
    expected, chosen = router_topk_reference(x.float() @ gate.float().T, 5, score=score, bias=bias, **options)
    assert torch.equal(experts, chosen)
    assert torch.allclose(weights, expected, rtol=1e-5, atol=1e-7)


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [96, 1031])
def test_cuda_router_stays_within_the_budget(hidden: int, dtype: torch.dtype) -> None:
    make = torch.Generator().manual_seed(hidden)
    x, gate = torch.randn(21, hidden, generator=make), torch.randn(33, hidden, generator=make) * hidden**-0.5
    x, gate = x.to(dtype), gate.to(dtype)
    with emulated(5):
        weights, experts = router(x, gate, 33)
    eager, chosen = router_reference(x, gate, 33)
    exact = functional.linear(x.double(), gate.double()).softmax(-1)
    ours, theirs = (
        values.gather(-1, order.long().argsort(-1)) for values, order in ((weights, experts), (eager, chosen))
    )
    assert_within_budget(ours, theirs, exact)


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_experts", "path"), [(64, "sm80"), (70, "sm80"), *((300, path) for path in PATHS)])
def test_cuda_routes_a_token_alike_alone_and_in_any_order_of_threads(
    num_experts: int, path: str, dtype: torch.dtype
) -> None:
    make = torch.Generator().manual_seed(3)
    x, gate = torch.randn(37, 232, generator=make).to(dtype), torch.randn(num_experts, 232, generator=make).to(dtype)
    with emulated(0, path):
        whole = router(x, gate, 8)
    for seed in SEEDS:
        rows = slice(4 * seed, 4 * seed + 1 + seed % 3)
        with emulated(seed, path):
            alone = router(x[rows], gate, 8)
        assert all(torch.equal(mine, all_of_them[rows]) for mine, all_of_them in zip(alone, whole, strict=True))
    wide, wider_gate = torch.zeros(37, 250).to(dtype), torch.zeros(num_experts, 250).to(dtype)
    for first in (8, 7):  # aligned to 16 bytes, and not
        wide[:, first : first + 232], wider_gate[:, first : first + 232] = x, gate
        with emulated(1, "sm80"):
            strided = router(wide[:, first : first + 232], wider_gate[:, first : first + 232], 8)
            expected = router(x, gate, 8)
        assert all(torch.equal(mine, other) for mine, other in zip(strided, expected, strict=True))


@needs_emulator
def test_cuda_checks_too() -> None:
    ops, logits = emulated_ops(), torch.zeros(3, 8)
    for arguments, message in [
        ((logits, 9), "k must be within 1 and 8, got 9"),
        ((logits.double(), 2), "logits must be float32 or bfloat16 or float16, got float64"),
        ((logits, 2, False, torch.zeros(7)), r"bias must have shape \[8\], got \[7\]"),
        ((torch.zeros(2, 1025), 2), "logits must be of at most 1024 experts on a GPU, got 1025"),
    ]:
        with pytest.raises(RuntimeError, match=f"router_topk: {message}"):
            ops.router_topk(*arguments)
    assert ops.router_topk(torch.zeros(0, 8), 2)[0].shape == (0, 2)
    with pytest.raises(RuntimeError, match="router: gate_weight must have shape"):
        ops.router(logits, torch.zeros(4, 7), 2)
    with pytest.raises(RuntimeError, match="router: gate_weight must be of at most 1024 experts on a GPU, got 1025"):
        ops.router(logits, torch.zeros(1025, 8), 2)
