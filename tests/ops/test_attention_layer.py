"""attention_layer against the ops it is made of, bit for bit, and against its reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from llada_moe_ops.ops import PackedLinear, attention_layer, attention_layer_reference, pack_linear
from llada_moe_ops.ops.norm_rope import rope_frequencies
from torch import Tensor

from tests.cases import random
from tests.ops.budget import AVAILABLE, threads

EPS = 1e-5
FORMATS = [("fp32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.bfloat16), ("int4", torch.float32)]
SHAPES = [  # (B, S, H, heads, key_heads, D)
    (1, 1, 24, 1, 1, 8),
    (2, 7, 40, 4, 2, 16),
    (3, 13, 33, 6, 1, 5),
    (1, 40, 64, 2, 2, 32),
    (2, 0, 16, 2, 1, 8),
    (0, 3, 16, 2, 1, 8),
]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "first": {"update": None},
    "no_qk_norm": {"q_weight": None, "k_weight": None},
    "bias": {"bias": True},
    "ragged": {"ragged": True},
    "cache": {"cached": True},
    "cache_ragged": {"cached": True, "ragged": True},
}


def arguments(
    shape: tuple[int, ...],
    format: str,
    dtype: torch.dtype,
    *,
    cached: bool = False,
    ragged: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    batch, length, hidden, heads, key_heads, size = shape
    columns = (heads + 2 * key_heads) * size
    make = torch.Generator().manual_seed(5)
    values: dict[str, Any] = {
        "update": random(batch, length, hidden, dtype=dtype, seed=0),
        "residual": random(batch, length, hidden, dtype=dtype, seed=1),
        "norm_weight": random(hidden, dtype=dtype, seed=2) + 1,
        "qkv": pack_linear(random(columns, hidden, dtype=torch.float32, seed=3, scale=hidden**-0.5), format),
        "out": pack_linear(random(hidden, heads * size, dtype=torch.float32, seed=4, scale=0.2), format),
        "positions": torch.randint(0, 90, (batch, length), generator=make),
        "heads": heads,
        "key_heads": key_heads,
        "theta": 50000.0,
        "rotary_dim": size // 4 * 2,
        "eps": EPS,
        "q_weight": random(size, dtype=dtype, seed=6) + 1,
        "k_weight": random(size, dtype=dtype, seed=7) + 1,
    }
    keys = length
    if cached:
        keys = length + 9
        # a buffer with room besides, as the model's is; one position past the end
        buffer = random(2, batch, keys + 2, key_heads, size, dtype=dtype, seed=8)
        values["cache"] = buffer[:, :, :keys]
        order = torch.rand(batch, keys + 1, generator=make).argsort(1)
        values["positions"] = order[:, :length]  # no position twice; some rows have one past the end
    if ragged:
        start = torch.randint(0, keys // 2 + 1, (batch, 1), generator=make)
        values["key_range"] = torch.cat([start, torch.full_like(start, keys)], 1).int()
    if changes.pop("bias", False):
        values["qkv_bias"], values["out_bias"] = (
            random(columns, dtype=dtype, seed=9),
            random(hidden, dtype=dtype, seed=10),
        )
    return {**values, **changes}


def composed(values: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The ops one by one, as the model calls them."""
    update, residual, heads, key_heads = (values[name] for name in ("update", "residual", "heads", "key_heads"))
    if update is None:
        normed, total = ops.rms_norm(residual, values["norm_weight"], EPS), residual
    else:
        normed, total = ops.add_rms_norm(update, residual, values["norm_weight"], EPS)
    qkv = ops.linear(normed, values["qkv"], values.get("qkv_bias"))
    q, k, v = qkv.unflatten(-1, (heads + 2 * key_heads, -1)).split([heads, key_heads, key_heads], 2)
    positions = values["positions"]
    q, k = ops.qk_norm_rope(
        q,
        k,
        values["q_weight"],
        values["k_weight"],
        positions,
        theta=values["theta"],
        rotary_dim=values["rotary_dim"],
        eps=EPS,
    )
    cache = values.get("cache")
    if cache is not None:
        for b, row in enumerate(positions.tolist()):
            for s, position in enumerate(row):
                if position < cache.shape[2]:
                    cache[0, b, position], cache[1, b, position] = k[b, s], v[b, s]
        k, v = cache
    attended = ops.attention(q, k, v, key_range=values.get("key_range"))
    return ops.linear(attended.flatten(2), values["out"], values.get("out_bias")), total


