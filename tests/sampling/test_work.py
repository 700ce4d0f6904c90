"""What the model is given: nothing of rows that have finished, no column that no row needs, nothing where nothing is
to be filled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from llada_moe_ops import LLaDAMoEModel
from llada_moe_ops.model.feature_cache import FeatureCache
from llada_moe_ops.sampling import CACHES, Request, generate_requests, infill
from torch import Tensor

from .models import load, random_prompts

MASK = 3


@contextmanager
def watched(model: LLaDAMoEModel) -> Iterator[list[tuple[int, int]]]:
    """Rows and columns of each forward pass."""
    seen: list[tuple[int, int]] = []
    run, run_cached = model.run, FeatureCache.run

    def noted(tokens: Tensor, *others: Any) -> Tensor:
        seen.append((tokens.shape[0], tokens.shape[1]))
        return run(tokens, *others)

    def noted_cached(cache: FeatureCache, rows: Tensor | None, tokens: Tensor, *others: Any) -> Tensor:
        seen.append((tokens.shape[0], tokens.shape[1]))
        return run_cached(cache, rows, tokens, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "run", noted)
        patch.setattr(FeatureCache, "run", noted_cached)
        yield seen


def ask(cache: str, *lengths: tuple[int, int]) -> list[tuple[int, int]]:
    """Passes over requests of these lengths of prompt and reply."""
    requests = [Request(random_prompts(1, prompt, prompt)[0].tolist(), reply) for prompt, reply in lengths]
    with watched(load("base-fp32")) as seen:
        generate_requests(load("base-fp32"), requests, cache=cache, block_length=8)
    return seen


@pytest.mark.parametrize("cache", CACHES)
def test_one_row_of_many_goes_on(cache: str) -> None:
    seen = ask(cache, (8, 2), (40, 4), (16, 16), (8, 2), (32, 3))
    assert [rows for rows, _ in seen] == [5, 5, 3, 2] + [1] * 12
    assert seen[8:] == ask(cache, (16, 16))[8:], "at its next block the canvas is that of the row that goes on"
    columns = [columns for _, columns in seen]
    if cache == "none":
        assert columns == [44] * 4 + [32] * 12
    if cache == "dual":
        assert columns == [44, *[8] * 7, 32, *[8] * 7]


@pytest.mark.parametrize("cache", CACHES)
def test_a_row_that_ends_early_leaves(cache: str) -> None:
    model, prompt = load("base-fp32"), random_prompts(1, 8)[0].tolist()
    (full,) = generate_requests(model, [Request(prompt, 24, temperature=1.0, seed=5)], cache=cache, block_length=8)
    requests = [
        Request(prompt, 24, temperature=1.0, seed=5, stop=[full.tokens[4:6]]),
        Request(prompt, 24, unmasker="threshold:0", temperature=1.0, seed=5),
        Request(prompt, 24, temperature=1.0, seed=5),
    ]
    with watched(model) as seen:
        results = generate_requests(model, requests, cache=cache, block_length=8)
    assert [result.steps for result in results] == [8, 3, 24]
    assert [rows for rows, _ in seen] == [3] + [2] * 7 + ([2] + [1] * 7) * 2


def test_nothing_to_fill_runs_nothing() -> None:
    with watched(load("base-fp32")) as seen:
        assert generate_requests(load("base-fp32"), [Request([5, 6], 0)])[0].tokens == []
        assert infill(load("base-fp32"), [[5, 6], [7]]).forward_passes == 0
        assert infill(load("base-fp32"), [[5, MASK], [7]]).forward_passes == 1
    assert seen == [(1, 2)]
