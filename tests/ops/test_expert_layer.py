"""expert_layer against the ops it is made of, bit for bit, and against its reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from llada_moe_ops.ops import expert_layer, expert_layer_reference, pack_experts
from torch import Tensor

from tests.cases import random
from tests.ops.budget import AVAILABLE, threads

EPS = 1e-5
FORMATS = [("fp32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.bfloat16), ("int4", torch.float32)]
SHAPES = [
    ((1, 1, 24), 3, 1, 8),
    ((2, 7, 40), 5, 2, 16),
    ((13, 33), 4, 4, 17),
    ((1, 40, 64), 8, 3, 32),
    ((0, 16), 4, 2, 8),
]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"biased": True},
    "renormalized": {"renormalize": True, "scale": 2.5},
}


def arguments(
    shape: tuple[tuple[int, ...], int, int, int],
    format: str,
    dtype: torch.dtype,
    *,
    biased: bool = False,
    **options: Any,
) -> dict[str, Any]:
    sizes, experts, k, intermediate = shape
    hidden = sizes[-1]
    gate_up = random(experts, 2 * intermediate, hidden, dtype=torch.float32, seed=3, scale=hidden**-0.5)
    down = random(experts, hidden, intermediate, dtype=torch.float32, seed=4, scale=intermediate**-0.5)
    if biased:
        options["bias"] = random(experts, dtype=dtype, seed=5, scale=0.1)
    return {
        "update": random(*sizes, dtype=dtype, seed=0),
        "residual": random(*sizes, dtype=dtype, seed=1),
        "norm_weight": random(hidden, dtype=dtype, seed=2) + 1,
        "gate_weight": random(experts, hidden, dtype=dtype, seed=6),
        "experts": pack_experts(gate_up, down, format),
        "k": k,
        "eps": EPS,
        **options,
    }


def composed(values: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The ops one by one, as the model calls them."""
    normed, total = ops.add_rms_norm(values["update"], values["residual"], values["norm_weight"], EPS)
    rows = normed.view(-1, normed.shape[-1])
    options = {name: values[name] for name in ("bias", "renormalize", "scale") if name in values}
    weights, chosen = ops.router(rows, values["gate_weight"], values["k"], **options)
    return ops.moe_mlp(rows, weights.to(rows.dtype), chosen, values["experts"]).view_as(normed), total


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("format", "dtype"), FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_as_the_ops_one_by_one(
    isa: str, shape: tuple[tuple[int, ...], int, int, int], format: str, dtype: torch.dtype, variant: str
) -> None:
    values = arguments(shape, format, dtype, **VARIANTS[variant])
    for mine, other in zip(expert_layer(**values), composed(values), strict=True):
        assert mine.shape == other.shape
        assert mine.dtype == dtype
        assert torch.equal(mine, other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference(variant: str, isa: str) -> None:
    values = arguments(SHAPES[1], "fp32", torch.float32, **VARIANTS[variant])
    for mine, other in zip(expert_layer(**values), expert_layer_reference(**values), strict=True):
        assert mine.abs().amax() > 0.1
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_weights_give_the_same_bits(dtype: torch.dtype, variant: str) -> None:
    """They take the ops one by one, as on a GPU."""
    values = arguments(SHAPES[1], "bf16" if dtype == torch.bfloat16 else "fp32", dtype, **VARIANTS[variant])
    plain = {**values, "experts": values["experts"].unpack()}
    for mine, other in zip(expert_layer(**plain), expert_layer(**values), strict=True):
        assert torch.equal(mine, other)


def test_threads_and_batch_change_no_bit() -> None:
    values = arguments(((60, 64), 8, 3, 32), "int4", torch.bfloat16)
    results = []
    for count in (1, 2):
        with threads(count):
            results.append(expert_layer(**values))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
    row = {**values, **{name: values[name][17:18] for name in ("update", "residual")}}
    assert torch.equal(expert_layer(**row)[0], results[0][0][17:18])


def raw_arguments(values: dict[str, Any]) -> list[Any]:
    experts = values["experts"]
    first = [values[name] for name in ("update", "residual", "norm_weight", "eps", "gate_weight")]
    choice = [values.get("bias"), values["k"], values.get("renormalize", False), values.get("scale", 1.0)]
    return [*first, *choice, experts.gate_up, experts.down, experts.intermediate_size]


@pytest.mark.skipif(not AVAILABLE, reason="the extension is not built")
@pytest.mark.parametrize("variant", VARIANTS)
def test_opcheck(variant: str) -> None:
    values = arguments(SHAPES[1], "fp32", torch.float32, **VARIANTS[variant])
    # the layer is for inference: there is no autograd formula to test
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.llada_moe.expert_layer.default, raw_arguments(values), test_utils=tests)


