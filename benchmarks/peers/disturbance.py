"""How much of the machine others took while something was timed: a row with much of it is to be taken again."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
IDLE_FIELDS = (3, 4)  # idle, and waiting for the disk
COUNTED = 8  # the fields after these repeat guests' time


class Disturbance:
    """Counts from its construction; without Linux's counters it reports nothing."""

    def __init__(self) -> None:
        self._start = self._read()

    def _read(self) -> tuple[float, float, float] | None:
        if not STAT.exists():
            return None
        ticks = [int(value) for value in STAT.read_text(encoding="utf-8").split("\n", 1)[0].split()[1 : 1 + COUNTED]]
        busy = sum(value for index, value in enumerate(ticks) if index not in IDLE_FIELDS)
        own = os.times()
        return time.perf_counter(), busy / os.sysconf("SC_CLK_TCK"), own.user + own.system

    def fraction(self) -> float | None:
        """The part of all processors' time that other processes, or other machines on the host, have had."""
        end = self._read()
        if self._start is None or end is None:
            return None
        wall, busy, own = (after - before for before, after in zip(self._start, end, strict=True))
        return max(busy - own, 0.0) / (wall * (os.cpu_count() or 1))
