"""Runs test files under pytest, each in a process of its own: a fault in a kernel ends a process, not the stage."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .stage import ROOT, Findings

OPTIONAL = ("hypothesis", "pytest_benchmark", "safetensors")
SHOWN_FAILURES = 12
LEAST_SECONDS = 10.0  # for a file, whatever those before it took


def missing_modules(path: Path) -> list[str]:
    """Optional modules that a test file imports and that are not installed here."""
    text = path.read_text(encoding="utf-8")
    wanted = [name for name in OPTIONAL if re.search(rf"^\s*(?:from|import) {name}\b", text, re.M)]
    return [name for name in wanted if importlib.util.find_spec(name) is None]


def run_files(
    findings: Findings,
    paths: Sequence[Path],
    *,
    options: Sequence[str],
    environment: Mapping[str, str],
    seconds: float,
) -> None:
    """Run each file, at most ``seconds`` together; a row for each, and its failures."""
    if importlib.util.find_spec("pytest") is None:
        findings.fail("pytest is not installed")
        return
    deadline = time.monotonic() + seconds
    for number, path in enumerate(paths):
        name = path.relative_to(ROOT).as_posix()
        if absent := missing_modules(path):
            findings.note(f"{name} is left out: {', '.join(absent)} is not installed")
            continue
        # What the files before did not use is shared; one that hangs leaves the others their time.
        limit = 2 * (deadline - time.monotonic()) / (len(paths) - number + 1)
        _run_file(findings, path, name, options, environment, max(limit, LEAST_SECONDS))


def _run_file(
    findings: Findings,
    path: Path,
    name: str,
    options: Sequence[str],
    environment: Mapping[str, str],
    limit: float,
) -> None:
    with TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", str(path), "-v", "--tb=short", "-p", "no:cacheprovider", "-rN"]
        command += [f"--junitxml={results}", *options]
        log = Path(folder) / "log"
        started = time.monotonic()
        with log.open("w") as file:
            try:
                status = subprocess.run(
                    command, cwd=ROOT, env={**os.environ, **environment}, stdout=file, stderr=file, timeout=limit,
                    check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                status = None
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        seconds = round(time.monotonic() - started, 1)
        counts, failures = read_results(results) if results.exists() else ({}, [])
    findings.figure(file=name, **counts, seconds=seconds)
    for failure in failures[:SHOWN_FAILURES]:
        findings.fail(failure)
    if len(failures) > SHOWN_FAILURES:
        findings.fail(f"{name}: {len(failures) - SHOWN_FAILURES} more failed")
    if not counts:
        begun = next((line for line in reversed(lines) if "::" in line), "nothing")
        what = f"not done after {limit:.0f} s" if status is None else f"pytest ended with status {status}"
        print("\n".join(lines[-40:]), flush=True)
        findings.fail(f"{name}: {what}; last begun: {begun.strip()}")
    elif counts["passed"] + counts["failed"] == 0:
        findings.fail(f"{name}: no test ran, {counts['skipped']} were skipped")
    elif status != 0 and not failures:
        findings.fail(f"{name}: pytest ended with status {status}: {' '.join(lines[-3:])}")


def read_results(path: Path) -> tuple[dict[str, int], list[str]]:
    """(counts by outcome, a line for each test that failed) of a JUnit file."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failures = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        bad = [part for part in case if part.tag in ("failure", "error")]
        outcome = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        counts[outcome] += 1
        for part in bad[:1]:
            message: Any = (part.get("message") or "").splitlines() or [""]
            failures.append(f"{case.get('classname')}::{case.get('name')}: {message[0][:300]}")
    return counts, failures
