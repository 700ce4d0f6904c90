"""The rules that change what is written, written out plainly: one row, in Python numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .slow_history import Logits, by_confidence, largest, softmax

Rule = Callable[[list[list[float]], list[int], int], set[int]]  # distributions, masked positions, quota
Written = dict[int, int]  # position: token


@dataclass
class Step:
    """What a step writes, and what it masks again."""

    written: Written
    remasked: set[int]


def threshold(p: list[list[float]], masked: list[int], quota: int, *, threshold: float) -> set[int]:
    if not masked:
        return set()
    needed = min(threshold, max(max(p[position]) for position in masked) - 1e-5)
    return {position for position in masked if max(p[position]) >= needed}


def editing(
    steps: Iterator[tuple[Logits, list[float]]],
    masked: list[int],
    quota: int,
    *,
    rule: Rule,
    threshold: float,
    further_steps: int,
) -> Iterator[Step]:
    text: Written = {}
    left, further = set(masked), 0
    for logits, _ in steps:
        p = [softmax(row) for row in logits]
        step = {position: largest(p[position]) for position in rule(p, sorted(left), quota)}
        for position, token in text.items():
            better = largest(p[position])
            if better != token and p[position][better] > threshold:
                step[position] = better
        was_full = not left
        left -= step.keys()
        edited = bool(step.keys() & text.keys())
        text |= step
        further += was_full
        yield Step(step, set())
        if not left and (further >= further_steps or (was_full and not edited)):
            return


def remask(
    steps: Iterator[tuple[Logits, list[float]]],
    masked: list[int],
    quota: int,
    *,
    rule: Rule,
    how: str,
    amount: float,
) -> Iterator[Step]:
    left, text = set(masked), dict[int, float]()  # position: its probability when it was written
    total = math.ceil(len(masked) / quota)
    for index, (logits, uniform) in enumerate(steps):
        p = [softmax(row) for row in logits]
        if how == "below":
            again = {position for position in text if max(p[position]) < amount}
            candidates, least = left | again, len(again) + 1
        else:
            most = 1.0 if index == 0 else min(1.0, max(0.0, (total - index - 1) / index))
            again = set()
            for position in text:
                sigma = min(amount, most) if how == "cap" else amount * most
                if how == "confidence":
                    sigma *= math.exp(-text[position]) / sum(math.exp(-value) for value in text.values())
                if uniform[position] < sigma:
                    again.add(position)
            candidates, least = set(left), len(again) + quota
        chosen = rule(p, sorted(candidates), least)
        for position in by_confidence(p, sorted(candidates)):
            if len(chosen) < least:
                chosen.add(position)
        again -= chosen
        for position in again:
            del text[position]
        text |= {position: max(p[position]) for position in chosen}
        left = (left | again) - chosen
        yield Step({position: largest(p[position]) for position in chosen}, again)
        if not left:
            return
