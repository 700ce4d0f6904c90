"""The stages of ``make gpu-check``: what becomes of each, and that each ends in time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import stages

STAGE = """
import subprocess, sys, time
from benchmarks.gpu_check.stage import run

def body(findings):
    findings.figure(case="first", passed=1)
    {action}

run(body)
"""


def run_stage(monkeypatch: pytest.MonkeyPatch, folder: Path, action: str, seconds: float = 60) -> dict[str, Any]:
    """What becomes of a stage whose module does this."""
    package = folder / "made_up"
    package.mkdir()
    (package / "made.py").write_text(STAGE.format(action=action))
    monkeypatch.setattr(stages, "__package__", "made_up")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return stages.run_stage(stages.Stage("made", 60), folder, None, seconds)


@pytest.mark.parametrize(
    ("action", "outcome", "failure"),
    [
        ("findings.note('well')", "passed", None),
        ("findings.fail('wrong')", "failed", "wrong"),
        ("raise ValueError('broken')", "failed", "ValueError: broken"),
        ("import os; os.abort()", "failed", "status -6"),
    ],
)
def test_a_stage_s_outcome(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, action: str, outcome: str, failure: str | None
) -> None:
    result = run_stage(monkeypatch, tmp_path, action)
    assert result["outcome"] == outcome
    assert result["figures"] == [{"case": "first", "passed": 1}]
    assert result["failures"] == ([] if failure is None else [failure])
    assert (outcome == "passed") == ("output_tail" not in result)


def test_a_stage_past_its_limit_ends_with_its_children_and_keeps_what_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = tmp_path / "child"
    action = f"p = subprocess.Popen(['sleep', '1000']); open({str(child)!r}, 'w').write(str(p.pid)); time.sleep(1000)"
    result = run_stage(monkeypatch, tmp_path, action, seconds=15)
    assert result["outcome"] == "timed out"
    assert result["figures"] == [{"case": "first", "passed": 1}]
    assert result["failures"][0].startswith("timed out after 15")
    end = time.monotonic() + 10  # a killed process takes a moment to be gone
    while runs(int(child.read_text())) and time.monotonic() < end:
        time.sleep(0.02)
    assert not runs(int(child.read_text()))


def runs(process: int) -> bool:
    """Whether a process is there and not waiting to be buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_stage_has_a_limit_under_eight_minutes() -> None:
    names = ["build", "conformance", "ops", "model", "sanitizer", "bench"]
    assert [stage.name for stage in stages.STAGES] == names, "conformance before all that relies on the wrappers"
    assert all(stage.seconds < 8 * 60 for stage in stages.STAGES)
