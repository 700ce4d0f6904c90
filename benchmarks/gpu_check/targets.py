"""What an H100 and an H200 should reach, in the names of the stage bench, and how a run stands to it.

Times are medians of captured graphs on cold inputs, rates of the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OURS = "ours"  # as in case.py, which this must not import: the report is written without torch
MICROSECONDS, TERAFLOPS, PYTHON = "median_us", "tflop_per_s", "python_us"
UNITS = {MICROSECONDS: "µs", TERAFLOPS: "TFLOP/s", PYTHON: "µs of Python"}
MET, MISSED, NOT_MEASURED = "met", "missed", "not measured"
Figure = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """A bound on a figure of ours: at most so many microseconds, or at least so many TFLOP/s."""

    group: str
    case: str
    bounds: Mapping[str, float]  # by a word of the GPU's name
    measure: str = MICROSECONDS

    def is_met(self, value: float, bound: float) -> bool:
        """Whether a value is on the right side."""
        return value >= bound if self.measure == TERAFLOPS else value <= bound


def _of(h100: float, h200: float) -> dict[str, float]:
    return {"H100": h100, "H200": h200}


TARGETS = (
    Target("router and order", "T=64", _of(8, 8)),
    Target("gate and up product, SwiGLU", "T=64", _of(193, 135)),
    Target("down product", "T=64", _of(98, 68)),
    Target("expert layer", "T=32", _of(297, 208)),
    Target("expert layer", "T=64", _of(297, 208)),
    Target("expert layer", "T=2048", _of(480, 440)),
    Target("expert layer", "T=8192", _of(500, 500), TERAFLOPS),
    Target("attention", "64 x 1024", _of(12, 10)),
    Target("attention", "64 x 4096", _of(25, 20)),
    Target("attention", "2048 x 2048", _of(450, 450), TERAFLOPS),
    Target("attention", "4096 x 4096", _of(450, 450), TERAFLOPS),
    Target("decode step", "block of 64, 16 layers", _of(5600, 4000)),
    Target("decode step", "block of 64, 16 layers", _of(50, 50), PYTHON),
)


def judged(figures: Sequence[Figure], gpu: str) -> Iterator[tuple[str, str, str, str, str]]:
    """(group, case, target, found, verdict) of each target for this GPU; none for another GPU.

    The last row of each group with peers counts the figures of peers that ours is faster than.
    """
    ours = {(figure["group"], figure["case"]): figure for figure in figures if figure["run"] == OURS}
    for target in TARGETS:
        bound = next((value for word, value in target.bounds.items() if word in gpu), None)
        if bound is None:
            continue
        unit, sign = UNITS[target.measure], "≥" if target.measure == TERAFLOPS else "≤"
        value = ours.get((target.group, target.case), {}).get(target.measure)
        verdict = NOT_MEASURED if value is None else MET if target.is_met(value, bound) else MISSED
        found = "" if value is None else f"{value:.1f}"
        yield target.group, target.case, f"{sign} {bound:g} {unit}", found, verdict
    yield from _beside_peers(figures, ours)


def _beside_peers(
    figures: Sequence[Figure], ours: Mapping[tuple[str, str], Figure]
) -> Iterator[tuple[str, str, str, str, str]]:
    """For each group, how many of the peers' figures are slower than ours, and which are not."""
    for group in dict.fromkeys(figure["group"] for figure in figures):
        peers = [figure for figure in figures if figure["group"] == group and not figure["run"].startswith(OURS)]
        pairs = [(peer, ours[group, peer["case"]]) for peer in peers if (group, peer["case"]) in ours]
        if not pairs:
            continue
        faster = [peer for peer, mine in pairs if peer["median_us"] <= mine["median_us"]]
        found = f"{len(pairs) - len(faster)} of {len(pairs)}"
        if faster:
            found += ": not " + ", ".join(f"{peer['run']} at {peer['case']}" for peer in faster)
        yield group, "every case", "faster than each peer", found, MISSED if faster else MET
