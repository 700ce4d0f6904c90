"""Commit rules: each against the rule written out plainly, on statistics with every kind of tie; names and errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llada_moe_ops.sampling import UNMASKERS, Statistics, generate, unmaskers
from llada_moe_ops.sampling.unmaskers import Unmasker, build_unmasker
from torch import Tensor

from . import slow_unmaskers as slow
from .models import load, random_prompts
from .random_statistics import cases, statistics, take

Slow = Callable[[slow.Row], set[int]]
# Each rule as a user writes it, and the same written out.
RULES: dict[str, Slow] = {
    "fixed": slow.fixed,
    "random": slow.random,
    "margin": slow.margin,
    "entropy": slow.entropy,
    "threshold": partial(slow.threshold, threshold=0.9),
    "threshold:0": partial(slow.threshold, threshold=0.0),
    "threshold:0.5": partial(slow.threshold, threshold=0.5),
    "threshold:0.9375": partial(slow.threshold, threshold=0.9375),
    "threshold:1": partial(slow.threshold, threshold=1.0),
    "factor": partial(slow.factor, factor=1.0),
    "factor:factor=3": partial(slow.factor, factor=3.0),
    "entropy_bound": partial(slow.entropy_bound, gamma=0.1),
    "entropy_bound:0": partial(slow.entropy_bound, gamma=0.0),
    "entropy_bound:1.5": partial(slow.entropy_bound, gamma=1.5),
    "hierarchical": partial(slow.hierarchical, threshold=0.92, low_threshold=0.62),
    "hierarchical:0.75,0.25": partial(slow.hierarchical, threshold=0.75, low_threshold=0.25),
    "hierarchical:0.96875,0.9375": partial(slow.hierarchical, threshold=0.96875, low_threshold=0.9375),
    "hierarchical:low_threshold=0,threshold=1": partial(slow.hierarchical, threshold=1.0, low_threshold=0.0),
    "localleap": partial(slow.localleap, threshold=0.9, relaxed_threshold=0.75, radius=4),
    "localleap:0.75,0.5,1": partial(slow.localleap, threshold=0.75, relaxed_threshold=0.5, radius=1),
    "localleap:0.96875,0.9375,2": partial(slow.localleap, threshold=0.96875, relaxed_threshold=0.9375, radius=2),
    "localleap:radius=0": partial(slow.localleap, threshold=0.9, relaxed_threshold=0.75, radius=0),
    "localleap:radius=50": partial(slow.localleap, threshold=0.9, relaxed_threshold=0.75, radius=50),
}
ADAPTIVE = {
    "threshold",
    "factor",
    "entropy_bound",
    "hierarchical",
    "localleap",
    "credit",
    "klass",
    "prophet",
    "editing",
    "remask",
}
FIRST_STEP = sorted({rule.partition(":")[0] for rule in RULES})


def chosen(commit: Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in commit]


def select(rule: str, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
    commit = build_unmasker(rule).select(statistics, masked, quota)
    assert isinstance(commit, Tensor)
    return commit


def slow_rows(statistics: Statistics, masked: Tensor, quota: Tensor) -> list[slow.Row]:
    columns = (
        statistics.confidence, statistics.logprob.exp(), statistics.runner_up_logprob.exp(), statistics.entropy,
        statistics.details.uniform(),
    )  # fmt: skip
    return [
        slow.Row(
            masked[row].nonzero().flatten().tolist(), int(quota[row]), *(values[row].tolist() for values in columns)
        )
        for row in range(len(masked))
    ]


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_against_the_rule_written_out(rule: str, case: tuple[Statistics, Tensor, Tensor]) -> None:
    statistics, masked, quota = case
    commit = select(rule, statistics, masked, quota)
    assert commit.dtype == torch.bool
    assert chosen(commit) == [RULES[rule](row) for row in slow_rows(statistics, masked, quota)]
    assert bool(commit.any(1).all())
    assert not bool((commit & ~masked).any())


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None)
@given(case=cases(), data=st.data())
def test_a_row_does_not_depend_on_its_batch(
    rule: str, case: tuple[Statistics, Tensor, Tensor], data: st.DataObject
) -> None:
    statistics, masked, quota = case
    together = select(rule, statistics, masked, quota)
    some = torch.tensor(data.draw(st.permutations(range(len(masked))))[: data.draw(st.integers(1, len(masked)))])
    alone = select(rule, take(statistics, some), masked[some], quota[some])
    assert torch.equal(alone, together[some])


def test_the_rules_differ() -> None:
    """Statistics on which no two rules agree, so that a name cannot stand for another's rule."""
    from .random_statistics import statistics

    seeds = range(40)
    masked, quota = torch.ones(1, 12, dtype=torch.bool), torch.tensor([3])
    answers = {
        name: [chosen(select(name, statistics(1, 12, seed, 33), masked, quota)) for seed in seeds]
        for name in FIRST_STEP
    }
    assert len({str(answer) for answer in answers.values()}) == len(FIRST_STEP)


