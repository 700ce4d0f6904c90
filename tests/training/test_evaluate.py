"""Evaluation: the interval at known values, answers that do not depend on the batch, errors."""

from __future__ import annotations

from random import Random

import pytest
from llada_moe_ops import LLaDAMoEConfig, LLaDAMoEModel
from llada_moe_ops.training import Accuracy, Decoding, evaluate
from llada_moe_ops.training.evaluate import answer
from llada_moe_ops.training.tasks import EVALUATION_TASKS, draw
from llada_moe_ops.training.vocabulary import build_tokenizer

from tests.training.test_trainer import MODEL


@pytest.fixture(scope="module")
def model() -> LLaDAMoEModel:
    return LLaDAMoEModel(LLaDAMoEConfig.from_dict(MODEL)).initialize().pack()


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)]
)
def test_wilson_interval(correct: int, count: int, low: float, high: float) -> None:
    right = (True,) * correct + (False,) * (count - correct)
    assert Accuracy("sort", right, (1,) * count, 1.0).interval == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("name", EVALUATION_TASKS)
def test_answers_do_not_depend_on_the_batch(model: LLaDAMoEModel, name: str) -> None:
    random = Random(0)
    tokenizer = build_tokenizer()
    examples = [draw(EVALUATION_TASKS[name], random, held_out=True) for _ in range(3)]
    together = answer(model, tokenizer, examples)
    assert together == [answer(model, tokenizer, [example])[0] for example in examples]


def test_an_untrained_model_is_wrong_and_progress_is_told(model: LLaDAMoEModel) -> None:
    told: list[tuple[str, int]] = []
    results = evaluate(
        model,
        build_tokenizer(),
        ["sort", "operator"],
        count=5,
        batch_size=2,
        on_progress=lambda task, done: told.append((task, done)),
    )
    assert [(result.task, result.count) for result in results] == [("sort", 5), ("operator", 5)]
    assert results[0].steps == (12,) * 5
    assert [result.mean_steps for result in results] == [12, 1]
    assert results[0].correct == 0
    assert told == [("sort", 2), ("sort", 2), ("sort", 1), ("operator", 2), ("operator", 2), ("operator", 1)]


def test_a_rule_that_commits_all_at_once_takes_one_step(model: LLaDAMoEModel) -> None:
    (result,) = evaluate(model, build_tokenizer(), ["sort"], count=3, decoding=Decoding("threshold:0"))
    assert result.steps == (1, 1, 1)


def test_errors(model: LLaDAMoEModel) -> None:
    with pytest.raises(ValueError, match="tasks must be among"):
        evaluate(model, build_tokenizer(), ["chess"])
    with pytest.raises(ValueError, match="count and batch_size"):
        evaluate(model, build_tokenizer(), count=0)
