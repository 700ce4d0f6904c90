"""Stage bench: the limits of this GPU, then ours and the peers at the sizes of the 7B model, each proved right first.

Figures are of captured graphs on cold inputs (:mod:`.timing`). Each group runs in a process of its own, which a fault
in a kernel ends; a new one goes on after the case at fault. Cases with targets come first; those for which the stage's
time does not suffice are named.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from .bench_group import GROUPS
from .machine import clocks
from .stage import ROOT, Findings, run

RESERVE = 15.0  # seconds for the end of the stage


def bench(findings: Findings) -> None:
    """Measure until all is done or the time is up."""
    deadline = time.monotonic() + findings.seconds - RESERVE
    with TemporaryDirectory() as folder:
        for group in GROUPS:
            begin: int | None = 0
            while begin is not None:
                begin = run_group(findings, group, begin, deadline, Path(folder))
            findings.note(f"clocks after {group}: {clocks()}")


def run_group(findings: Findings, group: str, begin: int, deadline: float, folder: Path) -> int | None:
    """Run a group from its case number ``begin`` on; the case with which to go on after a fault, or None."""
    path, begun, seconds = folder / "findings.json", folder / "begun", deadline - time.monotonic()
    if seconds <= 0:
        findings.note(f"no time was left for {group} from case {begin + 1} on")
        return None
    for stale in (path, begun):
        stale.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"{__package__}.bench_group", "--findings", str(path), "--seconds", str(seconds)]
    command += ["--group", group, "--begin", str(begin), "--folder", str(folder)]
    try:
        status: int | None = subprocess.run(command, cwd=ROOT, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        status = None
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    findings.extend(found)
    if status is None:
        findings.note(f"{group}: not done when the stage's time was up")
    if status in (None, 0) or (status == 1 and found.get("failures")):
        return None
    at = int(begun.read_text()) if begun.exists() else None
    findings.fail(f"{group}: the process ended with status {status}" + ("" if at is None else f" at case {at + 1}"))
    return None if at is None else at + 1


if __name__ == "__main__":
    run(bench)
