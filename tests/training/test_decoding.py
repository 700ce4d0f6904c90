"""The comparison of rules and caches: what is run, what is compared with what, the front of the best."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from llada_moe_ops import LLaDAMoEConfig, LLaDAMoEModel
from llada_moe_ops.sampling.unmaskers import build_unmasker
from llada_moe_ops.training import evaluate
from llada_moe_ops.training.decoding import RULES, SMOOTHED, Decoded, compare_decodings, pareto
from llada_moe_ops.training.evaluate import Decoding, answer, held_out, points_lost
from llada_moe_ops.training.vocabulary import build_tokenizer

from tests.training.test_trainer import MODEL


@pytest.fixture(scope="module")
def model() -> LLaDAMoEModel:
    return LLaDAMoEModel(LLaDAMoEConfig.from_dict(MODEL)).initialize(torch.Generator().manual_seed(3)).pack()


def test_ways_are_those_of_evaluate_and_the_published_sampler_comes_first(model: LLaDAMoEModel) -> None:
    tokenizer, told = build_tokenizer(), []
    ways = [
        ("threshold:0", "none", "none"),
        ("margin", "dual", "none"),
        ("threshold:0.02", "dual", "none"),
        ("threshold:0.02", "none", "iteration:50,limit=100"),
        ("threshold:0.02", "dual", "iteration:50,limit=100"),
    ]
    decoded = compare_decodings(
        model,
        tokenizer,
        ways,
        ["sort", "sudoku6"],
        count=3,
        batch_size=2,
        block_length=4,
        on_progress=lambda task, done: told.append((task, done)),
    )
    assert [(one.unmasker, one.cache, one.smoothing) for one in decoded] == [("fixed", "none", "none"), *ways]
    assert told == [(task, done) for task in ("sort", "sudoku6") for done in (2, 1) for _ in range(8)]
    for one in decoded:
        decoding = Decoding(one.unmasker, one.cache, block_length=4, smoothing=one.smoothing)
        alone = evaluate(model, tokenizer, ["sort", "sudoku6"], count=3, decoding=decoding)
        assert one.right == [right for result in alone for right in result.right]
        assert one.passes == [steps for result in alone for steps in result.steps]
        here, exact = (
            [
                token
                for task in ("sort", "sudoku6")
                for each in answer(model, tokenizer, held_out(task, 3, 0), how)
                for token in each.tokens
            ]
            for how in (decoding, replace(decoding, cache="none"))
        )
        assert one.same_tokens == [mine == theirs for mine, theirs in zip(here, exact, strict=True)]
    fixed, all_at_once, kept, plain, mixed, _ = (one.figures(decoded[0]) for one in decoded)
    assert fixed["fewer_passes"] == fixed["speedup"] == fixed["same_tokens"] == fixed["same_answers"] == 1
    assert all_at_once["fewer_passes"] > 2
    assert all_at_once["same_tokens"] == 1
    assert all_at_once["tokens_per_pass"] == decoded[1].tokens / sum(decoded[1].passes)
    assert 0 <= kept["same_answers"] <= kept["same_tokens"] < 1
    assert mixed["same_tokens"] == 1
    assert mixed["passes"] < plain["passes"]


def test_figures_against_the_published_sampler() -> None:
    published = Decoded("fixed", "none", "none", [True] * 90 + [False] * 10, [10] * 100, 500, 2.0, [True], [True])
    right = [True] * 88 + [False] * 11 + [True]
    faster = Decoded("x", "none", "none", right, [2] * 100, 400, 0.5, [True, False], [False])
    figures = faster.figures(published)
    assert figures["points_lost"] == pytest.approx(1)
    low, high = figures["points_lost_interval"]
    assert low < 1 < high
    assert [figures[name] for name in ("accuracy", "passes", "fewer_passes", "tokens_per_pass")] == [0.89, 2, 5, 2]
    assert [figures[name] for name in ("tokens_per_second", "speedup", "same_tokens", "same_answers")] == [
        800,
        3.2,
        0.5,
        0,
    ]


def test_points_lost_interval_holds_nothing_when_nothing_changed_for_long() -> None:
    points, low, high = points_lost([True] * 10_000, [True] * 10_000)
    assert points == 0
    assert -0.03 < low < 0 < high < 0.03


def test_pareto() -> None:
    points = [(1.0, 9.0), (2.0, 8.0), (2.0, 7.0), (1.5, 8.0), (3.0, 1.0), (3.0, 1.0)]
    assert pareto(points) == [0, 1, 4, 5]


def test_rules_exist() -> None:
    assert len(set(RULES)) == len(RULES)
    assert SMOOTHED in RULES
    for rule in RULES:
        build_unmasker(rule)


def test_errors(model: LLaDAMoEModel) -> None:
    with pytest.raises(ValueError, match="tasks must be among"):
        compare_decodings(model, build_tokenizer(), [], ["chess"])
    with pytest.raises(ValueError, match="cache"):
        compare_decodings(model, build_tokenizer(), [("fixed", "dul", "none")], ["sort"], count=1)
    with pytest.raises(ValueError, match="smoothing"):
        compare_decodings(model, build_tokenizer(), [("fixed", "none", "iteraton")], ["sort"], count=1)
