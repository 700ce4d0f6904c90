"""One line per case: the op's median and minimum time, what fraction of this machine's limit it reaches, and how many
times faster it is than each peer.

Correctness comes first: a result that is far from the first peer's is no speed. Op and peers take turns, and between
turns the limit is measured, too: memory's rate drifts by a factor of two within minutes, and only figures of the same
moment compare. So a ratio is the median of the turns' ratios, not that of medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import cache
from statistics import median
from typing import Any

import torch
from llada_moe_ops.roofline import Limits, Probe, level_of
from torch import Tensor

Run = Callable[[], Any]

PEAKS = {torch.bfloat16: "bf16", torch.float32: "fp32", "int4": "int8"}
MIN_TURNS = 3
TURNS_SECONDS = 0.15  # of turns between two measurements of the limit
LIMIT_ROUNDS = 3  # of each such measurement: one alone may be disturbed


def compare(
    benchmark: Any,
    name: str,
    ours: Run,
    peers: Mapping[str, Run],
    *,
    dtype: torch.dtype | str,
    bytes_moved: float,
    flops: float = 0.0,
    cold: bool = False,
    tolerance: float = 0.02,
    seconds: float = 0.6,
) -> None:
    """Check, time in turns for a little more than some seconds, print, and record in pytest-benchmark's JSON.

    Args:
        benchmark: pytest-benchmark's fixture.
        name: the case, from ``title``.
        ours: the op.
        peers: others that compute the same; the first is what ours is checked against.
        dtype: what is multiplied: a torch dtype, ``"int8"`` or ``"int4"`` (which is multiplied as int8).
        bytes_moved: that must be read or written at least once: inputs, weights in their format, outputs.
        flops: operations that must be made; a multiply-add is two.
        cold: the case sees to it that no weights are in a cache from the call before. Otherwise they count as being in
            the nearest cache of which they fill at most half.
        tolerance: how far from the first peer ours may be, relative to the result's root mean square.
        seconds: of turns: more where there are many peers and ratios near 1 are to be told apart.
    """
    first = next(iter(peers.values()))
    assert_close(ours(), first(), tolerance)
    threads = torch.get_num_threads()
    name = f"{name} threads={threads}"
    peak = PEAKS.get(dtype, "fp32" if isinstance(dtype, torch.dtype) else dtype)
    format = dtype if isinstance(dtype, str) else peak
    level = "dram" if cold else level_of(bytes_moved, threads)
    times, limits = take_turns({"ours": ours, **peers}, probe(threads), (level, "dram", peak), seconds)

    def figures(values: list[float]) -> dict[str, float]:
        work = (bytes_moved, flops, peak)
        return {
            "min": min(values),
            "median": median(values),
            "ratio": median(value / of_ours for value, of_ours in zip(values, times["ours"], strict=True)),
            "fraction": limits.fraction(median(values), *work, level=level),
            "fraction_of_best": limits.fraction(min(values), *work, level=level, best=True),
        }

    runs = {run: figures(values) for run, values in times.items()}
    bound = limits.bound(bytes_moved, flops, peak, level=level)
    print("\n" + line(name, runs, bound, bytes_moved, flops))
    case = {"name": name, "threads": threads, "format": format, "dtype": peak, "level": level}
    benchmark.extra_info.update(
        case, bytes=bytes_moved, operations=flops, bound=bound, runs=runs, limits=limits.as_dict()
    )
    benchmark.pedantic(ours, rounds=1 if runs["ours"]["median"] > seconds / 5 else 5, iterations=1)


def line(name: str, runs: Mapping[str, Mapping[str, float]], bound: str, bytes_moved: float, flops: float) -> str:
    """The case in one line: median (and minimum) of each; rates and fraction are of the median."""
    seconds = runs["ours"]["median"]

    def time_of(run: str) -> str:
        return f"{runs[run]['median'] * 1e6:.1f} ({runs[run]['min'] * 1e6:.1f})"

    ratios = (f"{run['ratio']:6.2f} x {peer} {time_of(peer)}" for peer, run in runs.items() if peer != "ours")
    return (
        f"{name:<54}{time_of('ours'):>20} us"
        f"{flops / seconds / 1e9:9.1f} GFLOP/s{bytes_moved / seconds / 1e9:8.1f} GB/s"
        f"{runs['ours']['fraction']:8.1%} of {bound:<5}" + " ".join(ratios)
    )


probe = cache(Probe)  # one for all cases: it holds half a gigabyte


def take_turns(
    runs: Mapping[str, Run], limit: Probe, limits: Collection[str], budget: float = 0.6
) -> tuple[dict[str, list[float]], Limits]:
    """Seconds of each call, one at a time in turn, and the limits named, measured before, among and after them."""
    times: dict[str, list[float]] = {name: [] for name in runs}

    def measure_limit() -> None:
        for _ in range(LIMIT_ROUNDS):
            limit.round(names=limits)

    limit.reset()
    measure_limit()
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times["ours"]) < MIN_TURNS:
        for run in runs.values():
            run()  # not timed: the probe has emptied the caches
        pause, turns = time.perf_counter() + TURNS_SECONDS, 0
        while time.perf_counter() < pause or turns < MIN_TURNS:
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
            turns += 1
        measure_limit()
    return times, limit.limits()


def assert_close(ours: Any, peer: Any, tolerance: float) -> None:
    """Floating results agree in the root mean square; tuples are compared by their first element."""
    if isinstance(ours, tuple):
        return assert_close(ours[0], peer[0], tolerance)
    assert isinstance(ours, Tensor)
    if not ours.is_floating_point():
        assert (ours == peer).float().mean() > 0.9
        return None
    size = peer.float().square().mean().sqrt()
    error = (ours.float() - peer.float()).square().mean().sqrt()
    assert error <= tolerance * size, f"wrong result: error {float(error):.3g}, size {float(size):.3g}"
    return None


DTYPES = (torch.bfloat16, torch.float32)
TOKENS = (1, 32, 512)


def title(op: str, dtype: torch.dtype | str, **sizes: int) -> str:
    """The case as one word per fact."""
    return " ".join([op, str(dtype).removeprefix("torch."), *(f"{name}={size}" for name, size in sizes.items())])