@pytest.mark.skipif(not AVAILABLE, reason="the extension is not built")
def test_the_core_checks_too() -> None:
    values = arguments(SHAPES[1], "fp32", torch.float32, biased=True)
    good = raw_arguments(values)
    op = torch.ops.llada_moe.expert_layer
    op(*good)
    bad: list[tuple[int, Any]] = [
        (0, torch.tensor(1.0)),
        (0, values["update"].double()),
        (0, values["update"][..., :0]),
        (0, values["update"].transpose(0, 1)),
        (1, values["residual"][:1]),
        (1, values["residual"].bfloat16()),
        (2, values["norm_weight"][:5]),
        (4, values["gate_weight"][:3]),
        (4, values["gate_weight"][:, :3]),
        (4, values["gate_weight"].bfloat16()),
        (5, values["bias"][:2]),
        (6, 0),
        (6, 6),
        (6, 2**62),
        (9, good[9][:3]),
        (9, torch.tensor(1.0)),
        (9, good[9].bfloat16()),
        (10, good[10][:3]),
        (11, 0),
        (11, 2**62),
        (11, 2**63 - 1),
        (11, -1),
    ]
    for index, value in bad:
        with pytest.raises(RuntimeError, match=r"expert_layer: |rms_norm: |router: |moe_mlp: "):
            op(*good[:index], value, *good[index + 1 :])


def test_errors() -> None:
    values = arguments(SHAPES[1], "fp32", torch.float32)
    bad: list[tuple[str, Any, type[Exception], str]] = [
        ("update", [1.0], TypeError, r"update must be a torch\.Tensor, got list"),
        ("update", values["update"].half(), TypeError, "update must be float32 or bfloat16, got float16"),
        ("update", torch.tensor(1.0), ValueError, r"update must be \[\.\., H\]"),
        ("residual", values["residual"][:1], ValueError, r"residual must have shape \[2, 7, 40\]"),
        ("norm_weight", values["norm_weight"].bfloat16(), TypeError, "norm_weight must be float32, got bfloat16"),
        ("gate_weight", values["gate_weight"][:, :3], ValueError, r"gate_weight must have shape \[E, 40\]"),
        ("gate_weight", values["gate_weight"][:3], ValueError, "gate_weight must be of 5 experts, got 3"),
        ("experts", torch.zeros(3), TypeError, "experts must be PackedExperts or two tensors, got Tensor"),
        ("experts", arguments(SHAPES[2], "fp32", torch.float32)["experts"], ValueError, r"update must be \[\.\., 33\]"),
        ("experts", arguments(SHAPES[1], "bf16", torch.float32)["experts"], TypeError, "update must be bfloat16"),
        ("k", 6, ValueError, "k must be within 1 and 5, got 6"),
        ("eps", -1.0, ValueError, "eps must be not negative"),
        ("bias", torch.zeros(4), ValueError, r"bias must have shape \[5\]"),
    ]
    for name, value, error, message in bad:
        with pytest.raises(error, match=f"expert_layer: {message}"):
            expert_layer(**{**values, name: value})
