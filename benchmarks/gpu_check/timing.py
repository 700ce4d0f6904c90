"""Timing on a GPU: calls captured in a CUDA graph, each on inputs of its own, so that no weight comes from L2.

A graph holds one call on each of several sets of inputs, together several times as large as L2; it is replayed again
and again between two CUDA events. So a call finds its inputs in memory, and launching the graph is shared by its calls.
A run that reads a tensor on the host cannot be captured; it is timed eagerly, which its ``how`` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

Call = Callable[[], Any]
L2_TIMES = 3  # of the inputs of one graph, together
MOST_SETS = 400
MIN_REPLAYS, MAX_REPLAYS = 10, 200


class Clock(Protocol):
    """How a device is timed."""

    def capture(self, calls: Sequence[Call]) -> Call:
        """One call that makes all of these."""
        ...

    def seconds(self, call: Call) -> float:
        """The device's time of a call."""
        ...


class CudaClock:
    """CUDA events around a replay of a captured graph."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.stream = torch.cuda.Stream()

    def capture(self, calls: Sequence[Call]) -> Call:
        """Run everything twice beside the capture (compilers, workspaces), then record it."""
        torch = self.torch
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for call in calls[:2]:
                call()
                call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            kept = [call() for call in calls]

        def replay() -> Any:
            graph.replay()
            return kept

        return replay

    def seconds(self, call: Call) -> float:
        """Of one call, the device being idle before."""
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        call()
        events[1].record()
        events[1].synchronize()
        return float(events[0].elapsed_time(events[1])) * 1e-3


@dataclass(frozen=True)
class Times:
    """Seconds of one call: the least and the median over replays, and how it was timed ("graph" or "eager")."""

    least: float
    median: float
    how: str


def number_of_sets(bytes_of_a_set: int, l2_bytes: int, memory_bytes: int) -> int:
    """Sets of inputs that together exceed L2 several times; at least two, and what half of the memory holds."""
    wanted = max(2, -(-L2_TIMES * l2_bytes // max(bytes_of_a_set, 1)))
    return max(1, min(wanted, MOST_SETS, memory_bytes // 2 // max(bytes_of_a_set, 1)))


def measure(calls: Sequence[Call], clock: Clock, *, capture: bool = True, budget: float = 0.4) -> Times:
    """Time a run that is one call on each set of inputs, for about ``budget`` seconds.

    Args:
        capture: False for calls that read a tensor on the host, and so cannot be part of a graph.
    """

    def eagerly() -> None:
        for call in calls:
            call()

    run = clock.capture(calls) if capture else eagerly
    run()
    taken: list[float] = []
    end = time.perf_counter() + budget
    while len(taken) < MIN_REPLAYS or (time.perf_counter() < end and len(taken) < MAX_REPLAYS):
        taken.append(clock.seconds(run) / len(calls))
    return Times(min(taken), median(taken), "graph" if capture else "eager")
