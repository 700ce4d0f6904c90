"""The tables of runs, from pytest-benchmark's JSON or from rows saved before.

python -m benchmarks.peers.table bf16.json int8.json --save benchmarks/results/experts.json
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .peer import FORMATS

OURS = "ours"


def table(rows: Iterable[Mapping[str, Any]], statistic: str = "median") -> str:
    """One table per format and thread count: milliseconds, and how many times ours each takes.

    Beside medians, how many times is the median of the rounds' ratios where recorded: a round is of one moment.
    The last columns are the least time that the machine of that moment could have taken, what fraction of ours that is,
    and what sets it.
    """
    groups = itertools.groupby(rows, lambda row: (row["format"], row["threads"]))
    return "\n\n".join(_one(name, list(group), statistic) for name, group in groups)


def _one(name: tuple[str, int], rows: list[Mapping[str, Any]], statistic: str) -> str:
    contenders = list(dict.fromkeys(contender for row in rows for contender in row["times"]))
    lines = [
        f"{name[0]}, {name[1]} thread{'s' if name[1] > 1 else ''}: {statistic} ms (times ours)",
        "| T | " + " | ".join(contenders) + " | best peer | limit | limit ÷ ours | by |",
        "|---" * (len(contenders) + 5) + "|",
    ]
    for row in rows:
        seconds = {contender: times[statistic] for contender, times in row["times"].items()}
        ours, limit = seconds.get(OURS), row["limit"]
        ratios = {
            contender: (statistic == "median" and times.get("ratio")) or (ours and times[statistic] / ours)
            for contender, times in row["times"].items()
            if contender != OURS
        }
        best = min(ratios, key=lambda contender: ratios[contender] or seconds[contender], default="")
        cells = [_cell(seconds.get(contender), ratios.get(contender)) for contender in contenders]
        last = [best, f"{limit * 1e3:.3g}", "" if ours is None else f"{limit / ours:.1%}", row["bound"]]
        lines.append("| " + " | ".join([str(row["tokens"]), *cells, *last]) + " |")
    lines += [f"{contender} absent: {reason}" for contender, reason in rows[-1]["absent"].items()]
    return "\n".join(lines)


def _cell(seconds: float | None, ratio: float | None) -> str:
    if seconds is None:
        return ""
    text = f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"
    return f"{text} ({ratio:.2f})" if ratio else text


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one file."""
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = report["rows"] if "rows" in report else [benchmark["extra_info"] for benchmark in report["benchmarks"]]
    return [row for row in rows if "times" in row]


def main() -> None:
    """Parse the command line, print the tables and save the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--statistic", choices=("median", "min"), default="median")
    parser.add_argument("--save", type=Path, help="write the rows alone there, without the reports around them")
    options = parser.parse_args()
    rows = {(row["format"], row["threads"], row["tokens"]): row for path in options.files for row in read_rows(path)}
    ordered = [rows[case] for case in sorted(rows, key=lambda case: (FORMATS.index(case[0]), -case[1], case[2]))]
    print(table(ordered, options.statistic))
    if options.save:
        options.save.write_text(json.dumps({"rows": ordered}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
