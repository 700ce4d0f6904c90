"""attention: against float64 within the budget, on every instruction set, and a row's bits depend on its keys only."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops.machine import extension
from llada_moe_ops.ops.attention import attention, attention_mask, attention_reference
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from .budget import DTYPES, ISAS, assert_within_budget, assert_within_budget_or_zero, forced_isa

GOLDEN = load_file(Path(__file__).parent.parent / "data" / "golden" / "ops.safetensors")
GOLDEN_CASES = sorted({name.split("/")[1] for name in GOLDEN if name.startswith("attention/")})

# (B, S, L, Hq, Hkv, D): one below and above the tile's rows (4, 12), panels (32), and key blocks (256); odd D; few
# queries against many keys, which are cut over key blocks, from 8 blocks on for all heads at a time.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 11, 31, 2, 2, 16),
    (1, 13, 33, 4, 2, 33),
    (1, 5, 255, 2, 1, 64),
    (2, 12, 257, 2, 2, 128),
    (1, 49, 64, 3, 3, 31),
    (1, 3, 700, 2, 1, 256),
    (1, 32, 32, 4, 1, 7),
    (1, 1, 700, 4, 2, 64),
    (2, 5, 1100, 4, 2, 33),
    (3, 7, 1050, 2, 1, 48),
]


def inputs(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, keys, heads, key_heads, depth = shape
    make = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, queries, heads, depth, generator=make)
    k = torch.randn(batch, keys, key_heads, depth, generator=make)
    v = torch.randn(batch, keys, key_heads, depth, generator=make)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def in_float64(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float | None = None) -> Tensor:
    repeats = q.shape[2] // k.shape[2]
    query = q.double().transpose(1, 2)
    key, value = (x.double().repeat_interleave(repeats, dim=2).transpose(1, 2) for x in (k, v))
    scores = query @ key.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0).matmul(value).transpose(1, 2)


def eager(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float | None = None) -> Tensor:
    repeats = q.shape[2] // k.shape[2]
    key, value = (x.repeat_interleave(repeats, dim=2).transpose(1, 2) for x in (k, v))
    out = functional.scaled_dot_product_attention(q.transpose(1, 2), key, value, allowed, scale=scale)
    return out.nan_to_num(0.0).transpose(1, 2)


def mask_options(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    batch, queries, keys, heads, _, _ = shape
    make = torch.Generator().manual_seed(1)
    starts = torch.randint(0, keys, (batch,), generator=make)
    if name == "key_range":
        return {"key_range": torch.stack([starts, torch.full((batch,), keys)], 1)}
    if name == "mask":
        return {"mask": torch.rand(batch, 1, queries, keys, generator=make) < 0.6}
    if name == "mask_per_head":
        return {"mask": torch.rand(batch, heads, queries, keys, generator=make) < 0.3}
    if name == "mask_2d":
        return {"mask": torch.rand(queries, keys, generator=make) < 0.6}
    if name == "mask_of_keys":
        return {"mask": torch.rand(batch, 1, 1, keys, generator=make) < 0.6}
    if name == "block_size":
        return {"block_size": 5}
    if name == "all":
        return {
            "block_size": 9,
            "key_range": torch.stack([starts, torch.full((batch,), keys)], 1).int(),
            "mask": torch.rand(batch, 1, queries, keys, generator=make) < 0.8,
            "scale": 0.3,
        }
    return {"scale": -0.2} if name == "scale" else {}


OPTIONS = ["none", "key_range", "mask", "mask_per_head", "mask_2d", "mask_of_keys", "block_size", "all", "scale"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_stays_within_the_budget(shape: tuple[int, ...], dtype: torch.dtype, isa: str) -> None:
    q, k, v = inputs(shape, dtype)
    for name in OPTIONS:
        options = mask_options(name, shape)
        if name == "block_size" and shape[2] < shape[1]:
            continue
        scale = options.get("scale")
        masks = {key: value for key, value in options.items() if key != "scale"}
        defaults = {"mask": None, "key_range": None, "cu_seqlens": None, "block_size": None}
        allowed = attention_mask(q, k, **{**defaults, **masks})
        exact = in_float64(q, k, v, allowed, scale)
        with forced_isa(isa):
            out = attention(q, k, v, **options)
        assert_within_budget_or_zero(out, eager(q, k, v, allowed, scale), exact)


@pytest.mark.parametrize("isa", ISAS)
def test_a_large_scale_stays_within_the_budget(isa: str) -> None:
    # Nearly one key a row: what counts is the error of its score, and eager sums three queries' scores in short chains.
    q, k, v = inputs((16, 3, 64, 4, 4, 128), torch.float32)
    with forced_isa(isa):
        out = attention(q, k, v, scale=1.0)
    assert_within_budget(out, eager(q, k, v, None, 1.0), in_float64(q, k, v, None, 1.0))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scale", [0.0, -1.5])
def test_a_scale_of_zero_or_below(scale: float, isa: str) -> None:
    q, k, v = inputs((1, 14, 40, 2, 1, 16), torch.float32)
    mask = torch.rand(14, 40, generator=torch.Generator().manual_seed(3)) < 0.5
    with forced_isa(isa):
        out = attention(q, k, v, mask=mask, scale=scale)
    assert_within_budget(out, eager(q, k, v, mask, scale), in_float64(q, k, v, mask, scale))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden(case: str, isa: str) -> None:
    q, k, v, expected = (GOLDEN[f"attention/{case}/{name}"] for name in ("q", "k", "v", "out"))
    mask = GOLDEN.get(f"attention/{case}/mask")
    with forced_isa(isa):
        assert (attention(q, k, v, mask=mask).double() - expected).abs().max() < 2e-6
        if case.startswith("block_causal"):
            assert (attention(q, k, v, block_size=5).double() - expected).abs().max() < 2e-6
        if case.endswith("_padding") and mask is not None:
            rows = mask[:, 0, 0].int()
            first = rows.argmax(-1)
            key_range = torch.stack([first, first + rows.sum(-1)], 1)
            assert (attention(q, k, v, key_range=key_range).double() - expected).abs().max() < 2e-6


def test_packed_sequences_equal_each_alone(isa: str) -> None:
    q, k, v = inputs((1, 70, 70, 4, 2, 16), torch.float32)
    ends = [0, 1, 1, 33, 70]
    packed = attention(q, k, v, cu_seqlens=torch.tensor(ends))
    for first, end in pairwise(ends):
        if first < end:
            alone = attention(*(x[:, first:end].contiguous() for x in (q, k, v)))
            assert torch.equal(packed[:, first:end], alone)
    assert (packed - attention_reference(q, k, v, cu_seqlens=torch.tensor(ends))).abs().max() < 2e-6


def test_a_row_without_keys_gives_zeros() -> None:
    q, k, v = inputs((2, 5, 9, 2, 2, 8), torch.float32)
    out = attention(q, k, v, key_range=torch.tensor([[4, 4], [0, 9]]))
    assert out[0].count_nonzero() == 0
    assert out[1].count_nonzero() > 0
    mask = torch.ones(5, 9, dtype=torch.bool)
    mask[3] = False
    assert attention(q, k, v, mask=mask)[:, 3].count_nonzero() == 0


def test_reads_views_of_a_fused_buffer_in_place() -> None:
    fused = torch.randn(2, 20, 3, 4, 32)
    q, k, v = fused.unbind(2)
    assert not q.is_contiguous()
    assert torch.equal(attention(q, k, v), attention(q.contiguous(), k.contiguous(), v.contiguous()))


@pytest.mark.parametrize("isa", ISAS)
def test_nan_reaches_its_row_only(isa: str) -> None:
    q, k, v = inputs((1, 14, 40, 1, 1, 16), torch.float32)
    q[0, 5, 0, 3] = torch.nan
    with forced_isa(isa):
        bad = attention(q, k, v).isnan().any(-1).flatten()
    assert bad.nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("shape", [(0, 3, 4, 2, 2, 8), (2, 0, 4, 2, 2, 8), (1, 3, 4, 0, 0, 8)])
def test_empty(shape: tuple[int, ...]) -> None:
    q, k, v = inputs(shape, torch.float32)
    assert attention(q, k, v).shape == q.shape


def test_no_keys_gives_zeros() -> None:
    q, k, v = inputs((1, 3, 0, 2, 2, 8), torch.float32)
    assert torch.equal(attention(q, k, v), torch.zeros_like(q))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 70), st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_any_sizes(queries: int, keys: int, depth: int, block: int, seed: int) -> None:
    q, k, v = inputs((1, queries, keys, 2, 1, depth), torch.float32, seed)
    options = {"block_size": block} if keys >= queries else {}
    difference = attention(q, k, v, **options) - attention_reference(q, k, v, **options)
    assert difference.abs().max() < 1e-5


def test_gradients_are_the_reference_s() -> None:
    tensors = [x.requires_grad_() for x in inputs((1, 6, 9, 2, 1, 8), torch.float32)]
    mask = torch.rand(6, 9) < 0.7
    weight = torch.randn(1, 6, 2, 8)
    ours = torch.autograd.grad((attention(*tensors, mask=mask) * weight).sum(), tensors)
    theirs = torch.autograd.grad((attention_reference(*tensors, mask=mask) * weight).sum(), tensors)
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, reference, rtol=1e-5, atol=1e-6)


def test_opcheck() -> None:
    q, k, v = inputs((1, 5, 7, 2, 1, 8), torch.float32)
    for tensor in (q, k, v):
        tensor.requires_grad_()
    mask = (torch.rand(5, 7) < 0.7).expand(1, 2, 5, 7)
    op = torch.ops.llada_moe.attention.default
    torch.library.opcheck(op, (q, k, v))
    torch.library.opcheck(op, (q, k, v, mask, torch.tensor([[1, 7]]), None, 4, 0.5))


def test_numpy_door() -> None:
    q, k, v = inputs((1, 6, 9, 2, 1, 8), torch.float32)
    out = extension().attention(q.numpy(), k.numpy(), v.numpy(), block_size=3)
    np.testing.assert_array_equal(out, attention(q, k, v, block_size=3).numpy())
    with pytest.raises(ValueError, match="k must"):
        extension().attention(q.numpy(), k.numpy()[:, :, :, :3], v.numpy())


def test_errors() -> None:
    q, k, v = inputs((2, 4, 6, 2, 1, 8), torch.float32)
    with pytest.raises(TypeError, match=r"q must be a torch\.Tensor, got list"):
        attention([1.0], k, v)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="q must be float32 or bfloat16, got float16"):
        attention(q.half(), k, v)
    with pytest.raises(TypeError, match="k must be float32, got bfloat16"):
        attention(q, k.bfloat16(), v)
    with pytest.raises(ValueError, match=r"q must have shape \[B, S, Hq, D\]"):
        attention(q[0], k, v)
    with pytest.raises(ValueError, match="k must have shape"):
        attention(q, k[:1], v)
    with pytest.raises(ValueError, match="v must have shape"):
        attention(q, k, v[:, :5])
    with pytest.raises(ValueError, match="k must be on cpu, got meta"):
        attention(q, k.to("meta"), v)
    with pytest.raises(ValueError, match="contiguous last dimension"):
        attention(q.transpose(1, 3).contiguous().transpose(1, 3), k, v)
    with pytest.raises(ValueError, match="number of heads that divides"):
        attention(torch.cat([q, q[:, :, :1]], 2), torch.cat([k, k], 2), torch.cat([v, v], 2))
    with pytest.raises(ValueError, match="of head size 1 to 256"):
        attention(torch.zeros(1, 1, 1, 257), torch.zeros(1, 1, 1, 257), torch.zeros(1, 1, 1, 257))
    with pytest.raises(TypeError, match="mask must be bool"):
        attention(q, k, v, mask=torch.ones(4, 6))
    with pytest.raises(ValueError, match="mask must be broadcastable"):
        attention(q, k, v, mask=torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"key_range must have shape \[2, 2\]"):
        attention(q, k, v, key_range=torch.tensor([[0, 6]]))
    with pytest.raises(ValueError, match=r"key_range must be in 0 \.\. 6, got 7"):
        attention(q, k, v, key_range=torch.tensor([[0, 6], [0, 7]]))
    with pytest.raises(ValueError, match="q must be of batch size 1 with cu_seqlens"):
        attention(q, q, q, cu_seqlens=torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="rising from 0 to 4"):
        attention(q[:1], q[:1], q[:1], cu_seqlens=torch.tensor([0, 5, 4]))
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        attention(q, k, v, block_size=0)


def test_the_core_checks_too() -> None:
    q, k, v = inputs((1, 4, 6, 2, 1, 8), torch.float32)
    op = torch.ops.llada_moe.attention
    bad = [
        (q, k.double(), v),
        (q, k, v[:, :3]),
        (q[0], k, v),
        (q, k, v, None, torch.tensor([[-1, 99]])),
        (q, k, v, None, None, torch.tensor([0, 99])),
        (q, k, v, torch.ones(4, 6, dtype=torch.bool)),
        (q, k, v, None, None, None, -1),
    ]
    for arguments in bad:
        with pytest.raises(RuntimeError, match="attention: "):
            op(*arguments)
