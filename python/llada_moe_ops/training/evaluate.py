"""Held-out accuracy per task, with its confidence interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from ..sampling import Unmasker, generate, infill
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
    steps: tuple[int, ...]
    """Denoising steps of each example, forward passes it would take alone."""
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
    def mean_steps(self) -> float:
        """Denoising steps an example."""
        return sum(self.steps) / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval of the accuracy."""
        n, p, z = self.count, self.share, _NORMAL_95
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Answer:
    """A model's answer, and the denoising steps it took."""

    text: str
    steps: int


def answer(
    model: LLaDAMoEModel, tokenizer: Tokenizer, examples: Sequence[Example], unmasker: str | Unmasker = "fixed"
) -> list[Answer]:
    """The model's answers to examples of one task, at temperature 0; "fixed" commits one token a step."""
    if examples[0].infill:
        puzzles = [tokenizer.encode(example.text.replace(MASK, MASK_TOKEN)).ids for example in examples]
        result = infill(model, puzzles, unmasker=unmasker, seed=0)
        rows = zip(result.sequences.tolist(), puzzles, strict=True)
        texts = [tokenizer.decode(row[-len(ids) :]) for row, ids in rows]
        return list(map(Answer, texts, result.row_steps.tolist()))
    prompts = [tokenizer.encode(chat_prompt(example.text)).ids for example in examples]
    result = generate(model, prompts, gen_length=REPLY_LENGTH, unmasker=unmasker, seed=0)
    end = tokenizer.token_to_id(END_OF_TEXT)
    replies = result.completions.tolist()
    texts = [tokenizer.decode(reply[: reply.index(end)] if end in reply else reply) for reply in replies]
    return list(map(Answer, texts, result.row_steps.tolist()))


def evaluate(
    model: LLaDAMoEModel,
    tokenizer: Tokenizer,
    tasks: Iterable[str] | None = None,
    *,
    count: int = 200,
    batch_size: int = 50,
    seed: int = 0,
    unmasker: str | Unmasker = "fixed",
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
        unmasker: the commit rule, as :func:`~llada_moe_ops.generate` takes it.
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
        steps: list[int] = []
        for first in range(0, count, batch_size):
            batch = examples[first : first + batch_size]
            answers = answer(model, tokenizer, batch, unmasker)
            right += [task.check(example, one.text) for example, one in zip(batch, answers, strict=True)]
            steps += [one.steps for one in answers]
            if on_progress is not None:
                on_progress(name, len(batch))
        results.append(Accuracy(name, tuple(right), tuple(steps), time.monotonic() - started))
    return results
