"""The roofline plot of a benchmark's JSON: one panel per dtype and number of threads, each case a point at (operations
a byte, operations a second) for ours and every peer, under the roofs measured beside them.

    make bench    # or: python -m pytest benchmarks -s --benchmark-json=results.json
    python benchmarks/roofline_plot.py results.json roofline.png

Memory's roof is a band, from the slowest to the fastest median rate among the cases: it drifts. Cases without
operations (copies) have no place in the plot.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from llada_moe_ops.roofline import DTYPES, LEVELS, Limits
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")

MARKERS = "osD^vPX<>ph*"
ROOFS = {"l1": ":", "l2": "-.", "l3": "--", "dram": "-"}


def read_cases(path: Path) -> list[dict[str, Any]]:
    """What compare.py recorded, case by case, where there are operations.

    Raises:
        ValueError: there is none in the file.
    """
    benchmarks = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    cases = [one["extra_info"] for one in benchmarks if one["extra_info"].get("operations")]
    if not cases:
        raise ValueError(f"{path}: no case with operations and limits")
    return cases


def draw(cases: Sequence[dict[str, Any]], title: str) -> Figure:
    """A panel for each dtype that occurs; a row of panels for each number of threads."""
    dtypes = [dtype for dtype in DTYPES if any(case["dtype"] == dtype for case in cases)]
    threads = sorted({case["limits"]["threads"] for case in cases})
    names = list(dict.fromkeys(name for case in cases for name in case["runs"]))
    figure = Figure(figsize=(7 * len(dtypes), 5.5 * len(threads)), layout="constrained")
    panels = figure.subplots(len(threads), len(dtypes), squeeze=False, sharey=True)
    points: dict[str, Any] = {}
    for panel, (count, dtype) in zip(panels.flat, product(threads, dtypes), strict=True):
        mine = [case for case in cases if case["dtype"] == dtype and case["limits"]["threads"] == count]
        panel.set(xscale="log", yscale="log", title=f"{dtype}, {count} thread" + "s" * (count > 1))
        panel.set(xlabel="operations a byte that must be moved", ylabel="GOP/s" if dtype == "int8" else "GFLOP/s")
        if mine:
            draw_roofs(panel, mine, dtype)
            points |= draw_points(panel, mine, names)
    figure.legend(points.values(), points.keys(), loc="outside right upper", fontsize="small")
    figure.suptitle(title)
    return figure


def draw_roofs(panel: Axes, cases: Sequence[dict[str, Any]], dtype: str) -> None:
    """The peak and the slopes of the levels that were measured: medians over the cases' medians."""
    limits = [Limits.from_dict(case["limits"]) for case in cases]
    peak = float(np.median([one.peak[dtype].median for one in limits])) / 1e9
    rates = {
        level: [one.read[level].median / 1e9 for one in limits if level in one.read]
        for level in LEVELS
        if any(level in one.read for one in limits)
    }
    intensity = [case["operations"] / case["bytes"] for case in cases]
    ridge = peak / min(map(min, rates.values()))
    x = np.geomspace(min(intensity) / 2, 2 * max(*intensity, ridge), 200)
    for level, measured in rates.items():
        rate = float(np.median(measured))
        slope = np.minimum(x * rate, peak)
        label = f"{level.upper()} {rate:.0f} GB/s"
        panel.plot(x, slope, ROOFS[level], color="0.35", linewidth=1.2, zorder=1, label=label)
    low, high = (np.minimum(x * rate, peak) for rate in (min(rates["dram"]), max(rates["dram"])))
    panel.fill_between(x, low, high, color="0.85", zorder=0)
    panel.annotate(f"peak {peak:.0f}", (x[-1], peak), ha="right", va="bottom", fontsize=8, color="0.35")
    panel.legend(loc="lower right", fontsize="small")


def draw_points(panel: Axes, cases: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Medians, ours on top; the handles for the legend."""
    handles: dict[str, Any] = {}
    for number, name in enumerate(names):
        mine = [case for case in cases if name in case["runs"]]
        x = [case["operations"] / case["bytes"] for case in mine]
        y = [case["operations"] / case["runs"][name]["median"] / 1e9 for case in mine]
        style = {"color": "black", "s": 36, "zorder": 4} if name == "ours" else {"s": 20, "alpha": 0.6, "zorder": 3}
        handles[name] = panel.scatter(x, y, marker=MARKERS[number % len(MARKERS)], **style)
    return handles


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON of pytest-benchmark")
    parser.add_argument("picture", type=Path, help="PNG to write")
    options = parser.parse_args()
    try:
        cases = read_cases(options.results)
    except (OSError, ValueError, KeyError) as error:
        parser.exit(1, f"roofline_plot: {error}\n")
    facts = json.loads(options.results.read_text(encoding="utf-8"))["machine_info"].get("llada_moe_ops", {})
    title = " · ".join(str(facts[key]) for key in ("processor", "isa", "date") if key in facts)
    draw(cases, title).savefig(options.picture, dpi=120, format="png")


if __name__ == "__main__":
    main()
