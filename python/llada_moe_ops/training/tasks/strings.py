"""Sorting and reversing strings of letters."""

from __future__ import annotations

from random import Random
from string import ascii_lowercase

from .task import Example

MIN_LETTERS, MAX_LETTERS = 3, 10


class StringTask:
    """A question ``sort hcabe`` or ``reverse hcabe``; the reply is the letters sorted or reversed."""

    longest_reply = MAX_LETTERS

    def __init__(self, name: str) -> None:
        self.name = name

    def solve(self, letters: str) -> str:
        """The correct reply."""
        return "".join(sorted(letters)) if self.name == "sort" else letters[::-1]

    def sample(self, random: Random, *, held_out: bool) -> Example:
        """Letters drawn independently; the length is uniform."""
        letters = "".join(random.choices(ascii_lowercase, k=random.randint(MIN_LETTERS, MAX_LETTERS)))
        return Example(self.name, f"{self.name} {letters}", self.solve(letters), False, letters)

    def check(self, example: Example, answer: str) -> bool:
        """Whether the reply is exactly the solution."""
        return answer == example.answer
