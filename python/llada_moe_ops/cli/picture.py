"""A still picture of the live view, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..files import write_aside
from .live import WIDTH, View


def write_svg(views: Sequence[View], path: Path) -> None:
    """Draw views below one another.

    Raises:
        OSError: the file cannot be written.
    """
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for view in views:
        console.print(view.render())
    with write_aside(path) as aside:
        aside.write_text(console.export_svg(title="llada-moe demo"), encoding="utf-8")
