"""The probes give numbers of the right shape whatever the threads and the instruction set; the arithmetic of limits.

No test compares rates with one another: that would be a test of the machine and of what else it does.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from llada_moe_ops.machine import extension
from llada_moe_ops.ops._library import native
from llada_moe_ops.roofline import DTYPES, LEVELS, Limits, Probe, Rate, level_of, measure

from tests.ops.budget import threads

pytestmark = pytest.mark.skipif(not native(), reason="the extension is not built")
STREAM = 4 << 20
CORES = len(os.sched_getaffinity(0))
LIMITS = Limits(
    threads=2,
    isa="avx512",
    read={"l3": Rate(best=200e9, median=160e9), "dram": Rate(best=50e9, median=40e9)},
    peak={"bf16": Rate(best=500e9, median=400e9)},
)


@pytest.mark.parametrize("count", sorted({1, CORES}))
def test_every_limit_is_measured(isa: str, count: int) -> None:
    with threads(count):
        probe = Probe(count, stream_bytes=STREAM)
        for _ in range(3):
            probe.round(0.001)
        limits = probe.limits()
    assert (limits.threads, limits.isa) == (count, isa)
    assert (tuple(limits.read), tuple(limits.peak)) == (LEVELS, DTYPES)
    for rate in (*limits.read.values(), *limits.peak.values()):
        assert math.isfinite(rate.best)
        assert rate.best >= rate.median > 1e6


def test_a_round_of_some_limits_and_a_fresh_start() -> None:
    probe = Probe(1, levels=("l2", "dram"), dtypes=("int8",), stream_bytes=STREAM)
    assert probe.limits() == Limits(1, extension().isa(), {}, {})
    probe.round(0.001, names=("dram", "int8"))
    assert (tuple(probe.limits().read), tuple(probe.limits().peak)) == (("dram",), ("int8",))
    probe.reset()
    assert not probe.limits().read


def test_measure_leaves_the_threads_as_they_were() -> None:
    before = extension().num_threads()
    assert measure(1, seconds=0.01, stream_bytes=STREAM).threads == 1
    assert extension().num_threads() == before


def test_a_process_without_torch_on_all_cores_with_the_instruction_set_of_the_environment() -> None:
    code = (
        "import sys\n"
        "from llada_moe_ops.roofline import measure\n"
        f"limits = measure({CORES}, seconds=0.01, stream_bytes={STREAM})\n"
        "print(limits.isa, limits.threads, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "LLADA_MOE_OPS_ISA": "portable"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout == f"portable {CORES} False\n", done.stderr


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: extension().ReadProbe(0, 4096), r"threads must be 1 \.\. \d+, .*, got 0"),
        (lambda: extension().ReadProbe(4096, 4096), r"threads must be 1 \.\. \d+, .*, got 4096"),
        (lambda: extension().ReadProbe(1, 0), r"bytes_per_thread must be 1 \.\. 2\^40, got 0"),
        (lambda: extension().ReadProbe(1, 2**41), r"bytes_per_thread must be 1 \.\. 2\^40"),
        (lambda: extension().ProductProbe(0, "fp32"), "threads must be"),
        (lambda: extension().ProductProbe(1, "fp16"), "dtype must be fp32, bf16 or int8, got 'fp16'"),
        (lambda: extension().ProductProbe(1, "fp32").round(0.0), "seconds must be above 0 and at most 60"),
        (lambda: extension().ReadProbe(1, 4096).round(math.nan), "seconds must be above 0 and at most 60"),
        (lambda: extension().ReadProbe(1, 4096).round(61.0), "seconds must be above 0 and at most 60"),
        (lambda: Probe(1, levels=("l4",)), "level must be one of l1, l2, l3, dram, got 'l4'"),
        (lambda: measure(0), r"threads must be 1 … \d+, the cores"),
        (lambda: measure(CORES + 1), f"got {CORES + 1}"),
        (lambda: measure(1, seconds=0.0), "seconds must be above 0"),
        (lambda: LIMITS.fraction(0.0, 1.0), "seconds must be above 0"),
        (lambda: LIMITS.fraction(1.0, 1.0, level="l1"), "'l1' was not measured, only l3, dram"),
        (lambda: LIMITS.fraction(1.0, 1.0, 1.0, "int8"), "'int8' was not measured, only bf16"),
    ],
)
def test_what_is_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()


def test_a_process_without_the_memory() -> None:
    """In a process that may have 4 GiB of addresses: where the system overcommits, it would grant anything."""
    code = (
        "import resource\n"
        "from llada_moe_ops import _C\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "try: _C.ReadProbe(1, 8 << 30)\n"
        "except RuntimeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "roofline: no memory for a buffer of 8194 MiB\n", done.stderr


@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_more_threads_than_torch_has() -> None:
    with threads(1), pytest.raises(ValueError, match=r"torch uses 1 threads: call torch\.set_num_threads\(2\)"):
        measure(2, seconds=0.01, stream_bytes=STREAM)
    assert torch.get_num_threads() >= 1


def test_the_limit_is_the_slower_of_reading_and_multiplying() -> None:
    assert LIMITS.seconds(80e9) == pytest.approx(2.0)
    assert LIMITS.seconds(80e9, level="l3") == pytest.approx(0.5)
    assert LIMITS.seconds(80e9, 400e9, "bf16", level="l3") == pytest.approx(1.0)
    assert LIMITS.seconds(80e9, 400e9, "bf16") == pytest.approx(2.0)
    assert LIMITS.seconds(0.0, 400e9, "bf16", best=True) == pytest.approx(0.8)
    assert LIMITS.fraction(4.0, 80e9, 400e9, "bf16") == pytest.approx(0.5)
    assert LIMITS.fraction(4.0, 80e9, 400e9, "bf16", best=True) == pytest.approx(0.4)
    assert LIMITS.bound(80e9, 400e9, "bf16") == "dram"
    assert LIMITS.bound(80e9, 400e9, "bf16", level="l3") == "bf16"


def test_limits_pass_through_json_values() -> None:
    assert Limits.from_dict(LIMITS.as_dict()) == LIMITS


def test_data_are_where_they_fill_at_most_half() -> None:
    sizes = extension().cache_sizes()
    assert all(size > 0 for size in sizes.values())
    assert level_of(0, 1) == "l1"
    assert level_of(sizes["l1"], 1) != "l1"
    assert level_of(sizes["l1"], 2) == "l1"
    assert level_of(1e15, 1) == "dram"
