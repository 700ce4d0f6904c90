"""What every task gives: examples with a checkable answer, split into training and held-out by construction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random
from typing import Protocol

MASK = "[MASK]"
HELD_OUT_ONE_IN = 16


@dataclass(frozen=True)
class Example:
    """One instance of a task.

    Attributes:
        task: the task's name.
        text: what the model sees. For a question, the user's words; for an infilling, the whole text with
            ``[MASK]`` where something is to be found.
        answer: one correct answer: the reply, or the whole text with nothing masked.
        infill: whether the answer fills the text in place (else it is a reply after the chat template).
        identity: what decides the split; two examples with one identity are on the same side of it.
    """

    task: str
    text: str
    answer: str
    infill: bool
    identity: str


class Task(Protocol):
    """A family of examples; ``longest_reply`` counts characters, 0 where the answer fills the text in place."""

    name: str
    longest_reply: int

    def sample(self, random: Random, *, held_out: bool) -> Example:
        """Draw one example from the distribution of either side; :func:`draw` keeps those on the right side."""
        ...

    def check(self, example: Example, answer: str) -> bool:
        """Whether an answer is correct: any correct one counts, not only the example's own."""
        ...


def is_held_out(identity: str) -> bool:
    """Which side of the split an identity is on: a fixed one in sixteen is held out, by hash."""
    return hashlib.blake2b(identity.encode(), digest_size=2).digest()[0] % HELD_OUT_ONE_IN == 0


def draw(task: Task, random: Random, *, held_out: bool) -> Example:
    """Draw an example from one side of the split."""
    while True:
        example = task.sample(random, held_out=held_out)
        if is_held_out(example.identity) == held_out:
            return example
