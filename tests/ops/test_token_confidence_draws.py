"""Which tokens noise may choose: temperatures of rows, top_k and top_p, against the reference on the same logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops.ops import linear, pack_linear, token_confidence
from llada_moe_ops.ops.confidence_of_logits import confidence_of_logits, may_be_drawn
from llada_moe_ops.ops.token_confidence import _of_logits_in_memory
from torch import Tensor

from .budget import DTYPES, ISAS, forced_isa
from .test_token_confidence import assert_same, inputs

CUTS: list[dict[str, Any]] = [
    {"top_k": 1},
    {"top_k": 20},
    {"top_k": 1500},  # more than are kept for a nucleus
    {"top_p": 1.0},
    {"top_p": 0.95},
    {"top_p": 0.3},
    {"top_p": 1e-9},
    {"top_k": 30, "top_p": 0.6},
    {"top_k": 1500, "top_p": 0.9, "mask_token_id": 3, "forbidden": [0, 7]},
    {"top_p": 0.9, "mask_token_id": 3, "forbidden": [0, 7]},
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1.0, 0.15, 0.0])  # peaked, a nucleus of more than 256 tokens, all logits equal
def test_draws_what_the_reference_draws(size: float, dtype: torch.dtype, isa: str) -> None:
    hidden, head = inputs((27, 16, 2081), dtype)
    hidden = hidden * size
    temperatures = torch.linspace(0, 1.4, 27)
    with forced_isa(isa):
        logits = linear(hidden, head)
        for number, cut in enumerate(CUTS):
            options: dict[str, Any] = {"temperature": temperatures if number % 2 else 0.9, "seed": number, **cut}
            assert_same(token_confidence(hidden, head, **options), confidence_of_logits(logits, **options))
        packed = token_confidence(hidden, pack_linear(head), **options)
        assert all(map(torch.equal, token_confidence(hidden, head, **options), packed))


def test_rows_of_several_temperatures_are_those_of_one() -> None:
    hidden, head = inputs((30, 8, 300), torch.float32)
    temperatures = torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64).repeat(10)  # 0.7 is no float32
    mixed = token_confidence(hidden, head, temperature=temperatures, seed=4, top_p=0.9)
    for start, temperature in enumerate((0.0, 0.7, 2.0)):
        keys = torch.arange(start, 30, 3)
        one = token_confidence(hidden[keys], head, temperature=temperature, seed=4, noise_keys=keys, top_p=0.9)
        for mine, other in zip(mixed, one, strict=True):
            assert torch.equal(mine[keys], other)


def test_cuts_change_neither_temperature_0_nor_the_statistics() -> None:
    hidden, head = inputs((20, 8, 300), torch.float32)
    plain, cut = token_confidence(hidden, head), token_confidence(hidden, head, top_k=2, top_p=0.1)
    assert all(map(torch.equal, plain, cut))
    drawn = token_confidence(hidden, head, temperature=1.0, seed=0, top_k=5)
    assert torch.equal(drawn.entropy, plain.entropy)
    assert torch.equal(drawn.logsumexp, plain.logsumexp)
    others = torch.where(drawn.token == plain.token, plain.runner_up, plain.token)
    assert torch.equal(drawn.runner_up, others)
    assert (drawn.token != plain.token).any()


def frequencies(logits: Tensor, **options: Any) -> Tensor:
    rows = 20000
    token = token_confidence(torch.ones(rows, 1), logits[:, None], seed=5, **options).token
    return torch.bincount(token, minlength=len(logits)) / rows


def test_what_is_left_is_sampled_in_proportion() -> None:
    logits = torch.tensor([0.4, 2.0, 1.0, 0.0, -1.0, 1.0])
    left = logits.index_fill(0, torch.tensor([0, 3, 4]), -torch.inf)
    assert (frequencies(logits, temperature=2.0, top_k=3) - (left / 2).softmax(-1)).abs().max() < 0.015
    # Shares at temperature 0.5: 0.75, 0.10, 0.10, 0.03, ...; of the equal ones the lower token comes first.
    left = logits.index_fill(0, torch.tensor([0, 3, 4, 5]), -torch.inf)
    assert (frequencies(logits, temperature=0.5, top_p=0.8) - (left / 0.5).softmax(-1)).abs().max() < 0.015
    assert frequencies(logits, temperature=0.5, top_p=0.7)[1] == 1


def test_nucleus_by_hand() -> None:
    """Shares 0.4, 0.3, 0.2, 0.1: exactly at a share, the token that reaches it is the last."""
    logits = torch.tensor([[0.2, 0.4, 0.1, 0.3]]).log()
    for top_k, top_p, kept in [
        (None, 0.39, [1]),
        (None, 0.41, [1, 3]),
        (None, 0.69, [1, 3]),
        (None, 0.71, [0, 1, 3]),
        (None, 1.0, [0, 1, 2, 3]),
        (2, 0.56, [1]),  # 0.4 of 0.7
        (2, 0.58, [1, 3]),
        (3, None, [0, 1, 3]),
        (9, None, [0, 1, 2, 3]),
    ]:
        assert may_be_drawn(logits, 1.0, top_k, top_p)[0].nonzero().flatten().tolist() == kept
    assert may_be_drawn(logits, 0.1, None, 0.9)[0].nonzero().flatten().tolist() == [1]
    half = torch.zeros(1, 8)
    assert may_be_drawn(half, 1.0, None, 0.5)[0].nonzero().flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_likely_mask_token_has_no_share(dtype: torch.dtype) -> None:
    """Also not in the further passes that rows of a large nucleus take: here many rows, but not all."""
    hidden, head = inputs((90, 16, 2100), dtype)
    hidden[torch.arange(90) % 5 > 0] *= 0.1
    bias = (torch.full((90, 1), 999), torch.full((90, 1), 9.0))
    options: dict[str, Any] = {"temperature": 1.0, "seed": 1, "top_p": 0.9, "mask_token_id": 999, "bias": bias}
    assert_same(token_confidence(hidden, head, **options), confidence_of_logits(linear(hidden, head), **options))


def test_equal_noised_values_go_to_the_lower_token() -> None:
    hidden, head = torch.ones(40, 1), torch.ones(5000, 1)
    for cut in ({}, {"top_k": 3}, {"top_p": 0.9}):
        assert not token_confidence(hidden, head, temperature=1e-30, seed=0, **cut).token.any()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(2, 700),
    st.one_of(st.none(), st.integers(1, 800)),
    st.one_of(st.none(), st.floats(1e-6, 1)),
    st.integers(0, 2**32),
)
def test_any_cuts(rows: int, vocabulary: int, top_k: int | None, top_p: float | None, seed: int) -> None:
    hidden, head = inputs((rows, 5, vocabulary), torch.bfloat16, seed)
    options: dict[str, Any] = {
        "temperature": torch.rand(rows, generator=torch.Generator().manual_seed(seed)) * 2,
        "seed": seed,
        "top_k": top_k,
        "top_p": top_p,
        "mask_token_id": vocabulary - 1,
    }
    ours = token_confidence(hidden, head, **options)
    assert_same(ours, confidence_of_logits(linear(hidden, head), **options))
    assert_same(ours, _of_logits_in_memory(hidden, head, bias=None, noise_keys=None, **options))


@pytest.mark.parametrize("cut", [{"top_k": 3}, {"top_p": 0.9}])
def test_rows_that_are_not_finite_or_have_nothing_to_choose(cut: dict[str, Any]) -> None:
    hidden, head = inputs((6, 8, 700), torch.float32)
    hidden[1, 2], hidden[3, 0] = torch.nan, torch.inf
    tokens = torch.arange(700).expand(6, 700)
    values = torch.zeros(6, 700)
    values[4, 1:] = -torch.inf  # leaves the mask token alone
    values[5, 2:] = -torch.inf
    options: dict[str, Any] = {"temperature": 0.5, "seed": 0, "mask_token_id": 0, "bias": (tokens, values), **cut}
    out = token_confidence(hidden, head, **options)
    assert (out.token < 0).tolist() == [False, True, False, True, True, False]
    assert out.token[5] == 1
    assert_same(out, confidence_of_logits(linear(hidden, head), **options))
