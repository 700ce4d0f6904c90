"""Held-out accuracy per task, with its confidence interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from ..sampling import generate, infill
from .tasks import EVALUATION_TASKS, MASK, Example, draw
from .vocabulary import END_OF_TEXT, MASK_TOKEN, chat_prompt

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel

REPLY_LENGTH = 12
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """Right answers of a task among held-out examples."""

    task: str
    right: tuple[bool, ...]
    """Example by example, in the order in which the seed draws them."""
    seconds: float

    @property
    def correct(self) -> int:
        """How many answers were right."""
        return sum(self.right)

    @property
    def count(self) -> int:
        """How many answers were asked for."""
        return len(self.right)

    @property
    def share(self) -> float:
        """The accuracy, 0 … 1."""
        return self.correct / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval of the accuracy."""
        n, p, z = self.count, self.share, _NORMAL_95
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


def answer(model: LLaDAMoEModel, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[str]:
    """The model's answers to examples of one task, one token committed a step, at temperature 0."""
    if examples[0].infill:
        puzzles = [tokenizer.encode(example.text.replace(MASK, MASK_TOKEN)).ids for example in examples]
        rows = infill(model, puzzles).sequences.tolist()
        return [tokenizer.decode(row[-len(ids) :]) for row, ids in zip(rows, puzzles, strict=True)]
    prompts = [tokenizer.encode(chat_prompt(example.text)).ids for example in examples]
    replies = generate(model, prompts, gen_length=REPLY_LENGTH).completions.tolist()
    end = tokenizer.token_to_id(END_OF_TEXT)
    return [tokenizer.decode(reply[: reply.index(end)] if end in reply else reply) for reply in replies]


def evaluate(
    model: LLaDAMoEModel,
    tokenizer: Tokenizer,
    tasks: Iterable[str] | None = None,
    *,
    count: int = 200,
    batch_size: int = 50,
    seed: int = 0,
    on_progress: Callable[[str, int], None] | None = None,
) -> list[Accuracy]:
    """Measure a model on ``count`` held-out examples of each task.

    Args:
        model: loaded, packed or not.
        tokenizer: the checkpoint's own.
        tasks: names in ``EVALUATION_TASKS``; None measures all.
        count: examples per task.
        batch_size: examples answered at once; the answers do not depend on it.
        seed: of the examples; the same seed gives the same ones.
        on_progress: called with a task's name and how many more examples are done.

    Raises:
        ValueError: an unknown task, or a count or batch size below 1.
    """
    names = list(EVALUATION_TASKS if tasks is None else tasks)
    unknown = [name for name in names if name not in EVALUATION_TASKS]
    if unknown:
        raise ValueError(f"tasks must be among {', '.join(EVALUATION_TASKS)}, got {unknown[0]!r}")
    if count < 1 or batch_size < 1:
        raise ValueError(f"count and batch_size must be at least 1, got {count} and {batch_size}")
    results = []
    for name in names:
        task, random = EVALUATION_TASKS[name], Random(f"evaluate {seed} {name}")
        examples = [draw(task, random, held_out=True) for _ in range(count)]
        started = time.monotonic()
        right: list[bool] = []
        for first in range(0, count, batch_size):
            batch = examples[first : first + batch_size]
            answers = answer(model, tokenizer, batch)
            right += [task.check(example, text) for example, text in zip(batch, answers, strict=True)]
            if on_progress is not None:
                on_progress(name, len(batch))
        results.append(Accuracy(name, tuple(right), time.monotonic() - started))
    return results
