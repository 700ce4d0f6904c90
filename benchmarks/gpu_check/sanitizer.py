"""Stage sanitizer: NVIDIA's compute-sanitizer over a small run of every op (:mod:`.reduced`), tool by tool."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from .machine import find_tool
from .stage import ROOT, Findings, run

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
FOUND = 99  # the exit status for errors of the kernels, told apart from those of the program
SHOWN_LINES = 30
# Every allocation is its own, so that an access past its end is one; a fault is reported where it happens.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "CUDA_LAUNCH_BLOCKING": "1"}


def sanitizer(findings: Findings) -> None:
    """Run each tool for an even share of the time."""
    program = find_tool("compute-sanitizer")
    if program is None:
        findings.fail("compute-sanitizer is not found on PATH, in $CUDA_HOME or in /usr/local/cuda")
        return
    deadline = time.monotonic() + findings.seconds - 10
    for number, tool in enumerate(TOOLS):
        limit = (deadline - time.monotonic()) / (len(TOOLS) - number)
        command = [program, "--tool", tool, "--error-exitcode", str(FOUND), "--print-limit", "20"]
        command += [sys.executable, "-m", f"{__package__}.reduced"]
        started = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=limit, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            findings.fail(f"{tool}: not done after {limit:.0f} s")
            continue
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", done.stdout)
        calls = re.findall(r"^(\d+) calls$", done.stdout, re.M)
        seconds = round(time.monotonic() - started, 1)
        findings.figure(tool=tool, calls=int(calls[0]) if calls else 0, summary="; ".join(summary), seconds=seconds)
        if done.returncode == 0 and calls and summary:
            continue
        print("\n".join(done.stdout.splitlines()[:SHOWN_LINES]), flush=True)
        what = "errors in the kernels" if done.returncode == FOUND else f"status {done.returncode}"
        first = next(
            (line for line in done.stdout.splitlines() if line.startswith("========= ") and "COMPUTE" not in line), ""
        )
        findings.fail(f"{tool}: {what}: {first.removeprefix('========= ')[:200]}")


if __name__ == "__main__":
    run(sanitizer)
