"""The comparison of rules and caches: what is run, what is compared with what, the front of the best."""

from __future__ import annotations

import pytest
from llada_moe_ops import LLaDAMoEConfig, LLaDAMoEModel
from llada_moe_ops.sampling.unmaskers import build_unmasker
from llada_moe_ops.training import evaluate
from llada_moe_ops.training.decoding import RULES, Decoded, compare_decodings, pareto
from llada_moe_ops.training.evaluate import Decoding, points_lost
from llada_moe_ops.training.vocabulary import build_tokenizer

from tests.training.test_trainer import MODEL


@pytest.fixture(scope="module")
def model() -> LLaDAMoEModel:
    return LLaDAMoEModel(LLaDAMoEConfig.from_dict(MODEL)).initialize().pack()


def test_pairs_are_those_of_evaluate_and_the_published_sampler_comes_first(model: LLaDAMoEModel) -> None:
    tokenizer, told = build_tokenizer(), []
    pairs = [("threshold:0", "none"), ("margin", "dual")]
    decoded = compare_decodings(
        model,
        tokenizer,
        pairs,
        ["sort", "sudoku6"],
        count=3,
        batch_size=2,
        block_length=4,
        on_progress=lambda task, done: told.append((task, done)),
    )
    assert [(one.unmasker, one.cache) for one in decoded] == [("fixed", "none"), *pairs]
    assert told == [(task, done) for task in ("sort", "sudoku6") for done in (2, 1) for _ in range(4)]
    for one in decoded:
        alone = evaluate(
            model, tokenizer, ["sort", "sudoku6"], count=3, decoding=Decoding(one.unmasker, one.cache, block_length=4)
        )
        assert one.right == [right for result in alone for right in result.right]
        assert one.passes == [steps for result in alone for steps in result.steps]
    fixed, all_at_once, kept = (one.figures(decoded[0]) for one in decoded)
    assert fixed["fewer_passes"] == fixed["speedup"] == fixed["same_tokens"] == fixed["same_answers"] == 1
    assert all_at_once["fewer_passes"] > 2
    assert all_at_once["same_tokens"] == 1
    assert all_at_once["tokens_per_pass"] == decoded[1].tokens / sum(decoded[1].passes)
    assert 0 <= kept["same_answers"] <= kept["same_tokens"] <= 1


def test_figures_against_the_published_sampler() -> None:
    published = Decoded("fixed", "none", [True] * 90 + [False] * 10, [10] * 100, 500, 2.0, [True], [True])
    faster = Decoded("x", "none", [True] * 88 + [False] * 11 + [True], [2] * 100, 400, 0.5, [True, False], [False])
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
    for rule in RULES:
        build_unmasker(rule)


def test_errors(model: LLaDAMoEModel) -> None:
    with pytest.raises(ValueError, match="tasks must be among"):
        compare_decodings(model, build_tokenizer(), [], ["chess"])
    with pytest.raises(ValueError, match="cache"):
        compare_decodings(model, build_tokenizer(), [("fixed", "dul")], ["sort"], count=1)
