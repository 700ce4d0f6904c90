"""Addition and subtraction as questions, and the missing operator as infilling."""

from __future__ import annotations

from random import Random

from .task import MASK, Example

DIGITS = 3


def _number(random: Random, digits: int) -> int:
    return random.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


class Arithmetic:
    """A question ``512-34=``; the reply is the result, which is never negative.

    ``digits`` is the number of digits of the longer operand; None draws it, mostly the longest.
    """

    longest_reply = DIGITS + 1

    def __init__(self, name: str, digits: int | None = None) -> None:
        self.name = name
        self.digits = digits

    def sample(self, random: Random, *, held_out: bool) -> Example:
        """Two numbers and plus or minus; in a subtraction the larger stands first."""
        longest = self.digits or random.choice([1, 2, *[DIGITS] * 6])
        other = longest if self.digits or random.random() < 0.75 else random.randint(1, longest)
        a, b = _number(random, longest), _number(random, other)
        operator = random.choice("+-")
        if (operator == "-" and a < b) or (operator == "+" and random.random() < 0.5):
            a, b = b, a
        result = a + b if operator == "+" else a - b
        return Example(self.name, f"{a}{operator}{b}=", str(result), False, f"{a}{operator}{b}")

    def check(self, example: Example, answer: str) -> bool:
        """Whether the reply is exactly the result."""
        return answer == example.answer


class MissingOperator:
    """An infilling ``7[MASK]5=12``: plus, minus or times; any operator that makes it true is correct."""

    name = "operator"
    longest_reply = 0

    def sample(self, random: Random, *, held_out: bool) -> Example:
        """Operands up to 99, or up to 12 for a product."""
        operator = random.choice("+-*")
        largest = 12 if operator == "*" else 99
        a, b = random.randint(0, largest), random.randint(0, largest)
        if operator == "-" and a < b:
            a, b = b, a
        result = {"+": a + b, "-": a - b, "*": a * b}[operator]
        return Example(self.name, f"{a}{MASK}{b}={result}", f"{a}{operator}{b}={result}", True, f"{a}?{b}={result}")

    def check(self, example: Example, answer: str) -> bool:
        """Whether the answer keeps the given text and is true."""
        left, _, right = example.text.partition(MASK)
        if len(answer) != len(left) + 1 + len(right) or not answer.startswith(left) or not answer.endswith(right):
            return False
        a, (b, result) = int(left), (int(part) for part in right.split("="))
        return {"+": a + b, "-": a - b, "*": a * b}.get(answer[len(left)]) == result
