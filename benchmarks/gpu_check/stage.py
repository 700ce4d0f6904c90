"""What a stage writes down while it runs: the JSON is whole after every entry, so that a stage that is cut off has told
what it found."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def write_aside(path: Path, text: str) -> None:
    """Write a file under another name and rename it, so that what stands at ``path`` is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


class Findings:
    """Figures, failures and notes of one stage, and the seconds it may still take."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.values: dict[str, list[Any]] = {"figures": [], "failures": [], "notes": []}

    def _add(self, kind: str, value: Any) -> None:
        self.values[kind].append(value)
        write_aside(self.path, json.dumps(self.values))

    def extend(self, values: dict[str, list[Any]]) -> None:
        """What another process found."""
        for kind, found in values.items():
            self.values[kind] += found
        write_aside(self.path, json.dumps(self.values))

    def figure(self, **values: Any) -> None:
        """One row of the stage's table."""
        self._add("figures", values)
        print("  ".join(f"{name} {value}" for name, value in values.items()), flush=True)

    def fail(self, text: str) -> None:
        """What went wrong; the stage goes on and has failed."""
        self._add("failures", text)
        print(f"FAILED {text}", flush=True)

    def note(self, text: str) -> None:
        """What a reader must know: something left out, something not to be relied on."""
        self._add("notes", text)
        print(f"note: {text}", flush=True)


def run(body: Callable[[Findings], None]) -> None:
    """The main program of a stage's module: ``--findings PATH --seconds LIMIT``; status 1 when anything failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--findings", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    findings = Findings(options.findings, options.seconds)
    try:
        body(findings)
    except Exception as error:
        traceback.print_exc()
        findings.fail(f"{type(error).__name__}: {error}")
    sys.exit(1 if findings.values["failures"] else 0)
