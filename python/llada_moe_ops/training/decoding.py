"""What commit rules, caches and smoothing save and cost: accuracy, forward passes and speed of each way, on tasks.

Every way is compared with the published sampler, one token a step and nothing kept, and every policy with its rule and
smoothing without a cache. Ways take turns batch by batch, so that the machine's other load falls on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from ..sampling.unmaskers import UNMASKERS
from .evaluate import Answer, Decoding, answer, held_out, known_tasks, points_lost
from .tasks import EVALUATION_TASKS
from .vocabulary import END_OF_TEXT

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel

Way = tuple[str, str, str]  # rule, cache and smoothing, as ``generate`` takes them
PUBLISHED: Way = ("fixed", "none", "none")
SMOOTHED = "threshold:0.8,decay=0.02"  # dInfer's rule beside iteration smoothing
# As published, and stricter where a threshold decides: tokens that constrain each other need it.
RULES = (
    *UNMASKERS,
    "threshold:0.99",
    "factor:0.1",
    "entropy_bound:0.01",
    "hierarchical:0.99,0.95",
    "localleap:0.99,0.95",
    "klass:0.99",
    "credit:0.99",
    SMOOTHED,
)


@dataclass
class Decoded:
    """A rule, a policy and a smoothing, over all answers.

    Attributes:
        unmasker, cache, smoothing: names with their parameters.
        right: whether each answer was, task after task.
        passes: forward passes that each answer takes alone.
        tokens: filled in, end-of-text not counted.
        seconds: wall-clock time, first passes included.
        same_tokens, same_answers: which filled tokens, and which answers, are those without a cache.
    """

    unmasker: str
    cache: str
    smoothing: str
    right: list[bool] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    same_tokens: list[bool] = field(default_factory=list)
    same_answers: list[bool] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return _mean(self.right)

    @property
    def tokens_per_pass(self) -> float:
        """Tokens filled in by a forward pass."""
        return self.tokens / sum(self.passes)

    @property
    def tokens_per_second(self) -> float:
        """In the batches in which they were decoded."""
        return self.tokens / self.seconds

    def figures(self, published: Decoded) -> dict[str, Any]:
        """What the report says, against the published sampler."""
        lost, low, high = points_lost(published.right, self.right)
        return {
            "unmasker": self.unmasker,
            "cache": self.cache,
            "smoothing": self.smoothing,
            "accuracy": self.accuracy,
            "points_lost": lost,
            "points_lost_interval": [low, high],
            "passes": _mean(self.passes),
            "fewer_passes": _mean(published.passes) / _mean(self.passes),
            "tokens_per_pass": self.tokens_per_pass,
            "tokens_per_second": self.tokens_per_second,
            "speedup": self.tokens_per_second / published.tokens_per_second,
            "same_tokens": _mean(self.same_tokens),
            "same_answers": _mean(self.same_answers),
        }


def compare_decodings(
    model: LLaDAMoEModel,
    tokenizer: Tokenizer,
    ways: Sequence[Way],
    tasks: Iterable[str] | None = None,
    *,
    count: int = 50,
    batch_size: int = 50,
    block_length: int | None = None,
    seed: int = 0,
    on_progress: Callable[[str, int], None] | None = None,
) -> list[Decoded]:
    """Answer ``count`` held-out examples of each task with each of ``ways``.

    The published sampler comes first in the result whether or not it is among them; a rule is also run without a cache
    where only policies were asked for, but not listed.

    Args:
        model, tokenizer, tasks, batch_size, seed: as for :func:`~llada_moe_ops.training.evaluate`.
        ways: as ``generate`` takes ``unmasker``, ``cache`` and ``smoothing``.
        block_length: positions of a block; None makes one of the whole reply.
        on_progress: called with a task's name and how many more answers are done.

    Raises:
        ValueError: an unknown task, rule, policy or smoothing, or a rule and a policy that do not go together.
    """
    names = known_tasks(tasks)
    listed = list(dict.fromkeys([PUBLISHED, *ways]))
    decoded = {way: Decoded(*way) for way in with_uncached(listed)}
    end = tokenizer.token_to_id(END_OF_TEXT)
    for name in names:
        examples = held_out(name, count, seed)
        for first in range(0, count, batch_size):
            batch = examples[first : first + batch_size]
            uncached: dict[tuple[str, str], list[Answer]] = {}
            for (rule, cache, smoothing), figures in decoded.items():
                started = time.perf_counter()
                answers = answer(model, tokenizer, batch, Decoding(rule, cache, block_length, smoothing))
                figures.seconds += time.perf_counter() - started
                exact = uncached.setdefault((rule, smoothing), answers)
                _add(figures, answers, exact, end)
                check = EVALUATION_TASKS[name].check
                figures.right += [check(one, ours.text) for one, ours in zip(batch, answers, strict=True)]
                if on_progress is not None:
                    on_progress(name, len(batch))
    return [decoded[way] for way in listed]


def with_uncached(ways: Iterable[Way]) -> list[Way]:
    """Each of ``ways`` once, after the same without a cache."""
    return list(dict.fromkeys(way for rule, cache, mix in ways for way in ((rule, "none", mix), (rule, cache, mix))))


def _add(figures: Decoded, answers: Sequence[Answer], exact: Sequence[Answer], end: int | None) -> None:
    figures.passes += [one.steps for one in answers]
    figures.tokens += sum(token != end for one in answers for token in one.tokens)
    for one, other in zip(answers, exact, strict=True):
        figures.same_tokens += [mine == theirs for mine, theirs in zip(one.tokens, other.tokens, strict=True)]
        figures.same_answers.append(one.text == other.text)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other one is beaten by in one coordinate without being better in the other; more is better."""
    return [
        index
        for index, (x, y) in enumerate(points)
        if not any((u >= x and v > y) or (u > x and v >= y) for u, v in points)
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
