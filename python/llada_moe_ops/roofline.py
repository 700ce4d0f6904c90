"""What this machine can do at best, and what fraction of it a measured time is.

A piece of work that must move so many bytes and make so many operations cannot take less than its **limit time**, the
larger of bytes / rate of reading and operations / peak. Rates and peaks are measured, on the kernels' own threads and
instruction set, in short rounds that take turns: on a shared machine the rate of memory moves by a factor of two within
minutes, so a limit is worth only what was measured beside the work it judges. Needs no torch.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .machine import available_cores, extension

LEVELS = ("l1", "l2", "l3", "dram")
DTYPES = ("fp32", "bf16", "int8")
MIN_STREAM_BYTES = 512 << 20
STREAM_PER_L3 = 8  # a buffer so many times larger than L3 leaves nothing of one pass for the next
MIN_ROUNDS = 3


@dataclass(frozen=True)
class Rate:
    """The fastest and the median of some rounds, per second."""

    best: float
    median: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Rate:
        """The rate of rounds measured one by one."""
        return cls(max(rounds), median(rounds))


@dataclass(frozen=True)
class Limits:
    """What a number of threads can do, with one instruction set.

    ``read`` holds bytes a second by level (``l1``, ``l2``, ``l3``, ``dram``), ``peak`` operations a second by dtype
    (``fp32``, ``bf16``, ``int8``; a multiply-add is two operations). Either may hold only what was asked for.
    """

    threads: int
    isa: str
    read: Mapping[str, Rate]
    peak: Mapping[str, Rate]

    def seconds(
        self,
        bytes_moved: float,
        operations: float = 0.0,
        dtype: str = "fp32",
        *,
        level: str = "dram",
        best: bool = False,
    ) -> float:
        """The limit time in seconds, by the median rates or by the best.

        Raises:
            ValueError: the rate or the peak that it takes was not measured.
        """
        return max(
            bytes_moved / _of(self.read, level, best) if bytes_moved else 0.0,
            operations / _of(self.peak, dtype, best) if operations else 0.0,
        )

    def fraction(
        self,
        seconds: float,
        bytes_moved: float,
        operations: float = 0.0,
        dtype: str = "fp32",
        *,
        level: str = "dram",
        best: bool = False,
    ) -> float:
        """Limit time / measured time: 1 is as fast as this machine can be, to the noise of both measurements.

        Args:
            seconds: the measured time; a median goes with the median rates, a minimum with ``best=True``.
            bytes_moved: that must be read or written at least once, from or to ``level``.
            operations: that must be made, at ``dtype``'s peak.

        Raises:
            ValueError: the rate or the peak that it takes was not measured, or ``seconds`` is not above 0.
        """
        if not seconds > 0:
            raise ValueError(f"roofline: seconds must be above 0, got {seconds}")
        return self.seconds(bytes_moved, operations, dtype, level=level, best=best) / seconds

    def bound(self, bytes_moved: float, operations: float = 0.0, dtype: str = "fp32", *, level: str = "dram") -> str:
        """What sets the limit time: the level or the dtype."""
        reading = self.seconds(bytes_moved, level=level)
        return level if reading >= self.seconds(0.0, operations, dtype) else dtype

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; ``from_dict`` takes them back."""

        def plain(rates: Mapping[str, Rate]) -> dict[str, Any]:
            return {name: {"best": rate.best, "median": rate.median} for name, rate in rates.items()}

        return {"threads": self.threads, "isa": self.isa, "read": plain(self.read), "peak": plain(self.peak)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Limits:
        """Undo ``as_dict``."""
        read, peak = ({name: Rate(**rate) for name, rate in values[part].items()} for part in ("read", "peak"))
        return cls(values["threads"], values["isa"], read, peak)


class Probe:
    """Limits measured round by round, so that a benchmark can put rounds among its turns.

    Args:
        threads: at most what the kernels may use now (``_C.num_threads()``; torch's number once its ops are loaded).
        levels: what to read from, of ``LEVELS``.
        dtypes: what to multiply, of ``DTYPES``.
        stream_bytes: memory that all threads together stream through for ``dram``; by default 512 MiB or 8 times the
            L3 caches, whichever is more.

    Raises:
        ValueError: an argument is out of its range.
        RuntimeError: the extension is not built, or the memory cannot be had.
    """

    def __init__(
        self,
        threads: int,
        levels: Sequence[str] = LEVELS,
        dtypes: Sequence[str] = DTYPES,
        stream_bytes: int | None = None,
    ) -> None:
        native = extension()
        self._threads, self._isa = threads, str(native.isa())
        sizes = {level: _bytes_per_thread(level, threads, stream_bytes) for level in levels}
        self._probes = {("read", level): native.ReadProbe(threads, size) for level, size in sizes.items()}
        self._probes |= {("peak", dtype): native.ProductProbe(threads, dtype) for dtype in dtypes}
        self._rounds: dict[tuple[str, str], list[float]] = {name: [] for name in self._probes}

    def round(self, seconds: float = 0.01, names: Collection[str] | None = None) -> None:
        """Measure once everything, or the levels and dtypes named, each for so long (``dram`` at least one pass)."""
        for (kind, name), probe in self._probes.items():
            if names is None or name in names:
                self._rounds[kind, name].append(probe.round(seconds))

    def reset(self) -> None:
        """Forget the rounds so far, keep the memory."""
        for rounds in self._rounds.values():
            rounds.clear()

    def limits(self) -> Limits:
        """Best and median of the rounds since the start or the last ``reset``, of what was measured in them."""
        rates: dict[str, dict[str, Rate]] = {"read": {}, "peak": {}}
        for (kind, name), rounds in self._rounds.items():
            if rounds:
                rates[kind][name] = Rate.of(rounds)
        return Limits(self._threads, self._isa, **rates)


def measure(threads: int, *, seconds: float = 3.0, stream_bytes: int | None = None) -> Limits:
    """Measure all limits of so many threads, in rounds of 10 ms for about so many seconds (3 rounds at least).

    Raises:
        ValueError: threads outside 1 … the cores of this process, or more than torch's threads where its ops are
            loaded; seconds not above 0.
        RuntimeError: the extension is not built, or the memory cannot be had.
    """
    cores = available_cores()
    if not 1 <= threads <= cores:
        raise ValueError(f"roofline: threads must be 1 … {cores}, the cores this process may use, got {threads}")
    if not seconds > 0:
        raise ValueError(f"roofline: seconds must be above 0, got {seconds}")
    native = extension()
    before = native.num_threads()
    native.set_num_threads(max(threads, before))
    try:
        if native.num_threads() < threads:
            raise ValueError(f"roofline: torch uses {before} threads: call torch.set_num_threads({threads}) first")
        probe = Probe(threads, stream_bytes=stream_bytes)
        for _ in _turns(seconds):
            probe.round()
        return probe.limits()
    finally:
        native.set_num_threads(before)


def level_of(bytes_moved: float, threads: int) -> str:
    """Where data are found that were used a moment ago: the nearest level of which they fill at most half."""
    sizes = extension().cache_sizes()
    room = {"l1": sizes["l1"] * threads, "l2": sizes["l2"] * threads, "l3": _l3_bytes(threads)}
    return next((level for level, size in room.items() if 2 * bytes_moved <= size), "dram")


def _turns(seconds: float) -> Iterator[None]:
    end, turn = time.perf_counter() + seconds, 0
    while turn < MIN_ROUNDS or time.perf_counter() < end:
        yield
        turn += 1


def _bytes_per_thread(level: str, threads: int, stream_bytes: int | None) -> int:
    """A buffer that fits the level and overflows the one before."""
    sizes, l3 = extension().cache_sizes(), _l3_bytes(threads)
    if level in ("l1", "l2"):
        return int(sizes[level]) // 2
    if level == "l3":
        return max(l3 // 2 // threads, 2 * int(sizes["l2"]))
    if level == "dram":
        total = max(MIN_STREAM_BYTES, STREAM_PER_L3 * l3) if stream_bytes is None else stream_bytes
        return total // threads
    raise ValueError(f"roofline: level must be one of {', '.join(LEVELS)}, got {level!r}")


def _l3_bytes(threads: int) -> int:
    """Of all L3 caches that so many threads have, when threads fill one before the next."""
    sizes = extension().cache_sizes()
    return int(sizes["l3"]) * -(-threads // int(sizes["cores"]))


def _of(rates: Mapping[str, Rate], name: str, best: bool) -> float:
    if name not in rates:
        raise ValueError(f"roofline: {name!r} was not measured, only {', '.join(rates) or 'nothing'}")
    return rates[name].best if best else rates[name].median
