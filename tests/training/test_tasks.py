"""Tasks: right answers pass, wrong ones do not, and no held-out instance can be in the training stream."""

from __future__ import annotations

import dataclasses
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llada_moe_ops.training.tasks import EVALUATION_TASKS, MASK, TASKS, draw, is_held_out
from llada_moe_ops.training.tasks.sudoku import Sudoku


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_the_examples_own_answer_is_correct(name: str, held_out: bool) -> None:
    random = Random(1)
    for _ in range(50):
        example = draw(EVALUATION_TASKS[name], random, held_out=held_out)
        assert is_held_out(example.identity) == held_out
        assert EVALUATION_TASKS[name].check(example, example.answer)
        assert (MASK in example.text) == example.infill
        if example.infill:
            assert len(example.text.replace(MASK, "?")) == len(example.answer)


@pytest.mark.parametrize("name", TASKS)
def test_a_changed_answer_is_wrong(name: str) -> None:
    random = Random(2)
    for _ in range(50):
        example = draw(TASKS[name], random, held_out=False)
        place = random.randrange(len(example.answer))
        old = example.answer[place]
        changed = example.answer[:place] + ("a" if old != "a" else "b") + example.answer[place + 1 :]
        assert not TASKS[name].check(example, changed)
        assert not TASKS[name].check(example, example.answer + "1")
        assert not TASKS[name].check(example, "")


def test_the_split_is_by_instance() -> None:
    """Both sides are drawn at length; no identity is on both, and a sixteenth is held out."""
    for name, task in TASKS.items():
        random = Random(3)
        training = {draw(task, random, held_out=False).identity for _ in range(400)}
        held_out = {draw(task, random, held_out=True).identity for _ in range(100)}
        assert not training & held_out, name
    share = sum(is_held_out(str(number)) for number in range(20_000)) / 20_000
    assert abs(share - 1 / 16) < 0.01


@pytest.mark.parametrize("name", ["sudoku6", "sudoku9"])
def test_any_valid_completion_counts(name: str) -> None:
    """With no clue left, every valid grid is a completion; with all of them, only one is."""
    task = TASKS[name]
    assert isinstance(task, Sudoku)
    random = Random(4)
    one, other = (draw(task, random, held_out=True) for _ in range(2))
    blank = "".join(MASK if character.isdigit() else character for character in one.answer)
    assert task.check(dataclasses.replace(one, text=blank), other.answer)
    assert not task.check(dataclasses.replace(one, text=one.answer), other.answer)
    swapped = one.answer.split("\n")
    swapped[1], swapped[2] = swapped[2], swapped[1]
    assert task.check(dataclasses.replace(one, text=blank), "\n".join(swapped))
    swapped[1], swapped[-1] = swapped[-1], swapped[1]
    assert not task.check(dataclasses.replace(one, text=blank), "\n".join(swapped)), "rows moved between bands"


@given(st.integers(0, 99), st.integers(0, 99), st.sampled_from("+-*"))
def test_operator_accepts_exactly_the_true_ones(a: int, b: int, operator: str) -> None:
    task = TASKS["operator"]
    result = {"+": a + b, "-": a - b, "*": a * b}[operator]
    example = dataclasses.replace(draw(task, Random(5), held_out=False), text=f"{a}{MASK}{b}={result}")
    for guess in "+-*":
        true = {"+": a + b, "-": a - b, "*": a * b}[guess] == result
        assert task.check(example, f"{a}{guess}{b}={result}") == true


def test_evaluated_arithmetic_has_three_digits_throughout() -> None:
    random = Random(6)
    for _ in range(100):
        text = draw(EVALUATION_TASKS["arithmetic"], random, held_out=True).text
        first, second = text.rstrip("=").replace("-", "+").split("+")
        assert len(first) == len(second) == 3
