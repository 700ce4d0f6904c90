"""``llada-moe demo``: held-out questions and a sudoku, answered while one watches, each answer checked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from . import live
from .checkpoint import Loaded, load, reply_text
from .options import ModelChoice
from .picture import write_svg

if TYPE_CHECKING:
    from ..sampling import GenerationResult, TraceStep
    from ..training.tasks import Example

QUESTIONS = {"sort": 1, "reverse": 1, "arithmetic": 2}
PUZZLES = {"operator": 1, "sudoku9": 1}
_PICTURE_AT = 0.6


@dataclass
class Part:
    """Examples answered in one batch: either all replies or all infillings."""

    examples: list[Example]
    rows: Callable[[], list[live.Row]]
    sample: Callable[[Callable[[TraceStep], None] | None], GenerationResult]
    answers: Callable[[GenerationResult], list[str]]


def demo(model: ModelChoice, seed: int, pause: float, svg: Path | None) -> None:
    """Run the demo and print its answers and speed."""
    loaded = load(model)
    console = Console(highlight=False, markup=False)
    correct = count = tokens = passes = 0
    seconds = 0.0
    frames: list[live.View] = []
    for part in (_questions(loaded, seed), _puzzles(loaded, seed)):
        if live.wanted():
            view = live.View(loaded.tokenizer, part.rows(), loaded.eos_token_id)
            result = live.run(view, part.sample, console, pause)
        else:
            result = part.sample(None)
        answers = part.answers(result)
        for example, answer in zip(part.examples, answers, strict=True):
            good = _check(example, answer)
            correct, count = correct + good, count + 1
            console.print(_line(example, answer, good), soft_wrap=True)
        tokens, passes, seconds = tokens + result.tokens, passes + result.forward_passes, seconds + result.seconds
        if svg is not None:
            frames.append(_frame(loaded, part.rows(), result))
    held = loaded.model.quantization or str(loaded.model.dtype).removeprefix("torch.")
    where = f"{loaded.name} model, {held}, {loaded.model.device}"
    speed = f"{tokens / seconds:.0f} tokens/s · {passes} forward passes"
    console.print(f"{correct} of {count} answers right · {speed} · {where}", soft_wrap=True)
    if svg is not None:
        write_svg(frames, svg)
        print(f"picture: {svg}", file=sys.stderr)


def _check(example: Example, answer: str) -> bool:
    from ..training.tasks import TASKS

    return TASKS[example.task].check(example, answer)


def _draw(wanted: dict[str, int], seed: int) -> list[Example]:
    from ..training.tasks import EVALUATION_TASKS, draw

    random = Random(f"demo {seed}")
    return [
        draw(EVALUATION_TASKS[name], random, held_out=True) for name, number in wanted.items() for _ in range(number)
    ]


def _line(example: Example, answer: str, good: bool) -> Text:
    line = Text("✓ " if good else "✗ ", "green" if good else "red")
    return line.append(answer if example.infill else f"{example.text} → {answer}", "default")


def _questions(loaded: Loaded, seed: int) -> Part:
    from .. import sampling
    from ..training.evaluate import REPLY_LENGTH

    examples = _draw(QUESTIONS, seed)
    tokenizer, end, mask = loaded.tokenizer, loaded.eos_token_id, loaded.mask_token_id
    ids = [tokenizer.encode(tokenizer.chat([{"role": "user", "content": one.text}])) for one in examples]

    def sample(on_step: Callable[[TraceStep], None] | None) -> GenerationResult:
        return sampling.generate(
            loaded.model, ids, gen_length=REPLY_LENGTH, mask_token_id=mask, eos_token_id=end, on_step=on_step
        )

    return Part(
        examples,
        lambda: [
            live.Row(one.text, [mask] * REPLY_LENGTH, [True] * REPLY_LENGTH, max(map(len, ids))) for one in examples
        ],
        sample,
        lambda result: [reply_text(tokenizer, row, end) for row in result.completions.tolist()],
    )


def _puzzles(loaded: Loaded, seed: int) -> Part:
    from .. import sampling
    from .texts import encode_masked

    examples = _draw(PUZZLES, seed)
    tokenizer, mask = loaded.tokenizer, loaded.mask_token_id
    encoded = [encode_masked(tokenizer, one.text, mask) for one in examples]
    longest = max(len(ids) for ids, _ in encoded)

    def sample(on_step: Callable[[TraceStep], None] | None) -> GenerationResult:
        return sampling.infill(
            loaded.model,
            [ids for ids, _ in encoded],
            mask_token_id=mask,
            eos_token_id=loaded.eos_token_id,
            on_step=on_step,
        )

    def rows() -> list[live.Row]:
        return [
            live.Row(one.task, list(ids), list(fill), longest - len(ids))
            for one, (ids, fill) in zip(examples, encoded, strict=True)
        ]

    def answers(result: GenerationResult) -> list[str]:
        pairs = zip(result.sequences.tolist(), encoded, strict=True)
        return [tokenizer.decode(row[longest - len(ids) :]) for row, (ids, _) in pairs]

    return Part(examples, rows, sample, answers)


def _frame(loaded: Loaded, rows: list[live.Row], result: GenerationResult) -> live.View:
    """The view as it stood partway."""
    view = live.View(loaded.tokenizer, rows, loaded.eos_token_id)
    for step in result.trace.steps[: round(result.steps * _PICTURE_AT)]:
        view.apply(step)
    view.seconds = result.seconds * view.committed / max(view.total, 1)
    return view
