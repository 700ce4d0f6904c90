"""Stage bench: the limits of this GPU, then ours and the peers at the sizes of the 7B model, each proved right first.

Figures are of captured graphs on cold inputs (:mod:`.timing`). Cases with targets come first; those for which the
stage's time does not suffice are named.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import torch

from . import attention, experts, rows, step
from .case import Case, Geometry, run_case
from .machine import clocks
from .roofs import measure_roofs
from .stage import Findings, run
from .timing import CudaClock

RESERVE = 45.0  # seconds: no case is begun with less left


def all_cases(geometry: Geometry) -> Iterator[Case]:
    """Of every group."""
    yield from experts.cases(geometry)
    yield from attention.cases(geometry)
    yield from rows.cases(geometry)


def bench(findings: Findings) -> None:
    """Measure until all is done or the time is up."""
    deadline = time.monotonic() + findings.seconds - RESERVE
    warnings.filterwarnings("error", message=".*has no CUDA kernel", category=RuntimeWarning)
    torch.manual_seed(0)
    clock, device = CudaClock(), torch.cuda.get_device_properties(0)
    roofs = measure_roofs(findings, clock)
    findings.note(f"clocks after measuring the limits: {clocks()}")
    left_out = []
    step.measure_steps(findings, clock, roofs)
    torch.cuda.empty_cache()
    for case in all_cases(Geometry()):
        if time.monotonic() > deadline:
            left_out.append(f"{case.group} {case.name}")
            continue
        try:
            run_case(case, findings, clock, roofs, device.L2_cache_size, device.total_memory)
        except Exception as error:
            findings.fail(f"{case.group}, {case.name}: {type(error).__name__}: {error}".splitlines()[0][:300])
        torch._dynamo.reset()  # each case compiles for sizes of its own, and there is a limit to those of one function
        torch.cuda.empty_cache()
    if left_out:
        findings.note(f"no time was left for {', '.join(left_out)}")
    findings.note(f"clocks at the end: {clocks()}")


if __name__ == "__main__":
    run(bench)
