"""How much slower our ops become while another process keeps one core busy, beside PyTorch's loop over experts.

A process that does nothing but count is stopped and let go in turns, once bound to one of our cores and once free to be
moved; between the turns the op has its cores alone. Printed is the busy time over the time alone, of the medians and of
the means: a thread that loses its core for a time slice makes few calls slow, but those very slow.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.busy_core
    python -m benchmarks.busy_core --only "moe_mlp int8"

Without OMP_WAIT_POLICY=PASSIVE OpenMP's threads, torch's and so ours, spin at the end of a call while they wait for the
one without a core; calls of about a millisecond then take three times as long and more.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from statistics import fmean, median
from typing import Any

import torch
from llada_moe_ops import ops

from .bench_moe_mlp import LARGE, LOOP, two_layers
from .compare import TOKENS, title

FORMATS = ("bf16", "int8", "int4")
ROUNDS = 3
SECONDS = 0.1  # of calls in a row
SETTLE = 0.03
# It ends with its parent, however that ends.
COUNT = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"


class OtherProcess:
    """Counts while ``busy``; stopped at all other times."""

    def __init__(self, core: int | None) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", COUNT])
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})
        self._process.send_signal(signal.SIGSTOP)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Let it run, and give the scheduler time to place it."""
        self._process.send_signal(signal.SIGCONT)
        time.sleep(SETTLE)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


def moe_mlp(format: str, tokens: int, contender: str) -> Callable[[], Any]:
    """A call on the next of two layers' weights, ours or the PyTorch loop."""
    experts, k, hidden, intermediate = LARGE
    x, weights = torch.randn(tokens, hidden).bfloat16(), torch.rand(tokens, k)
    chosen = torch.rand(tokens, experts).topk(k).indices
    turns = cycle(two_layers(experts, hidden, intermediate, format)[contender])
    op = ops.moe_mlp_reference if contender == LOOP else ops.moe_mlp
    return lambda: op(x, weights, chosen, *next(turns))


def linear(format: str, tokens: int) -> Callable[[], Any]:
    """The output projection."""
    x, packed = torch.randn(tokens, 2048).bfloat16(), ops.pack_linear(torch.randn(2048, 2048), format)
    return lambda: ops.linear(x, packed)


def attention(queries: int, keys: int) -> Callable[[], Any]:
    """16 heads of 128."""
    q, k, v = (torch.randn(1, length, 16, 128).bfloat16() for length in (queries, keys, keys))
    return lambda: ops.attention(q, k, v)


def cases() -> Iterator[tuple[str, Callable[[], Callable[[], Any]]]]:
    """What is timed: its name, and what sets it up."""
    for format in FORMATS:
        for tokens in TOKENS:
            yield title("moe_mlp", format, T=tokens), partial(moe_mlp, format, tokens, "ours")
            if format == "bf16":
                yield title("PyTorch loop", format, T=tokens), partial(moe_mlp, format, tokens, LOOP)
    for format in FORMATS:
        yield title("linear", format, T=32), partial(linear, format, 32)
    for queries, keys in ((32, 1024), (512, 512)):
        yield title("attention", "bf16", S=queries, L=keys), partial(attention, queries, keys)


def seconds_of(run: Callable[[], Any]) -> list[float]:
    """Of each call, for a while."""
    run()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    others = {"bound": OtherProcess(max(os.sched_getaffinity(0))), "free": OtherProcess(None)}
    print(f"{options.threads} threads; busy / alone, median (mean)")
    try:
        for name, set_up in cases():
            if options.only not in name:
                continue
            run = set_up()
            times: dict[str, list[float]] = {state: [] for state in ("alone", *others)}
            for _ in range(ROUNDS):
                times["alone"] += seconds_of(run)
                for state, other in others.items():
                    with other.busy():
                        times[state] += seconds_of(run)
            alone = times["alone"]
            ratios = "   ".join(
                f"{state} {median(times[state]) / median(alone):5.2f} ({fmean(times[state]) / fmean(alone):5.2f})"
                for state in others
            )
            print(f"{name:<28} alone {median(alone) * 1e3:8.3f} ms   {ratios}", flush=True)
    finally:
        for other in others.values():
            other.end()


if __name__ == "__main__":
    main()
