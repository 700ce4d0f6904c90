"""What a command prints: text or JSON, on standard output or into a file that is whole or untouched."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_aside

if TYPE_CHECKING:
    from ..sampling import GenerationResult


def write(text: str, output: Path | None) -> None:
    """Write a text and a line end.

    Raises:
        OSError: the file cannot be written; an older one is intact.
    """
    if output is None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        return
    try:
        with write_aside(output) as aside:
            aside.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OSError(f"{output}: cannot be written ({error.strerror or error})") from error


def as_json(values: dict[str, Any]) -> str:
    """One JSON object; NaN, which JSON lacks, must have been made null before."""
    return json.dumps(values, ensure_ascii=False, indent=2, allow_nan=False)


def figures(result: GenerationResult) -> dict[str, Any]:
    """Counts and timings of a generation, as they go into the JSON."""
    return {
        "steps": result.steps,
        "forward_passes": result.forward_passes,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 6),
        "tokens_per_second": round(result.tokens_per_second, 3),
        "tokens_per_forward": round(result.tokens_per_forward, 3),
    }


def speed_line(result: GenerationResult) -> str:
    """Counts and timings of a generation, for people."""
    return (
        f"{result.tokens} tokens in {result.seconds:.2f} s · {result.tokens_per_second:.1f} tokens/s · "
        f"{result.forward_passes} forward passes · {result.tokens_per_forward:.2f} tokens a pass"
    )
