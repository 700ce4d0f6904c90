"""token_confidence: the reference's tokens and statistics, noise included, whatever the rows, threads or panels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops.machine import extension
from llada_moe_ops.ops import (
    TokenConfidence,
    gumbel_noise,
    linear,
    pack_linear,
    token_confidence,
    token_confidence_reference,
)
from llada_moe_ops.ops.confidence_of_logits import confidence_of_logits
from torch import Tensor

from .budget import DTYPES, ISAS, assert_within_budget, forced_isa, threads

# (R, H, V): around the tile's rows (12), panels (32), parts (64, of two panels) and their finer end (V of 16384).
SHAPES = [(1, 1, 2), (11, 16, 31), (13, 33, 33), (12, 64, 1000), (25, 8, 4129), (14, 8, 20011)]


def inputs(shape: tuple[int, int, int], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    rows, hidden, vocabulary = shape
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, hidden, generator=make).to(dtype)
    return x, (torch.randn(vocabulary, hidden, generator=make) * 3 / hidden**0.5).to(dtype)


def assert_same(ours: TokenConfidence, reference: TokenConfidence) -> None:
    for name, mine, other in zip(ours._fields, ours, reference, strict=True):
        assert mine.dtype == other.dtype
        if mine.dtype == torch.int32:
            assert torch.equal(mine, other), name
        else:
            assert torch.allclose(mine, other, rtol=1e-5, atol=2e-5, equal_nan=True), name


OPTIONS: list[dict[str, Any]] = [
    {},
    {"mask_token_id": 1},
    {"forbidden": [0]},
    {"temperature": 0.8, "seed": 7},
    {"temperature": 0.3, "seed": -5, "forbidden": [], "mask_token_id": 0},
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_chooses_what_the_reference_chooses(shape: tuple[int, int, int], dtype: torch.dtype, isa: str) -> None:
    hidden, head = inputs(shape, dtype)
    with forced_isa(isa):
        logits = linear(hidden, head)
        for options in OPTIONS:
            ours = token_confidence(hidden, head, **options)
            assert_same(ours, confidence_of_logits(logits, **options))
            packed = token_confidence(hidden, pack_linear(head), **options)
            for mine, other in zip(ours, packed, strict=True):
                assert torch.equal(mine, other)


def assert_statistics_within_budget(ours: TokenConfidence, hidden: Tensor, head: Tensor) -> None:
    eager = token_confidence_reference(hidden, head)
    logprobs = (hidden.double() @ head.double().T).log_softmax(-1)
    assert_within_budget(ours.logsumexp, eager.logsumexp, (hidden.double() @ head.double().T).logsumexp(-1))
    assert_within_budget(ours.entropy, eager.entropy, -(logprobs.exp() * logprobs).sum(-1))
    same = ours.token == eager.token
    assert same.float().mean() > 0.9
    at = logprobs.gather(-1, ours.token.long()[:, None]).squeeze(-1)
    assert_within_budget(ours.logprob[same], eager.logprob[same], at[same])


@pytest.mark.parametrize("dtype", DTYPES)
def test_stays_within_the_budget(isa: str, dtype: torch.dtype) -> None:
    hidden, head = inputs((40, 96, 3000), dtype)
    assert_statistics_within_budget(token_confidence(hidden, head), hidden, head)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
def test_a_floor_loses_no_token_of_the_nucleus(order: str, isa: str) -> None:
    """Logits so far apart that most of them are below the floor of the candidates, and the runner-up may be outside."""
    vocabulary, make = 20011, torch.Generator().manual_seed(2)
    logits = (torch.randn(vocabulary, generator=make) * 8).sort(descending=order == "falling").values
    if order == "shuffled":
        logits = logits[torch.randperm(vocabulary, generator=make)]
    hidden, head = torch.tensor([[1.0], [0.5], [0.1], [0.01], [1.0]]), logits[:, None]
    with forced_isa(isa):
        for temperature in (0.02, 0.3, 1.0, 3.0):
            for top_p in (0.05, 0.5, 0.95, 0.9999):
                for mask in (None, int(logits.argmax())):
                    options = {"temperature": temperature, "seed": 4, "top_p": top_p, "mask_token_id": mask}
                    ours = token_confidence(hidden, head, **options)
                    assert_same(ours, confidence_of_logits(hidden @ head.T, **options))


def test_forbidden_tokens_leave_the_distribution_and_the_mask_token_stays() -> None:
    hidden, head = inputs((9, 12, 50), torch.float32)
    logits = linear(hidden, head)
    best = logits.argmax(-1)
    forbidden = best.unique()
    out = token_confidence(hidden, head, forbidden=forbidden)
    assert not torch.isin(out.token, forbidden).any()
    kept = logits.index_fill(1, forbidden, -torch.inf)
    assert torch.allclose(out.logsumexp, kept.logsumexp(-1), atol=1e-5)
    masked = token_confidence(hidden, head, mask_token_id=int(best[0]))
    assert masked.token[0] != best[0]
    assert torch.allclose(masked.logsumexp, logits.logsumexp(-1), atol=1e-5)


def test_equal_logits_go_to_the_lower_token() -> None:
    hidden = torch.ones(2, 4)
    out = token_confidence(hidden, torch.ones(100, 4))
    assert out.token.tolist() == [0, 0]
    assert out.runner_up.tolist() == [1, 1]
    assert torch.allclose(out.entropy, torch.full((2,), math.log(100)), atol=1e-6)
    head = torch.zeros(100, 4)
    head[[33, 70]] = 1.0
    assert token_confidence(hidden, head).token.tolist() == [33, 33]
    assert token_confidence(hidden, head).runner_up.tolist() == [70, 70]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extra", [{}, {"top_k": 3}, {"top_p": 0.9}, {"top_k": 90, "top_p": 0.8}], ids=str)
def test_a_row_alone_gives_the_same_bits(extra: dict[str, Any], dtype: torch.dtype, isa: str) -> None:
    hidden, head = inputs((40, 30, 2100), dtype)
    hidden[5:12] *= 0.1  # whose nucleus has more than 256 tokens
    make = torch.Generator().manual_seed(1)
    by_row: dict[str, Any] = {
        "noise_keys": torch.arange(40) * 11 - 7,
        "temperature": torch.linspace(0, 1.5, 40),
        "bias": (torch.randint(2100, (40, 5), generator=make), torch.randn(40, 5, generator=make)),
    }

    def run(rows: slice) -> TokenConfidence:
        own = {name: value[rows] for name, value in by_row.items() if name != "bias"}
        own["bias"] = tuple(part[rows] for part in by_row["bias"])
        return token_confidence(hidden[rows], head, seed=1, **own, **extra)

    with forced_isa(isa):
        with threads(1):
            whole = run(slice(40))
        with threads(2):
            two = run(slice(40))
        for rows in (slice(0, 1), slice(7, 8), slice(12, 13), slice(5, 23), slice(39, 40)):
            for mine, other, split in zip(run(rows), whole, two, strict=True):
                assert torch.equal(mine, other[rows])
                assert torch.equal(split, other)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bias_is_added_to_the_logits(dtype: torch.dtype, isa: str) -> None:
    hidden, head = inputs((37, 16, 300), dtype)
    make = torch.Generator().manual_seed(3)
    tokens = torch.randint(300, (37, 4), generator=make)
    tokens[:, 3] = tokens[:, 0]  # a token that stands twice gets both
    values = torch.randn(37, 4, generator=make) * 3
    with forced_isa(isa):
        logits = linear(hidden, head).float().scatter_add(1, tokens, values)
        for packed in (False, True):
            weight = pack_linear(head) if packed else head
            for options in OPTIONS:
                ours = token_confidence(hidden, weight, bias=(tokens, values), **options)
                assert_same(ours, confidence_of_logits(logits, **options))
    reference = token_confidence_reference(hidden, head, bias=(tokens, values))
    assert (reference.token == token_confidence(hidden, head, bias=(tokens, values)).token).float().mean() > 0.9
    assert not torch.equal(reference.token, token_confidence(hidden, head).token)
    none = token_confidence(hidden, head, bias=(tokens[:, :0], values[:, :0]))
    assert_same(none, token_confidence(hidden, head))
    assert [field.shape for field in token_confidence(hidden[:0], head, bias=(tokens[:0], values[:0]))] == [(0,)] * 6


def test_biases_of_a_token_add_up_in_order() -> None:
    hidden, head = torch.zeros(1, 1), torch.zeros(40, 1)
    tokens = torch.tensor([[7, 3, 7, 7]])
    rounded = token_confidence(hidden, head, bias=(tokens, torch.tensor([[2.0**30, 1.0, 1.0, -(2.0**30)]])))
    assert (rounded.token.item(), rounded.runner_up.item()) == (3, 0)
    kept = token_confidence(hidden, head, bias=(tokens, torch.tensor([[2.0**30, 1.0, -(2.0**30), 1.5]])))
    assert kept.token.item() == 7


def test_a_bias_does_not_bring_a_forbidden_token_back() -> None:
    hidden, head = inputs((3, 8, 50), torch.float32)
    bias = (torch.full((3, 1), 9), torch.full((3, 1), 1e6))
    assert not (token_confidence(hidden, head, bias=bias, forbidden=[9]).token == 9).any()
    assert not (token_confidence(hidden, head, bias=bias, mask_token_id=9).token == 9).any()


def test_rows_that_are_not_finite() -> None:
    hidden, head = inputs((5, 8, 300), torch.float32)
    hidden[1, 2] = torch.nan
    hidden[3, 0] = torch.inf
    for options in ({}, {"temperature": 0.5, "seed": 0}):
        out = token_confidence(hidden, head, **options)
        assert (out.token < 0).tolist() == [False, True, False, True, False]
        assert out.logprob.isnan().tolist() == [False, True, False, True, False]
        assert_same(out, token_confidence_reference(hidden, head, **options))


def test_one_choosable_token_has_no_runner_up() -> None:
    hidden, head = inputs((3, 4, 5), torch.float32)
    out = token_confidence(hidden, head, forbidden=[0, 1, 3], mask_token_id=4)
    assert out.token.tolist() == [2] * 3
    assert out.runner_up.tolist() == [-1] * 3
    assert out.runner_up_logprob.tolist() == [-math.inf] * 3
    assert_same(out, token_confidence_reference(hidden, head, forbidden=[0, 1, 3], mask_token_id=4))


def test_empty_and_strided() -> None:
    hidden, head = inputs((6, 8, 50), torch.float32)
    assert [field.shape for field in token_confidence(hidden[:0], head)] == [(0,)] * 6
    wide, tall = torch.randn(6, 20), torch.randn(50, 20)
    strided = token_confidence(wide[::2, 3:11], tall[:, 5:13])
    copied = token_confidence(wide[::2, 3:11].contiguous(), tall[:, 5:13].contiguous())
    for mine, other in zip(strided, copied, strict=True):
        assert torch.equal(mine, other)


def test_noise_is_gumbel_and_samples_the_softmax() -> None:
    noise = gumbel_noise(3, torch.arange(200), 5000).flatten()
    assert noise.dtype == torch.float64
    assert noise.isfinite().all()
    assert abs(float(noise.mean()) - 0.5772157) < 0.01
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.02
    for quantile in (0.01, 0.5, 0.99, 0.9999):
        threshold = -math.log(-math.log(quantile))
        assert abs(float((noise < threshold).double().mean()) - quantile) < 4 * (quantile * (1 - quantile) / 1e6) ** 0.5
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    rows = 20000
    out = token_confidence(torch.ones(rows, 1), logits[:, None], temperature=2.0, seed=11)
    frequency = torch.bincount(out.token, minlength=5) / rows
    assert (frequency - (logits / 2).softmax(-1)).abs().max() < 0.015


def test_noise_depends_on_seed_key_and_token_only() -> None:
    keys = torch.tensor([5, -(1 << 63), (1 << 63) - 1, 5])
    noise = gumbel_noise(2**64 + 9, keys, 64)
    assert torch.equal(noise, gumbel_noise(9, keys, 64))
    assert torch.equal(noise[0], noise[3])
    assert torch.equal(noise[:, :10], gumbel_noise(9, keys, 10))
    assert not torch.equal(noise, gumbel_noise(10, keys, 64))
    assert noise.unique().numel() == 3 * 64


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 14), st.integers(1, 20), st.integers(2, 150), st.floats(0, 3), st.integers(0, 2**70))
def test_any_sizes(rows: int, width: int, vocabulary: int, temperature: float, seed: int) -> None:
    hidden, head = inputs((rows, width, vocabulary), torch.float32, seed % 1000)
    options = {"temperature": temperature, "seed": seed, "mask_token_id": vocabulary - 1}
    assert_same(token_confidence(hidden, head, **options), confidence_of_logits(linear(hidden, head), **options))


def test_opcheck() -> None:
    hidden, head = inputs((5, 8, 40), torch.float32)
    op = torch.ops.llada_moe.token_confidence.default
    torch.library.opcheck(op, (hidden, head, False, 40))
    keys, forbidden = torch.arange(5), torch.tensor([3])
    torch.library.opcheck(op, (hidden, head, False, 40, 0.5, 3, keys, forbidden, 7))
    bias = (torch.full((5, 2), 4), torch.ones(5, 2))
    torch.library.opcheck(op, (hidden, head, False, 40, 0.0, 3, keys, forbidden, 7, torch.rand(5), *bias, 4, 0.9))


def test_numpy_door() -> None:
    hidden, head = inputs((5, 8, 40), torch.float32)
    out = extension().token_confidence(hidden.numpy(), head.numpy(), temperature=0.5, seed=3, mask_token_id=2)
    expected = token_confidence(hidden, head, temperature=0.5, seed=3, mask_token_id=2)
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(out[name], value.numpy())
    bias, temperatures = (torch.tensor([[3], [9], [4], [39], [0]]), torch.full((5, 1), 3.0)), torch.linspace(0, 2, 5)
    cuts: dict[str, Any] = {"seed": 3, "top_k": 9, "top_p": 0.7}
    arrays = {"temperature": temperatures.numpy(), "bias": tuple(part.numpy() for part in bias)}
    out = extension().token_confidence(hidden.numpy(), head.numpy(), **arrays, **cuts)
    for name, value in token_confidence(hidden, head, temperature=temperatures, bias=bias, **cuts)._asdict().items():
        np.testing.assert_array_equal(out[name], value.numpy())
    bad: list[tuple[dict[str, Any], str]] = [
        ({"top_k": -1}, "top_k must be at least 1, or 0 for none, got -1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1"),
        ({"temperature": np.full(5, -1, np.float32)}, "temperature must be finite and at least 0, got -1"),
        ({"temperature": np.ones(4, np.float32)}, "temperature must have shape"),
        (
            {"bias": (np.full((5, 1), 40), np.ones((5, 1), np.float32))},
            "bias tokens must be token ids below 40, got 40",
        ),
    ]
    for options, message in bad:
        with pytest.raises(ValueError, match=message):
            extension().token_confidence(hidden.numpy(), head.numpy(), **options)
    with pytest.raises(ValueError, match="lm_head must have shape"):
        extension().token_confidence(hidden.numpy(), head.numpy()[:, :3])


@pytest.mark.parametrize("scale", [0.0, 1.5, -1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_guidance_combines_the_logits(dtype: torch.dtype, scale: float) -> None:
    """The published form, in float64 over both products, is met as well as rounding to hidden's dtype allows."""
    hidden, head = inputs((13, 32, 400), dtype)
    unconditional, _ = inputs((13, 32, 1), dtype, seed=1)
    with_, without = (x.double() @ head.double().T for x in (hidden, unconditional))
    logits = without + (scale + 1) * (with_ - without)
    ours = token_confidence(hidden, head, guidance=(unconditional, scale))
    assert_same(ours, token_confidence_reference(hidden, head, guidance=(unconditional, scale)))
    rounding = torch.finfo(dtype).eps * (1 + 32**0.5) * logits.abs().max()
    assert (ours.logsumexp - logits.logsumexp(-1)).abs().max() < rounding
    best = logits.gather(-1, ours.token.long()[:, None]).squeeze(-1)
    assert (logits.amax(-1) - best < 2 * rounding).all()
    if scale == 0.0:
        assert_same(ours, token_confidence(hidden, head))
    if scale == -1.0:
        assert_same(ours, token_confidence(unconditional, head))


