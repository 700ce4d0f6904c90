"""top_k and top_p in token_confidence's CUDA kernels, in the emulator: the reference's draws on the same logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops.ops import gumbel_noise, token_confidence
from llada_moe_ops.ops.confidence_of_logits import confidence_of_logits, may_be_drawn

from tests.emulated import SEEDS, emulated, needs_emulator

from .test_token_confidence import assert_same, inputs
from .test_token_confidence_cuda import WITH_FLOAT16, emulated_confidence, emulated_logits

pytestmark = needs_emulator

CUTS: list[dict[str, Any]] = [
    {"top_p": 0.9},
    {"top_k": 20},
    {"top_p": 0.3, "mask_token_id": 3, "forbidden": [0, 7]},
    {"top_k": 256},
    {"top_p": 0.02},
    {"top_k": 30, "top_p": 0.6, "mask_token_id": 3, "forbidden": [0, 7]},
    {"top_p": 0.999},
    {"top_k": 1},
    {"top_p": 1e-9},
    {"top_k": 3, "top_p": 0.999},
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(3, 16, 2081), (33, 8, 300), (130, 8, 129), (4, 7, 257)])
def test_draws_what_the_reference_draws(shape: tuple[int, int, int], seed: int) -> None:
    hidden, head = inputs(shape, WITH_FLOAT16[(seed + shape[0]) % 3], seed)
    hidden = hidden * (1.0, 0.15, 0.0)[seed // 2 % 3]  # peaked, flat, all logits equal
    logits = emulated_logits(seed, hidden, head)
    temperatures = torch.linspace(0, 1.4, len(hidden))
    for number, cut in enumerate(CUTS[seed % 4 :: 4]):
        options: dict[str, Any] = {"temperature": temperatures if number % 2 else 0.9, "seed": seed + number, **cut}
        assert_same(emulated_confidence(seed, hidden, head, **options), confidence_of_logits(logits, **options))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("top_p", [0.9, 0.4, 0.004])
def test_noise_that_runs_against_the_logits(top_p: float, seed: int) -> None:
    """The larger the logit, the smaller the noise: all tokens are chosen from what is likelier than the one before."""
    head = (-0.9 * gumbel_noise(5, torch.zeros(1, dtype=torch.int64), 300)).float().T.contiguous()
    hidden, keys = torch.ones(2, 1), torch.tensor([0, 1])
    options: dict[str, Any] = {"temperature": 1.0, "seed": 5, "noise_keys": keys, "top_p": top_p}
    logits = emulated_logits(seed, hidden, head)
    assert (~may_be_drawn(logits, 1.0, None, top_p)).sum(-1).min() > 8  # what is tried by the pass that all rows take
    assert_same(emulated_confidence(seed, hidden, head, **options), confidence_of_logits(logits, **options))


@pytest.mark.parametrize("seed", SEEDS)
def test_likely_tokens_that_lie_together(seed: int) -> None:
    """A whole tile of tokens likelier than all others, and one that has a few of them."""
    hidden, head = inputs((9, 16, 500), torch.float32, seed)
    bias = torch.arange(128, 256).repeat(9, 1), torch.full((9, 128), 20.0)
    bias[0][:, -2:] = torch.tensor([300, 301])
    logits = emulated_logits(seed, hidden, head)
    for cut in ({"top_k": 4}, {"top_k": 126}, {"top_k": 5, "top_p": 0.8}, {"top_p": 0.6}):
        options: dict[str, Any] = {"temperature": 1.5, "seed": seed, "bias": bias, **cut}
        assert_same(emulated_confidence(seed, hidden, head, **options), confidence_of_logits(logits, **options))


def test_cuts_change_neither_temperature_0_nor_the_statistics() -> None:
    hidden, head = inputs((20, 8, 300), torch.bfloat16)
    plain = emulated_confidence(0, hidden, head)
    for cut in ({"top_k": 5}, {"top_p": 0.5}):
        assert all(map(torch.equal, plain, emulated_confidence(1, hidden, head, **cut)))
        drawn = emulated_confidence(2, hidden, head, temperature=1.0, seed=0, **cut)
        assert torch.equal(drawn.entropy, plain.entropy)
        assert torch.equal(drawn.logsumexp, plain.logsumexp)
        assert (drawn.token != plain.token).any()
    whole = emulated_confidence(3, hidden, head, temperature=1.0, seed=0, top_k=300)
    assert all(map(torch.equal, whole, emulated_confidence(4, hidden, head, temperature=1.0, seed=0)))


@pytest.mark.parametrize("cut", [{"top_k": 7}, {"top_p": 0.9}, {"top_k": 90, "top_p": 0.8}], ids=str)
def test_a_row_alone_gives_the_same_bits(cut: dict[str, Any]) -> None:
    hidden, head = inputs((140, 24, 300), torch.bfloat16)
    hidden[5:60] *= 0.1
    keys, temperatures = torch.arange(140) * 11 - 7, torch.linspace(0, 1.5, 140)
    whole = emulated_confidence(0, hidden, head, noise_keys=keys, temperature=temperatures, seed=1, **cut)
    for seed, rows in zip(SEEDS[1:], ((0, 1), (1, 33), (100, 140), (139, 140), (0, 129), (3, 20), (7, 8)), strict=True):
        part = slice(*rows)
        own = {"noise_keys": keys[part], "temperature": temperatures[part]}
        alone = emulated_confidence(seed, hidden[part], head, seed=1, **own, **cut)
        assert all(torch.equal(mine, other[part]) for mine, other in zip(alone, whole, strict=True))


@pytest.mark.parametrize("cut", [{"top_k": 3}, {"top_p": 0.9}], ids=str)
def test_rows_that_are_not_finite_or_have_nothing_to_choose(cut: dict[str, Any]) -> None:
    hidden, head = inputs((6, 8, 300), torch.float32)
    hidden[1, 2], hidden[3, 0] = torch.nan, torch.inf
    tokens, values = torch.arange(300).expand(6, 300), torch.zeros(6, 300)
    values[4, 1:] = -torch.inf  # leaves the mask token alone
    values[5, 2:] = -torch.inf
    options: dict[str, Any] = {"temperature": 0.5, "seed": 0, "mask_token_id": 0, "bias": (tokens, values), **cut}
    out = emulated_confidence(1, hidden, head, **options)
    assert (out.token < 0).tolist() == [False, True, False, True, True, False]
    assert out.token[5] == 1
    assert_same(out, confidence_of_logits(emulated_logits(1, hidden, head), **options))


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e30])
def test_draws_are_the_cpu_s(temperature: float) -> None:
    """Of logits that both sum alike, equal ones among them, through the package's function."""
    hidden, head = inputs((37, 1, 1500), torch.bfloat16)
    for seed, cut in enumerate(({"top_k": 40}, {"top_p": 0.7}, {"top_k": 200, "top_p": 0.5})):
        options: dict[str, Any] = {"temperature": temperature, "seed": seed, **cut}
        native = token_confidence(hidden, head, **options)
        with emulated(seed):
            ours = token_confidence(hidden, head, **options)
        assert torch.equal(ours.token, native.token)
        assert torch.equal(ours.runner_up, native.runner_up)
