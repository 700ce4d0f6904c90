"""Rules that look back, over whole blocks whose rows finish at different steps, against the rules written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llada_moe_ops.sampling import generate
from llada_moe_ops.sampling.unmaskers import RowHistory, build_unmasker
from torch import Tensor

from . import slow_history as slow
from .models import load, random_prompts
from .random_statistics import TIES, of_logits, statistics, told_apart, walk, with_ties

Slow = Callable[[Iterator[slow.Logits], list[int], int], Iterator[slow.Commit]]
RULES: dict[str, Slow] = {
    "credit": partial(slow.credit, threshold=0.9, weight=0.7, decay=0.8, boost=0.2),
    "credit:0.6,weight=3,boost=0": partial(slow.credit, threshold=0.6, weight=3.0, decay=0.8, boost=0.0),
    "credit:decay=0": partial(slow.credit, threshold=0.9, weight=0.7, decay=0.0, boost=0.2),
    "klass": partial(slow.klass, confidence=0.9, divergence=0.01, history=2),
    "klass:0.4,0.05,1": partial(slow.klass, confidence=0.4, divergence=0.05, history=1),
    "klass:0.3,0.1,3": partial(slow.klass, confidence=0.3, divergence=0.1, history=3),
    "prophet": partial(slow.prophet, early=7.5, middle=5.0, late=2.5),
    "prophet:3,2,1": partial(slow.prophet, early=3.0, middle=2.0, late=1.0),
    "prophet:1,2,3": partial(slow.prophet, early=1.0, middle=2.0, late=3.0),
}


def episode(rule: str, logits: Tensor, masked: Tensor, quota: Tensor) -> list[list[slow.Commit]]:
    """What each row commits, step by step; rows leave when nothing of them is masked."""
    unmasker, masked = build_unmasker(rule), masked.clone()
    commits: list[list[slow.Commit]] = [[] for _ in masked]
    for index, step in enumerate(logits):
        rows = masked.any(1).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        found = of_logits(step[rows], masked[rows], rows, index)
        decision = unmasker.select(found, masked[rows], quota[rows])
        commit = decision if isinstance(decision, Tensor) else decision.commit
        tokens = (found if isinstance(decision, Tensor) else decision.statistics).token
        assert bool(commit.any(1).all())
        assert not bool((commit & ~masked[rows]).any())
        masked[rows] &= ~commit
        for place, row in enumerate(rows.tolist()):
            slots = commit[place].nonzero().flatten().tolist()
            commits[row].append({slot: int(tokens[place, slot]) for slot in slots})
    assert not bool(masked.any())
    return commits


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 3),
    width=st.integers(1, 7),
    seed=st.integers(0, 10_000),
    ties=st.sampled_from(TIES),
    data=st.data(),
)
def test_against_the_rule_written_out(
    rule: str, rows: int, width: int, seed: int, ties: str, data: st.DataObject
) -> None:
    logits = with_ties(walk(width, rows, width, 9, seed), ties)
    assume(told_apart(logits))
    masked = torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) < data.draw(st.floats(0.3, 1))
    masked[:, seed % width] = True
    quota = torch.tensor([data.draw(st.integers(1, 3)) for _ in range(rows)])
    together = episode(rule, logits, masked, quota)
    for row in range(rows):
        positions = masked[row].nonzero().flatten().tolist()
        expected = RULES[rule](iter(logits[:, row].tolist()), positions, int(quota[row]))
        for ours in together[row]:
            assert ours == next(expected)
        (alone,) = episode(rule, logits[:, row : row + 1], masked[row : row + 1], quota[row : row + 1])
        assert alone == together[row]


@pytest.mark.parametrize("rule", ["credit", "klass:0.4,0.05,1", "prophet:3,2,1"])
def test_the_past_matters_and_ends_with_the_block(rule: str) -> None:
    """A second block is decided as if it were the first, and other than without the steps before."""
    logits, masked, quota = walk(8, 2, 8, 9, seed=5), torch.ones(2, 8, dtype=torch.bool), torch.tensor([1, 1])
    unmasker = build_unmasker(rule)

    def choose(step: int, index: int) -> Tensor:
        chosen = unmasker.select(of_logits(logits[step], masked, torch.arange(2), index), masked, quota)
        return chosen if isinstance(chosen, Tensor) else chosen.statistics.confidence

    first = [choose(step, step) for step in range(3)]
    assert all(torch.equal(choose(step, step), first[step]) for step in range(3))
    if rule != "prophet:3,2,1":  # its past is how much was masked, which is the same here
        assert not torch.equal(choose(2, 0), first[2])


@pytest.mark.parametrize("rule", ["credit:0.3", "klass:0.05,1,1", "prophet:0.5,0.4,0.3"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"cfg_scale": 0.5}, {"suppress_eos": True}], ids=str)
def test_generation_does_not_depend_on_the_batch(rule: str, options: dict[str, Any]) -> None:
    model = load("base-fp32")
    prompts = [random_prompts(1, length, length)[0].tolist() for length in (9, 4, 12)]
    call: dict[str, Any] = {"gen_length": 12, "block_length": 6, "unmasker": rule, "seed": 5, "eos_token_id": 17}
    together = generate(model, prompts, **call, **options)
    assert int(together.row_steps.sum()) < 36
    for row, prompt in enumerate(prompts):
        alone = generate(model, [prompt], **call, **options)
        assert torch.equal(alone.completions[0], together.completions[row])
        assert int(alone.row_steps[0]) == int(together.row_steps[row])


def test_credit_is_the_same_bits_in_any_batch() -> None:
    (logits,) = walk(1, 40, 5, 9, seed=3)
    masked, quota = torch.ones(40, 5, dtype=torch.bool), torch.ones(40, dtype=torch.int64)

    def confidence(rows: slice) -> Tensor:
        count = torch.arange(40)[rows]
        found = of_logits(logits[rows], masked[rows], count - count[0], 0)
        decision = build_unmasker("credit").select(found, masked[rows], quota[rows])
        assert not isinstance(decision, Tensor)
        return decision.statistics.confidence

    together = confidence(slice(None))
    for row in range(40):
        pick = slice(row, row + 1)
        assert torch.equal(confidence(pick), together[pick])


def test_credit_without_weight_is_the_threshold() -> None:
    model, prompts = load("base-fp32"), random_prompts(2, 9, seed=4)
    for options in ({}, {"temperature": 0.7, "seed": 3}):
        plain = generate(model, prompts, gen_length=12, unmasker="threshold:0.3", **options)
        none = generate(model, prompts, gen_length=12, unmasker="credit:0.3,weight=0", **options)
        assert torch.equal(plain.trace.commit_steps(), none.trace.commit_steps())
        assert torch.equal(plain.sequences, none.sequences)


def test_history_finds_rows_by_number() -> None:
    history, found = (
        RowHistory(),
        of_logits(torch.zeros(3, 1, 2), torch.ones(3, 1, dtype=torch.bool), torch.tensor([1, 4, 7]), 1),
    )
    assert history.recall(found) is None
    history.keep(found, torch.tensor([10, 40, 70]))
    fewer = of_logits(torch.zeros(2, 1, 2), torch.ones(2, 1, dtype=torch.bool), torch.tensor([1, 7]), 2)
    kept = history.recall(fewer)
    assert kept is not None
    assert kept.tolist() == [10, 70]
    assert history.recall(statistics(2, 1, 0, 1)) is None, "a block's first step"
