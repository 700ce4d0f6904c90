"""One line per case: the op's median time, its rates, and how many times faster it is than each peer.

Correctness comes first: a result that is far from the first peer's is no speed. Peers and op take turns, so that a
machine whose memory rate drifts does not favour one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], Any]


def compare(
    benchmark: Any, name: str, ours: Run, peers: Mapping[str, Run], *, flops: float = 0.0, bytes_moved: float = 0.0
) -> None:
    """Check, time in turns for about half a second, print, and record in pytest-benchmark's JSON."""
    first = next(iter(peers.values()))
    assert_close(ours(), first())
    times = take_turns({"ours": ours, **peers})
    seconds = times.pop("ours")
    rates = f"{flops / seconds / 1e9:8.1f} GFLOP/s" if flops else f"{bytes_moved / seconds / 1e9:8.1f} GB/s"
    ratios = "  ".join(f"{value / seconds:6.2f} x {peer}" for peer, value in times.items())
    print(f"\n{name:<44}{seconds * 1e6:12.1f} us{rates:>18}  {ratios}")
    benchmark.extra_info.update({peer: value for peer, value in times.items()})
    benchmark.pedantic(ours, rounds=5, iterations=1)


def take_turns(runs: Mapping[str, Run], budget: float = 0.5) -> dict[str, float]:
    """Median seconds of each, one call at a time in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + budget
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def assert_close(ours: Any, peer: Any) -> None:
    """Floating results agree to bf16's precision; tuples by their first element."""
    if isinstance(ours, tuple):
        return assert_close(ours[0], peer[0])
    assert isinstance(ours, Tensor)
    if not ours.is_floating_point():
        assert (ours == peer).float().mean() > 0.9
        return None
    size = peer.float().square().mean().sqrt()
    error = (ours.float() - peer.float()).square().mean().sqrt()
    assert error <= 0.02 * size, f"wrong result: error {float(error):.3g}, size {float(size):.3g}"
    return None


DTYPES = (torch.bfloat16, torch.float32)
TOKENS = (1, 32, 512)


def title(op: str, dtype: torch.dtype, **sizes: int) -> str:
    """The case as one word per fact."""
    return " ".join([op, str(dtype).removeprefix("torch."), *(f"{name}={size}" for name, size in sizes.items())])