def with_own_cache(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "cache": values["cache"].clone()} if "cache" in values else dict(values)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("format", "dtype"), FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_as_the_ops_one_by_one(
    isa: str, shape: tuple[int, ...], format: str, dtype: torch.dtype, variant: str
) -> None:
    values = arguments(shape, format, dtype, **VARIANTS[variant])
    whole, alone = with_own_cache(values), with_own_cache(values)
    ours, expected = attention_layer(**whole), composed(alone)
    for mine, other in zip(ours, expected, strict=True):
        assert mine.shape == other.shape
        assert mine.dtype == dtype
        assert torch.equal(mine, other)
    if "cache" in values:
        assert torch.equal(whole["cache"], alone["cache"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference(variant: str, isa: str) -> None:
    values = arguments((2, 7, 40, 4, 2, 16), "fp32", torch.float32, **VARIANTS[variant])
    whole, alone = with_own_cache(values), with_own_cache(values)
    for mine, other in zip(attention_layer(**whole), attention_layer_reference(**alone), strict=True):
        assert mine.abs().amax() > 0.1
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    if "cache" in values:
        torch.testing.assert_close(whole["cache"], alone["cache"], rtol=1e-4, atol=1e-5)


def test_threads_and_batch_change_no_bit() -> None:
    values = arguments((3, 45, 64, 4, 2, 32), "int8", torch.bfloat16, cached=True)
    caches, results = [], []
    for count in (1, 2):
        with threads(count):
            run = with_own_cache(values)
            results.append(attention_layer(**run))
            caches.append(run["cache"])
    assert torch.equal(*caches)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
    row = {**values, "cache": values["cache"][:, 1:2].clone()}
    row.update({name: values[name][1:2] for name in ("update", "residual", "positions")})
    assert torch.equal(attention_layer(**row)[0], results[0][0][1:2])


def test_the_last_of_two_tokens_at_one_position_stays() -> None:
    values = arguments((1, 3, 24, 2, 1, 8), "fp32", torch.float32, cached=True)
    values["positions"] = torch.tensor([[4, 4, 11]])
    run = with_own_cache(values)
    attention_layer(**run)
    last = with_own_cache({**values, "positions": values["positions"][:, 1:]})
    last.update({name: values[name][:, 1:].contiguous() for name in ("update", "residual")})
    attention_layer(**last)
    assert torch.equal(run["cache"], last["cache"])


def raw_arguments(values: dict[str, Any]) -> list[Any]:
    size = values["qkv"].out_features // (values["heads"] + 2 * values["key_heads"])
    names = ("update", "residual", "norm_weight", "eps", "qkv", "qkv_bias", "out", "out_bias", "heads", "key_heads")
    given: list[Any] = [values.get(name) for name in names]
    given = [value.panels if isinstance(value, PackedLinear) else value for value in given]
    frequencies = rope_frequencies(values["theta"], values["rotary_dim"], values["residual"].device)
    rest = [values["q_weight"], values["k_weight"], values["positions"], frequencies]
    return [*given, size, *rest, values.get("cache"), values.get("key_range")]


@pytest.mark.skipif(not AVAILABLE, reason="the extension is not built")
@pytest.mark.parametrize("variant", VARIANTS)
def test_opcheck(variant: str) -> None:
    values = arguments((2, 3, 24, 2, 1, 8), "fp32", torch.float32, **VARIANTS[variant])
    # the layer is for inference: there is no autograd formula to test
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.llada_moe.attention_layer.default, raw_arguments(values), test_utils=tests)


@pytest.mark.skipif(not AVAILABLE, reason="the extension is not built")
def test_the_core_checks_too() -> None:
    values = arguments((2, 3, 24, 2, 1, 8), "fp32", torch.float32, cached=True, ragged=True, bias=True)
    good = raw_arguments(values)
    op = torch.ops.llada_moe.attention_layer
    op(*good)
    bad: list[tuple[int, Any]] = [
        (0, values["update"][:1]),
        (0, values["update"].double()),
        (1, values["residual"][0]),
        (1, values["residual"].half()),
        (1, values["residual"].transpose(0, 1)),
        (2, values["norm_weight"][:5]),
        (4, good[4][:0]),
        (4, good[4].bfloat16()),
        (5, good[5][:3]),
        (6, good[4]),
        (7, good[7][:3]),
        (8, 0),
        (8, -4),
        (8, 2**62),
        (9, 0),
        (9, 2**62),
        (10, 0),
        (10, 2**40),
        (10, 16),
        (11, good[11][:3]),
        (12, good[12].bfloat16()),
        (13, good[13][:1]),
        (13, good[13].float()),
        (13, good[13] - 99),
        (14, torch.zeros(9)),
        (15, good[15][:1]),
        (15, good[15][:, :1]),
        (15, good[15].bfloat16()),
        (15, good[15][..., :4]),
        (15, good[15][0]),
        (16, good[16] + 99),
        (16, good[16][:1]),
    ]
    for index, value in bad:
        with pytest.raises(RuntimeError, match=r"attention_layer: |rms_norm: |linear: |qk_norm_rope: |attention: "):
            op(*good[:index], value, *good[index + 1 :])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_weights_give_the_same_bits(dtype: torch.dtype, variant: str) -> None:
    """They take the ops one by one, as on a GPU."""
    values = arguments(SHAPES[1], "bf16" if dtype == torch.bfloat16 else "fp32", dtype, **VARIANTS[variant])
    copied = {name: value.clone() if name == "cache" else value for name, value in values.items()}
    plain = {**copied, "qkv": values["qkv"].unpack(), "out": values["out"].unpack()}
    for mine, other in zip(attention_layer(**plain), attention_layer(**values), strict=True):
        assert torch.equal(mine, other)
    if "cache" in values:
        assert torch.equal(plain["cache"], values["cache"])


def test_errors() -> None:
    values = arguments((2, 3, 24, 2, 1, 8), "fp32", torch.float32, cached=True, ragged=True, bias=True)
    bad: list[tuple[str, Any, type[Exception], str]] = [
        ("residual", [1.0], TypeError, r"residual must be a torch\.Tensor, got list"),
        ("residual", values["residual"].half(), TypeError, "residual must be float32 or bfloat16, got float16"),
        ("residual", values["residual"][0], ValueError, r"residual must have shape \[B, S, H\]"),
        ("update", values["update"][:1], ValueError, r"update must have shape \[2, 3, 24\]"),
        ("norm_weight", values["norm_weight"].bfloat16(), TypeError, "norm_weight must be float32, got bfloat16"),
        ("qkv", [1.0], TypeError, "qkv must be a tensor or a PackedLinear, got list"),
        ("qkv", torch.zeros(32, 24).bfloat16(), TypeError, "qkv must be float32, got bfloat16"),
        ("out", torch.zeros(24, 15), ValueError, r"out must be \[24, 16\], got \[24, 15\]"),
        ("qkv", values["out"], ValueError, r"qkv must be"),
        ("out", values["qkv"], ValueError, r"out must be \[24, 16\], got \[32, 24\]"),
        ("out", pack_linear(torch.zeros(24, 16), "bf16"), TypeError, "residual must be bfloat16"),
        ("heads", 3, ValueError, "qkv must be"),
        ("heads", 0, ValueError, "heads must be a multiple of 1, got 0"),
        ("key_heads", 0, ValueError, "key_heads must be at least 1, got 0"),
        ("rotary_dim", 3, ValueError, "rotary_dim must be even and within 0 and 8"),
        ("theta", 0.0, ValueError, "theta must be positive"),
        ("eps", -1.0, ValueError, "eps must be not negative"),
        ("q_weight", torch.ones(7), ValueError, r"q_weight must have shape \[8\]"),
        ("qkv_bias", torch.ones(7), ValueError, r"qkv_bias must have shape \[32\]"),
        ("positions", torch.zeros(2, 3), TypeError, "positions must be int32 or int64"),
        ("positions", torch.full((2, 3), -1), ValueError, "positions must be not negative with a cache, got -1"),
        ("cache", values["cache"][:, :1], ValueError, r"cache must have shape \[2, 2, L, 1, 8\]"),
        ("cache", values["cache"].to("meta"), ValueError, "cache must be on cpu, got meta"),
        ("key_range", torch.tensor([[0, 99]] * 2), ValueError, r"key_range must be in 0 \.\. 12, got 99"),
    ]
    for name, value, error, message in bad:
        with pytest.raises(error, match=f"attention_layer: {message}"):
            attention_layer(**{**values, name: value})