def test_errors() -> None:
    hidden, head = torch.zeros(3, 8), torch.zeros(10, 8)
    with pytest.raises(TypeError, match="hidden must be float32 or bfloat16, got float64"):
        token_confidence(hidden.double(), head)
    with pytest.raises(TypeError, match="lm_head must be float32, got bfloat16"):
        token_confidence(hidden, head.bfloat16())
    with pytest.raises(ValueError, match=r"lm_head must have shape \[V, 8\], got \[10, 7\]"):
        token_confidence(hidden, head[:, :7])
    with pytest.raises(ValueError, match=r"hidden must be \[.., 8\]"):
        token_confidence(hidden[:, :7], pack_linear(head))
    with pytest.raises(ValueError, match="lm_head must be on cpu, got meta"):
        token_confidence(hidden, head.to("meta"))
    with pytest.raises(ValueError, match="contiguous last dimension"):
        token_confidence(torch.zeros(8, 3).T, head)
    with pytest.raises(ValueError, match="temperature must be finite and at least 0"):
        token_confidence(hidden, head, temperature=-1.0)
    for temperature in (1.0, torch.zeros(3)):
        with pytest.raises(ValueError, match="seed must be given when temperature is above 0 or a tensor"):
            token_confidence(hidden, head, temperature=temperature)
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature must be finite and at least 0"):
            token_confidence(hidden, head, temperature=torch.tensor([0.0, value, 1.0]), seed=0)
    with pytest.raises(TypeError, match="temperature must be float32 or float64, got int64"):
        token_confidence(hidden, head, temperature=torch.ones(3).long(), seed=0)
    with pytest.raises(ValueError, match=r"temperature must have shape \[3\], got \[4\]"):
        token_confidence(hidden, head, temperature=torch.ones(4), seed=0)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        token_confidence(hidden, head, top_k=0)
    with pytest.raises(TypeError, match="top_k must be an int or None, got float"):
        token_confidence(hidden, head, top_k=2.0)  # type: ignore[arg-type]
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="top_p must be above 0 and at most 1"):
            token_confidence(hidden, head, top_p=share)
    with pytest.raises(TypeError, match="top_p must be a number or None, got bool"):
        token_confidence(hidden, head, top_p=True)
    with pytest.raises(ValueError, match=r"noise_keys must have shape \[3\]"):
        token_confidence(hidden, head, temperature=1.0, seed=0, noise_keys=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="mask_token_id must be within 0 and 9, got 10"):
        token_confidence(hidden, head, mask_token_id=10)
    with pytest.raises(ValueError, match=r"forbidden must be in 0 \.\. 9, got 12"):
        token_confidence(hidden, head, forbidden=[12])
    tokens, values = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2)
    with pytest.raises(TypeError, match=r"bias\[0\] must be int64, got float32"):
        token_confidence(hidden, head, bias=(values, values))
    with pytest.raises(ValueError, match=r"bias\[1\] must have shape \[3, 2\], got \[3, 1\]"):
        token_confidence(hidden, head, bias=(tokens, values[:, :1]))
    with pytest.raises(ValueError, match=r"bias\[0\] must be in 0 \.\. 9, got 10"):
        token_confidence(hidden, head, bias=(tokens + 10, values))
    with pytest.raises(ValueError, match=r"guidance\[0\] must have shape \[3, 8\], got \[2, 8\]"):
        token_confidence(hidden, head, guidance=(hidden[:2], 1.0))
    with pytest.raises(TypeError, match=r"guidance\[0\] must be float32, got bfloat16"):
        token_confidence(hidden, head, guidance=(hidden.bfloat16(), 1.0))
    with pytest.raises(ValueError, match=r"guidance\[1\] must be finite, got nan"):
        token_confidence(hidden, head, guidance=(hidden, math.nan))
    with pytest.raises(TypeError, match=r"guidance\[1\] must be a number, got Tensor"):
        token_confidence(hidden, head, guidance=(hidden, torch.ones(3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a token is left to choose"):
        token_confidence(hidden, head, forbidden=list(range(9)), mask_token_id=9)


def test_the_core_checks_too() -> None:
    hidden, head, op = torch.zeros(3, 8), torch.zeros(10, 8), torch.ops.llada_moe.token_confidence
    for arguments in [
        (hidden, head, False, 11),
        (hidden, head, True, 10),
        (hidden[0], head, False, 10),
        (hidden, head, False, 10, -1.0),
        (hidden, head, False, 10, 0.0, 0, None, torch.tensor([10])),
        (hidden, head, False, 10, 0.0, 0, None, torch.arange(10)),
        (hidden, head, False, 10, 0.0, 0, None, None, 10),
        (hidden, head, False, 10, 0.0, 0, None, None, -1, torch.tensor([0, 1, math.nan])),
        (hidden, head, False, 10, 0.0, 0, None, None, -1, None, torch.full((3, 1), 10), torch.ones(3, 1)),
        (hidden, head, False, 10, 0.0, 0, None, None, -1, None, torch.zeros(3, 2).long(), torch.ones(3, 1)),
        (hidden, head, False, 10, 0.0, 0, None, None, -1, None, None, None, -1),
        (hidden, head, False, 10, 0.0, 0, None, None, -1, None, None, None, 0, 1.5),
    ]:
        with pytest.raises(RuntimeError, match="token_confidence: "):
            op(*arguments)
