"""Stage ops: the op tests with their CUDA kernels on the GPU, against the references; then sizes that break kernels.

The tests are those that run in the emulator in every CI run; LLADA_MOE_OPS_TEST_DEVICE=cuda sends them to the GPU.
"""

from __future__ import annotations

import subprocess
import sys
import time

from .pytest_runs import run_files
from .stage import ROOT, Findings, run

TORTURE_SHARE = 0.35  # of the stage's time


def ops(findings: Findings) -> None:
    """Run the tests, then the torture shapes, each in a process of its own."""
    files = sorted((ROOT / "tests" / "ops").glob("test_*.py"))
    with_cuda = [path for path in files if "emulated" in path.read_text() or "needs_gpu" in path.read_text()]
    run_files(
        findings,
        with_cuda,
        options=["-k", "cuda or gpu"],
        environment={"LLADA_MOE_OPS_TEST_DEVICE": "cuda"},
        seconds=findings.seconds * (1 - TORTURE_SHARE) - 10,
    )
    torture(findings, findings.seconds * TORTURE_SHARE - 10)


def torture(findings: Findings, seconds: float) -> None:
    """Each shape of :mod:`.torture` in its own process: one that does not fit, or faults, leaves the others be."""
    from .torture import SHAPES

    deadline = time.monotonic() + seconds
    for number, name in enumerate(SHAPES):
        limit = max(10.0, 2 * (deadline - time.monotonic()) / (len(SHAPES) - number + 1))
        command = [sys.executable, "-m", f"{__package__}.torture", name]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            findings.fail(f"torture {name}: not done after {limit:.0f} s")
            continue
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        if done.returncode == 0:
            findings.figure(file=f"torture: {name}", passed=1, detail=last)
        else:
            findings.fail(f"torture {name}: {(done.stderr.strip().splitlines() or [last])[-1]}")


if __name__ == "__main__":
    run(ops)
