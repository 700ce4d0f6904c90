"""The roofline plot of a benchmark's JSON: one panel per format and number of threads, each case a point at (operations
a byte, operations a second) for ours and every peer, under the roofs measured beside them.

    make bench    # or: python -m pytest benchmarks -s --benchmark-json=results.json
    python benchmarks/roofline_plot.py results.json roofline.png

Memory's roof is a band, from the slowest to the fastest median rate among the cases: it drifts. Cases without
operations (copies) have no place in the plot, and those below a billion operations a second, where a call costs more
than its work, are only counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from llada_moe_ops.roofline import LEVELS, Limits
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from reports import read_report

matplotlib.use("Agg")

FORMATS = ("fp32", "bf16", "int8", "int4")
COLUMNS = 2
LOWEST = 1.0  # billions of operations a second
MARKERS = "osD^vPX<>ph*"
ROOFS = {"l1": ":", "l2": "-.", "l3": "--", "dram": "-"}


def draw(cases: Sequence[dict[str, Any]], title: str) -> Figure:
    """A panel for each format that occurs with each number of threads."""
    found = {(case["limits"]["threads"], case["format"]) for case in cases}
    shown = [one for one in product(sorted({threads for threads, _ in found}), FORMATS) if one in found]
    names = list(dict.fromkeys(name for case in cases for name in case["runs"]))
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(7.5 * COLUMNS + 2, 5.5 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False)
    points: dict[str, Any] = {}
    for panel, one in zip_longest(panels.flat, shown):
        if one is None:
            panel.remove()
            continue
        threads, format = one
        mine = [case for case in cases if case["format"] == format and case["limits"]["threads"] == threads]
        low = sum(case["operations"] / case["runs"]["ours"]["median"] / 1e9 < LOWEST for case in mine)
        below = f"; {low} of our {len(mine)} cases are below" if low else ""
        panel.set(xscale="log", yscale="log", title=f"{format}, {threads} thread{'s' * (threads > 1)}{below}")
        panel.set(
            xlabel="operations a byte that must be moved", ylabel=f"billion {mine[0]['dtype']} operations a second"
        )
        draw_roofs(panel, mine)
        points |= draw_points(panel, mine, names)
    figure.legend(points.values(), points.keys(), loc="outside right upper", fontsize="small")
    figure.suptitle(title)
    return figure


def draw_roofs(panel: Axes, cases: Sequence[dict[str, Any]]) -> None:
    """The peak and the slopes of the levels that were measured: medians over the cases' medians."""
    dtype = cases[0]["dtype"]
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
    panel.set_ylim(LOWEST, 2 * peak)
    panel.annotate(f"peak {peak:.0f}", (x[-1], peak), ha="right", va="bottom", fontsize=8, color="0.35")
    panel.legend(loc="lower right", fontsize="small")


def draw_points(panel: Axes, cases: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Medians, ours on top; the handles for the legend."""
    handles: dict[str, Any] = {}
    for number, name in enumerate(names):
        mine = [case for case in cases if name in case["runs"]]
        if not mine:
            continue
        x = [case["operations"] / case["bytes"] for case in mine]
        y = [case["operations"] / case["runs"][name]["median"] / 1e9 for case in mine]
        style = {"color": "black", "s": 36, "zorder": 4} if name == "ours" else {"s": 24, "alpha": 0.8, "zorder": 3}
        style.setdefault("color", colormaps["tab20"]((2 * number + number // 10) % 20))  # the strong colours first
        handles[name] = panel.scatter(x, y, marker=MARKERS[number % len(MARKERS)], **style)
    return handles


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON of pytest-benchmark")
    parser.add_argument("picture", type=Path, help="PNG to write")
    options = parser.parse_args()
    try:
        title, recorded = read_report(options.results)
        cases = [case for case in recorded if case.get("operations")]
        if not cases:
            raise ValueError(f"{options.results}: no case with operations and limits")
    except (OSError, ValueError, KeyError) as error:
        parser.exit(1, f"roofline_plot: {error}\n")
    draw(cases, title).savefig(options.picture, dpi=120, format="png")


if __name__ == "__main__":
    main()
