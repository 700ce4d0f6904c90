"""The tables of a benchmark's JSON, one for each op: by tokens, what part of the machine's limit ours reaches and how
many times faster it is than everything that took turns with it, for each format, shape and number of threads.

    make bench    # or: python -m pytest benchmarks -s --every-size --threads 1 2 --benchmark-json=results.json
    python benchmarks/results_table.py results.json results.md

Parts of the limit are of medians, ratios are medians of the turns' ratios. A case's limit is the larger of bytes / rate
and operations / peak, measured between the turns.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reports import read_report

ROWS = ("T", "R", "S")  # tokens, rows of logits, queries: what a table's columns are


class Line(NamedTuple):
    """A line of a table: the cases that differ in the number of rows alone."""

    case: str
    threads: int


def tables(cases: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, op by op in the order of the cases."""
    ops: dict[str, dict[Line, dict[int, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for case in cases:
        op, *words = case["name"].split()
        sizes = dict(word.split("=") for word in words if "=" in word)
        key = next(key for key in (*ROWS, *sizes) if key in sizes)
        rest = [word for word in words if not word.startswith((f"{key}=", "threads="))]
        ops[op][Line(" ".join(rest), case["limits"]["threads"])][int(sizes[key])] = case
    return "\n\n".join(f"## {op}\n\n{_table(lines)}" for op, lines in ops.items())


def _table(lines: Mapping[Line, Mapping[int, Mapping[str, Any]]]) -> str:
    columns = sorted({column for row in lines.values() for column in row})
    header = ["case", "threads", "T, R or S", *map(str, columns)]
    rows = [header, ["---"] * len(header)]
    for line, row in lines.items():
        limits = [_limit(row[column]) if column in row else "" for column in columns]
        rows.append([line.case, str(line.threads), "of the limit", *limits])
        others = dict.fromkeys(name for case in row.values() for name in case["runs"] if name != "ours")
        for other in others:
            ratios = [_ratio(row[column], other) if column in row else "" for column in columns]
            rows.append(["", "", f"x {other}", *ratios])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def _limit(case: Mapping[str, Any]) -> str:
    return f"{case['runs']['ours']['fraction']:.0%} {case['bound']}"


def _ratio(case: Mapping[str, Any], other: str) -> str:
    runs = case["runs"]
    return f"{runs[other]['ratio']:.2f}" if other in runs else ""


def main() -> None:
    """Parse the command line and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="JSON of pytest-benchmark, of one machine")
    parser.add_argument("tables", type=Path, help="Markdown to write")
    options = parser.parse_args()
    try:
        reports = {path: read_report(path) for path in options.results}
        for path, (_, recorded) in reports.items():
            if not any("runs" in case for case in recorded):
                raise ValueError(f"{path}: no case of benchmarks/compare.py")
            if any("ratio" not in run for case in recorded for run in case.get("runs", {}).values()):
                raise ValueError(f"{path}: its cases have no ratios: run the benchmarks again")
    except (OSError, ValueError, KeyError) as error:
        parser.exit(1, f"results_table: {error}\n")
    machine = reports[options.results[0]][0]
    cases = [case for _, recorded in reports.values() for case in recorded if "runs" in case]
    about = 'Part of the limit, and what sets it; "x": how many times faster ours is. Medians.'
    options.tables.write_text(f"# {machine}\n\n{about}\n\n{tables(cases)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
