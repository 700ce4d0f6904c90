"""The Monte-Carlo log-likelihood against recorded draws, and its own promises."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops.sampling import LikelihoodEstimate, score
from llada_moe_ops.sampling.likelihood import draw_masks, masked_loss

from tests.golden import facts, tensors

from .models import load


@pytest.mark.parametrize("case", facts("likelihood"))
def test_recorded_draws_give_the_published_estimate(case: str) -> None:
    arguments, recorded = facts("likelihood")[case], tensors("likelihood")
    prompt, answer = recorded[f"{case}/prompt"].long(), recorded[f"{case}/answer"].long()
    losses = [
        masked_loss(
            load(arguments["model"]),
            prompt,
            answer,
            sequences[:, len(prompt) :] == arguments["mask_id"],
            arguments["mask_id"],
            arguments["cfg_scale"],
        )
        for sequences in recorded[f"{case}/masked_sequences"]
    ]
    torch.testing.assert_close(
        torch.tensor(losses, dtype=torch.float64), recorded[f"{case}/batch_loss_float64"], atol=1e-4, rtol=0
    )
    estimate = LikelihoodEstimate.from_losses(losses, exact=len(answer) == 1)
    assert estimate.log_likelihood == pytest.approx(arguments["log_likelihood"], abs=1e-4)
    assert estimate.batch_losses == losses


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 40), batch=st.integers(1, 20), seed=st.integers(0, 99))
def test_counts_are_spread_evenly(length: int, batch: int, seed: int) -> None:
    """Stratified: each count within 1 … length, and over a batch as even as rounding allows."""
    masks = draw_masks(length, batch, torch.Generator().manual_seed(seed))
    counts = masks.sum(1).tolist()
    assert masks.shape == (batch, length)
    assert all(1 <= count <= length for count in counts)
    times = [counts.count(value) for value in range(1, length + 1)]
    assert max(times) - min(times) <= 2


def test_mean_over_draws_is_the_exact_average() -> None:
    """On a three-token answer every masking can be listed: the estimate must be within its own standard error."""
    model, prompt, answer = load("base-fp32"), torch.tensor([9, 30, 77]), torch.tensor([12, 200, 45])
    exact = 0.0
    for count in (1, 2, 3):
        chosen = list(itertools.combinations(range(3), count))
        masked = torch.tensor([[column in positions for column in range(3)] for positions in chosen])
        exact -= masked_loss(model, prompt, answer, masked, 3) / 3
    estimate = score(model, prompt, answer, mc_num=600, batch_size=6, seed=5)
    assert len(estimate.batch_losses) == 100
    assert estimate.standard_error > 0
    assert abs(estimate.log_likelihood - exact) < 3.5 * estimate.standard_error


def test_seed_decides_and_lists_are_taken() -> None:
    model = load("base-fp32")
    first = score(model, [5, 6], [7, 8, 9], mc_num=8, batch_size=4, seed=1)
    assert score(model, torch.tensor([5, 6], dtype=torch.int32), [7, 8, 9], mc_num=8, batch_size=4, seed=1) == first
    assert score(model, [5, 6], [7, 8, 9], mc_num=8, batch_size=4, seed=2) != first


def test_standard_error_of_one_batch_and_of_one_token() -> None:
    model = load("base-fp32")
    assert math.isnan(score(model, [5], [7, 8, 9], mc_num=4, seed=1).standard_error)
    assert score(model, [5], [7], mc_num=2, batch_size=1, seed=1).standard_error == 0.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"answer_ids": []}, ValueError, "answer_ids must be at least one token"),
        ({"answer_ids": [256]}, ValueError, r"answer_ids must be token ids in \[0, 256\), got 256"),
        ({"answer_ids": torch.ones(1, 2, dtype=torch.int64)}, ValueError, r"answer_ids must be of shape \[N\]"),
        ({"answer_ids": torch.ones(2)}, TypeError, "answer_ids must be int32 or int64, got float32"),
        ({"prompt_ids": "text"}, TypeError, "prompt_ids must be a tensor or a list"),
        (
            {"answer_ids": [5] * 511},
            ValueError,
            "prompt_ids and answer_ids must be at most max_position_embeddings 512",
        ),
        ({"mc_num": 0}, ValueError, "mc_num must be at least 1, got 0"),
        ({"mc_num": 10, "batch_size": 4}, ValueError, "mc_num must be a multiple of batch_size 4, got 10"),
        ({"cfg_scale": -1.0}, ValueError, "cfg_scale must be finite and not negative"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    call: dict[str, object] = {"prompt_ids": [5, 6], "answer_ids": [7], **arguments}
    with pytest.raises(error, match=message):
        score(load("base-fp32"), **call)  # type: ignore[arg-type]
