"""Held-out accuracy per task, with its confidence interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from ..sampling import Cache, IterationSmoothing, Unmasker, generate, infill
from .tasks import EVALUATION_TASKS, MASK, Example, draw
from .vocabulary import END_OF_TEXT, MASK_TOKEN, chat_prompt

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel

REPLY_LENGTH = 12
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Decoding:
    """How answers are generated, as :func:`~llada_moe_ops.generate` takes it."""

    unmasker: str | Unmasker = "fixed"
    cache: str | Cache = "none"
    block_length: int | None = None
    smoothing: str | IterationSmoothing = "none"


_PUBLISHED = Decoding()


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


def points_lost(base: Sequence[bool], other: Sequence[bool]) -> tuple[float, float, float]:
    """Percentage points lost against ``base``, pair by pair, and their 95 % interval after Agresti and Min (2005)."""
    pairs = list(zip(base, other, strict=True))
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    size = len(pairs) + 2
    centre, changed = (lost - won) / size, lost + won + 1
    half = _NORMAL_95 * math.sqrt((changed - (lost - won) ** 2 / size) / size**2)
    return 100 * (lost - won) / len(pairs), 100 * (centre - half), 100 * (centre + half)


@dataclass(frozen=True)
class Answer:
    """A model's answer, the tokens that it filled in, and the denoising steps that this took."""

    text: str
    tokens: tuple[int, ...]
    steps: int


def answer(
    model: LLaDAMoEModel, tokenizer: Tokenizer, examples: Sequence[Example], decoding: Decoding = _PUBLISHED
) -> list[Answer]:
    """The model's answers to examples of one task, at temperature 0."""
    options: dict[str, Any] = {"seed": 0, **vars(decoding)}
    if examples[0].infill:
        puzzles = [tokenizer.encode(example.text.replace(MASK, MASK_TOKEN)).ids for example in examples]
        result = infill(model, puzzles, **options)
        mask = tokenizer.token_to_id(MASK_TOKEN)
        rows = [row[-len(ids) :] for row, ids in zip(result.sequences.tolist(), puzzles, strict=True)]
        texts = [tokenizer.decode(row) for row in rows]
        filled = [
            tuple(token for token, given in zip(row, ids, strict=True) if given == mask)
            for row, ids in zip(rows, puzzles, strict=True)
        ]
    else:
        prompts = [tokenizer.encode(chat_prompt(example.text)).ids for example in examples]
        result = generate(model, prompts, gen_length=REPLY_LENGTH, **options)
        end = tokenizer.token_to_id(END_OF_TEXT)
        replies = result.completions.tolist()
        texts = [tokenizer.decode(reply[: reply.index(end)] if end in reply else reply) for reply in replies]
        filled = list(map(tuple, replies))
    return list(map(Answer, texts, filled, result.row_steps.tolist()))


def held_out(task: str, count: int, seed: int) -> list[Example]:
    """Examples that no training saw; the same seed gives the same ones."""
    random = Random(f"evaluate {seed} {task}")
    return [draw(EVALUATION_TASKS[task], random, held_out=True) for _ in range(count)]


def known_tasks(tasks: Iterable[str] | None) -> list[str]:
    """Their names, all for None.

    Raises:
        ValueError: an unknown one.
    """
    names = list(EVALUATION_TASKS if tasks is None else tasks)
    unknown = [name for name in names if name not in EVALUATION_TASKS]
    if unknown:
        raise ValueError(f"tasks must be among {', '.join(EVALUATION_TASKS)}, got {unknown[0]!r}")
    return names


def evaluate(
    model: LLaDAMoEModel,
    tokenizer: Tokenizer,
    tasks: Iterable[str] | None = None,
    *,
    count: int = 200,
    batch_size: int = 50,
    seed: int = 0,
    decoding: Decoding = _PUBLISHED,
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
        decoding: rule and cache; by default the published sampler, one token a step.
        on_progress: called with a task's name and how many more examples are done.

    Raises:
        ValueError: an unknown task, or a count or batch size below 1.
    """
    names = known_tasks(tasks)
    if count < 1 or batch_size < 1:
        raise ValueError(f"count and batch_size must be at least 1, got {count} and {batch_size}")
    results = []
    for name in names:
        task, examples = EVALUATION_TASKS[name], held_out(name, count, seed)
        started = time.monotonic()
        right: list[bool] = []
        steps: list[int] = []
        for first in range(0, count, batch_size):
            batch = examples[first : first + batch_size]
            answers = answer(model, tokenizer, batch, decoding)
            right += [task.check(example, one.text) for example, one in zip(batch, answers, strict=True)]
            steps += [one.steps for one in answers]
            if on_progress is not None:
                on_progress(name, len(batch))
        results.append(Accuracy(name, tuple(right), tuple(steps), time.monotonic() - started))
    return results
