"""The table of a run: `python -m benchmarks.peers.table benchmarks/results/FILE.json`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

OURS = "ours"


def table(rows: Iterable[Mapping[str, Any]], statistic: str = "median") -> str:
    """One table per format and thread count: milliseconds, and how many times ours each takes.

    The last column is how fast the machine was meanwhile, of the fastest it was in the run.
    """
    groups = itertools.groupby(rows, lambda row: (row["format"], row["threads"]))
    return "\n\n".join(_one(name, list(group), statistic) for name, group in groups)


def _one(name: tuple[str, int], rows: list[Mapping[str, Any]], statistic: str) -> str:
    contenders = list(dict.fromkeys(contender for row in rows for contender in row["times"]))
    lines = [
        f"{name[0]}, {name[1]} thread{'s' if name[1] > 1 else ''}: {statistic} ms (times ours)",
        "| T | " + " | ".join(contenders) + " | best peer | pace |",
        "|---" * (len(contenders) + 3) + "|",
    ]
    for row in rows:
        seconds = {contender: times[statistic] for contender, times in row["times"].items()}
        best = min(seconds.keys() - {OURS}, key=seconds.__getitem__, default="")
        cells = [_cell(seconds.get(contender), seconds.get(OURS), contender) for contender in contenders]
        lines.append("| " + " | ".join([str(row["tokens"]), *cells, best, f"{row['pace']:.0%}"]) + " |")
    lines += [f"{contender} absent: {reason}" for contender, reason in rows[-1]["absent"].items()]
    return "\n".join(lines)


def _cell(seconds: float | None, ours: float | None, contender: str) -> str:
    if seconds is None:
        return ""
    text = f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"
    return text if ours is None or contender == OURS else f"{text} ({seconds / ours:.2f})"


if __name__ == "__main__":
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(table(benchmark["extra_info"] for benchmark in report["benchmarks"] if "times" in benchmark["extra_info"]))
