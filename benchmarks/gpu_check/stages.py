"""The stages, and running one: a process group of its own, its output shown and kept, killed at its limit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .machine import clocks
from .stage import ROOT

TAIL_LINES = 60


@dataclass(frozen=True)
class Stage:
    """One part of the check: the module ``benchmarks.gpu_check.<name>``."""

    name: str
    seconds: int
    needs_gpu: bool = True


STAGES = (
    Stage("build", 470, needs_gpu=False),
    Stage("conformance", 240, needs_gpu=False),  # of the emulator alone where there is no GPU
    Stage("ops", 470),
    Stage("model", 300),
    Stage("sanitizer", 470),
    Stage("bench", 470),
)


def environment(library: Path | None) -> dict[str, str]:
    """What a stage runs in: this checkout before anything installed, and the library that was asked for, with the
    micro-kernels in its folder ``emulate`` where it has one."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(ROOT / "python"), str(ROOT), *([before] if before else [])]
    values = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if library is not None:
        values["LLADA_MOE_OPS_LIBRARY_DIR"] = str(library)
        if (library / "emulate").is_dir():
            values["LLADA_MOE_OPS_EMULATE_DIR"] = str(library / "emulate")
    return values


def run_stage(stage: Stage, folder: Path, library: Path | None, seconds: float | None = None) -> dict[str, Any]:
    """Run a stage and return its outcome ("passed", "failed" or "timed out") with all that it found."""
    limit = seconds or stage.seconds
    findings = folder / f"{stage.name}.findings.json"
    findings.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        f"{__package__}.{stage.name}",
        "--findings",
        str(findings),
        "--seconds",
        str(limit),
    ]
    clocks_before, started = clocks(), time.monotonic()
    status, lines = _run(command, folder / f"{stage.name}.log", environment(library), limit)
    found = json.loads(findings.read_text(encoding="utf-8")) if findings.exists() else {}
    findings.unlink(missing_ok=True)
    outcome = "timed out" if status is None else "passed" if status == 0 else "failed"
    result: dict[str, Any] = {
        "outcome": outcome,
        "seconds": round(time.monotonic() - started, 1),
        "limit_seconds": limit,
        "clocks": {"before": clocks_before, "after": clocks()},
        "figures": [],
        "failures": [],
        "notes": [],
        **found,
    }
    if outcome != "passed":
        result["output_tail"] = lines[-TAIL_LINES:]
        if not result["failures"]:
            result["failures"] = [f"{outcome} after {result['seconds']} s" if status is None else f"status {status}"]
    return result


def _run(command: Sequence[str], log: Path, values: dict[str, str], limit: float) -> tuple[int | None, list[str]]:
    """(exit status, None past the limit; the lines printed)."""
    lines: list[str] = []
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=values,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                file.write(line)
                print(line, end="", flush=True)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        status: int | None
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end_group(process)
        reader.join(5)
    return status, lines


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill what is left of a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