@pytest.mark.parametrize("name", UNMASKERS)
def test_generation(name: str) -> None:
    """Everything is filled, in the schedule's steps or fewer, and rows do not depend on each other."""
    model, prompts = load("base-fp32"), random_prompts(3, 9, seed=4)
    call: dict[str, Any] = {"gen_length": 12, "block_length": 6, "steps": 6, "unmasker": name, "seed": 5}
    together = generate(model, prompts, **call)
    assert not bool((together.completions == model.config.mask_token_id).any())
    assert UNMASKERS[name]().adaptive == (name in ADAPTIVE)
    if name not in ADAPTIVE:
        assert together.steps == 6
    for row in range(3):
        alone = generate(model, prompts[row : row + 1], **call)
        assert torch.equal(alone.sequences[0], together.sequences[row])


def test_a_falling_threshold() -> None:
    """Rows at steps 0, 2, 3, 4 and 9 of their own, all with these confidences."""
    rows = torch.arange(5)
    confidence = torch.tensor([0.95, 0.8, 0.75, 0.7, 0.6]).expand(5, -1)
    found = statistics(5, 5, 0, 33)
    steps = torch.tensor([0, 2, 3, 4, 9])
    found = replace(found, confidence=confidence, details=replace(found.details, steps=steps))
    commit = build_unmasker("threshold:0.7,decay=0.1").select(found, torch.ones(5, 5, dtype=torch.bool), rows + 1)
    assert commit.sum(1).tolist() == [1, 2, 4, 4, 4]


def test_random_order_is_the_seed_s() -> None:
    model, prompts = load("base-fp32"), random_prompts(1, 9, seed=4)

    def order(seed: int) -> list[int]:
        steps = generate(model, prompts, gen_length=12, unmasker="random", seed=seed).trace.steps
        return [int(step.positions[0]) for step in steps]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == list(range(9, 21))


def test_objects_and_parameters() -> None:
    assert build_unmasker("threshold:0.25") == unmaskers.ThresholdUnmasker(0.25)
    assert build_unmasker("localleap:0.8,radius=2") == unmaskers.LocalLeapUnmasker(0.8, radius=2)
    rule: Unmasker = unmaskers.FactorUnmasker(2)
    assert build_unmasker(rule) is rule


@pytest.mark.parametrize(
    ("unmasker", "error", "message"),
    [
        ("treshold", ValueError, "unmasker must be one of 'fixed', 'random', .* did you mean 'threshold'"),
        ("", ValueError, "unmasker must be one of 'fixed'"),
        (0.9, TypeError, r"unmasker must be a name or an object with select\(\), got float"),
        (unmaskers.FixedUnmasker, TypeError, r"an object with select\(\), got the class FixedUnmasker"),
        (SimpleNamespace(select=print), TypeError, "unmasker must say whether it is adaptive, SimpleNamespace does"),
        ("fixed:3", ValueError, "unmasker 'fixed' must have no parameters, got the further value '3'"),
        ("threshold:0.9,0,8", ValueError, "must have parameters among threshold, decay, got the further value '8'"),
        ("threshold:0.9,decay=-0.1", ValueError, "decay must be from 0 to 1, got -0.1"),
        (
            "hierarchical:low_treshold=1",
            ValueError,
            "among threshold, low_threshold, got 'low_treshold'; did you mean 'low_threshold'",
        ),
        ("threshold:0.9,threshold=0.8", ValueError, "unmasker 'threshold' must have threshold once"),
        ("threshold:1.5", ValueError, "threshold must be from 0 to 1, got 1.5"),
        ("threshold:nan", ValueError, "threshold must be from 0 to 1, got nan"),
        ("threshold:high", TypeError, "threshold must be a number, got str"),
        ("factor:0", ValueError, "factor must be above 0, got 0"),
        ("factor:inf", ValueError, "factor must be finite and not negative, got inf"),
        ("entropy_bound:-1", ValueError, "gamma must be finite and not negative, got -1"),
        ("hierarchical:0.5,0.6", ValueError, "low_threshold must be at most threshold 0.5, got 0.6"),
        ("localleap:0.5,0.6", ValueError, "relaxed_threshold must be at most threshold 0.5, got 0.6"),
        ("credit:decay=2", ValueError, "decay must be from 0 to 1, got 2"),
        ("klass:history=0", ValueError, "history must be at least 1, got 0"),
        ("klass:0.9,-1", ValueError, "divergence must be finite and not negative, got -1"),
        ("prophet:middle=x", TypeError, "middle must be a number, got str"),
        ("credit:_tokens=1", ValueError, "among threshold, weight, decay, boost, got '_tokens'"),
        ("localleap:radius=-1", ValueError, "radius must be at least 0, got -1"),
        ("localleap:radius=1.5", TypeError, "radius must be an int, got float"),
    ],
)
def test_errors(unmasker: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        generate(load("base-fp32"), [[5]], gen_length=4, unmasker=unmasker)
