"""One group of the benchmarks, run by :mod:`.bench`; status 3: a fault that the process does not outlive."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from . import attention, experts, head, rows
from .case import Case, Geometry, run_case
from .roofs import Roofs, measure_roofs
from .stage import Findings
from .timing import Clock, CudaClock

CASES: dict[str, Callable[[Geometry], Iterator[Case]]] = {
    "experts": experts.cases,
    "attention": attention.cases,
    "routing": rows.cases,
    "head": head.cases,
}
LIMITS, STEP = "limits", "decode step"
GROUPS = (LIMITS, STEP, *CASES)
LEAST_SECONDS = 20.0  # no case is begun with less left
FAULT = 3


def run_cases(
    cases: Iterator[Case],
    begin: int,
    begun: Path,
    findings: Findings,
    measure: Callable[[Case], None],
    settle: Callable[[], None],
) -> None:
    """Measure from case number ``begin`` on, each number written to ``begun`` first; after a fault ``settle`` ends the
    process."""
    deadline = time.monotonic() + findings.seconds - LEAST_SECONDS
    left_out = []
    for number, case in enumerate(cases):
        if number < begin:
            continue
        if time.monotonic() > deadline:
            left_out.append(f"{case.group} {case.name}")
            continue
        begun.write_text(str(number), encoding="utf-8")
        try:
            measure(case)
        except Exception as error:
            findings.fail(f"{case.group}, {case.name}: {type(error).__name__}: {error}".splitlines()[0][:300])
        settle()
    if left_out:
        findings.note(f"no time was left for {', '.join(left_out)}")


def settle() -> None:
    """Frees what a case held; ends the process when its kernels have left the device in error."""
    try:
        torch.cuda.synchronize()
        torch._dynamo.reset()  # each case compiles for sizes of its own, and there is a limit to those of one function
        torch.cuda.empty_cache()
    except Exception as error:
        print(error, flush=True)
        os._exit(FAULT)


def run_group(group: str, begin: int, folder: Path, findings: Findings, clock: Clock) -> None:
    """Run a group; the limits that the first one measures are left for the others."""
    limits = folder / "limits.json"
    if group == LIMITS:
        limits.write_text(json.dumps(asdict(measure_roofs(findings, clock))), encoding="utf-8")
        return
    roofs = Roofs(**json.loads(limits.read_text(encoding="utf-8"))) if limits.exists() else None
    if group == STEP:
        from . import step  # needs what reads checkpoints, which the ops do without

        step.measure_steps(findings, clock, roofs)
        return
    device = torch.cuda.get_device_properties(0)

    def measure(case: Case) -> None:
        run_case(case, findings, clock, roofs, device.L2_cache_size, device.total_memory)

    run_cases(CASES[group](Geometry()), begin, folder / "begun", findings, measure, settle)


def main() -> int:
    """Status 1 when something was wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--group", choices=GROUPS, required=True)
    parser.add_argument("--begin", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--findings", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    findings = Findings(options.findings, options.seconds)
    warnings.filterwarnings("error", message=".*has no CUDA kernel", category=RuntimeWarning)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    try:
        run_group(options.group, options.begin, options.folder, findings, CudaClock())
    except Exception as error:
        traceback.print_exc()
        findings.fail(f"{options.group}: {type(error).__name__}: {error}".splitlines()[0][:300])
    return 1 if findings.values["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
