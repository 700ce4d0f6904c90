"""The live view of the denoising: masks dim, freshly committed tokens coloured by confidence, progress and speed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..model.tokenizer import Tokenizer
    from ..sampling import GenerationResult, TraceStep

MASK_GLYPH = "▒"
_STYLES = ((0.9, "bold green"), (0.6, "bold yellow"), (0.0, "bold red"))
WIDTH = 100


def confidence_style(probability: float) -> str:
    """Green for sure, yellow for likely, red for a guess."""
    return next(style for least, style in _STYLES if probability >= least)


@dataclass
class Row:
    """One text being filled.

    Attributes:
        title: what the user asked.
        ids: tokens shown.
        masked: which are still to be filled.
        first_column: column of ``ids[0]`` in the sampler's canvas.
    """

    title: str
    ids: list[int]
    masked: list[bool]
    first_column: int


class View:
    """The state of a generation as it is drawn; :meth:`apply` takes the sampler's steps.

    ``drawing_seconds`` is the time spent on drawing, which is no part of the sampler's speed.
    """

    def __init__(self, tokenizer: Tokenizer, rows: Sequence[Row], end_token: int | None) -> None:
        self.tokenizer = tokenizer
        self.rows = rows
        self.end_token = end_token
        self.fresh: dict[tuple[int, int], float] = {}
        self.total = sum(sum(row.masked) for row in rows)
        self.steps = 0
        self.started = time.perf_counter()
        self.seconds = 0.0
        self.drawing_seconds = 0.0

    @property
    def committed(self) -> int:
        """Tokens filled so far."""
        return self.total - sum(sum(row.masked) for row in self.rows)

    def apply(self, step: TraceStep) -> None:
        """Show what one step committed."""
        values = step.to_dict()
        entries = zip(values["rows"], values["positions"], values["tokens"], values["probabilities"], strict=True)
        self.fresh = {}
        for row, position, token, probability in entries:
            column = position - self.rows[row].first_column
            self.rows[row].ids[column] = token
            self.rows[row].masked[column] = token == self.tokenizer.mask_token_id
            self.fresh[row, column] = probability
        self.steps += 1
        self.seconds = time.perf_counter() - self.started - self.drawing_seconds

    def text(self, index: int) -> Text:
        """One row's text with its styles."""
        row, text = self.rows[index], Text(overflow="fold")
        for column, token in enumerate(row.ids):
            if row.masked[column]:
                text.append(MASK_GLYPH, "dim")
            elif token == self.end_token:
                text.append("·", "dim")
            else:
                probability = self.fresh.get((index, column))
                shown = self.tokenizer.decode([token], skip_special_tokens=False)
                text.append(shown, "" if probability is None else confidence_style(probability))
        return text

    def render(self) -> RenderableType:
        """All rows, the progress bar and the speed."""
        panels = [
            Panel(
                self.text(index),
                title=Text(row.title, style="bold", overflow="ellipsis"),
                title_align="left",
                width=WIDTH,
            )
            for index, row in enumerate(self.rows)
        ]
        speed = self.committed / self.seconds if self.seconds else 0.0
        status = Table.grid(padding=(0, 2))
        status.add_row(
            ProgressBar(total=self.total, completed=self.committed, width=40),
            f"{self.committed}/{self.total} tokens",
            f"step {self.steps}",
            f"{speed:.0f} tokens/s",
        )
        return Group(*panels, status)


def wanted() -> bool:
    """Whether standard output is a terminal to draw on."""
    return sys.stdout.isatty()


def run(
    view: View,
    sample: Callable[[Callable[[TraceStep], None]], GenerationResult],
    console: Console | None = None,
    pause: float = 0.0,
) -> GenerationResult:
    """Draw a view while ``sample`` runs, which takes what to call with each step.

    Args:
        view: what to draw.
        sample: runs the sampler.
        console: where; None is standard output.
        pause: seconds to wait after each step, for models too quick to be watched.

    Returns:
        the result, its seconds without those of the drawing.
    """
    with Live(view.render(), console=console or Console(), auto_refresh=False) as live:

        def on_step(step: TraceStep) -> None:
            view.apply(step)
            started = time.perf_counter()
            live.update(view.render(), refresh=True)
            time.sleep(pause)
            view.drawing_seconds += time.perf_counter() - started

        result = sample(on_step)
    return replace(result, seconds=result.seconds - view.drawing_seconds)
