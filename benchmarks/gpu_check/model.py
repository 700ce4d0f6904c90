"""Stage model: golden logits, the published sampler's cases, generation and captured passes on the GPU, and the CLI."""

from __future__ import annotations

import os
import subprocess
import sys

from .pytest_runs import run_files
from .stage import ROOT, Findings, run

FILES = ("tests/model/test_on_gpu.py", "tests/sampling/test_on_gpu.py")
CLI_SECONDS = 60


def model(findings: Findings) -> None:
    """Run the tests that want a GPU, then ask the embedded model through the command line."""
    run_files(
        findings,
        [ROOT / name for name in FILES],
        options=["-k", "gpu"],
        environment={"LLADA_MOE_OPS_TEST_DEVICE": "cuda"},
        seconds=findings.seconds - 2 * CLI_SECONDS,
    )
    replies = {device: ask(findings, device) for device in ("cpu", "cuda")}
    if replies["cpu"] != replies["cuda"]:
        findings.fail(f"llada-moe generate: the CPU says {replies['cpu']!r}, the GPU {replies['cuda']!r}")


def ask(findings: Findings, device: str) -> str:
    """The embedded model's reply to a prompt on a device, in float32, where both should choose the same tokens."""
    command = [sys.executable, "-m", "llada_moe_ops.cli", "generate", "reverse: stone", "--device", device]
    command += ["--dtype", "float32"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=CLI_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        findings.fail(f"{' '.join(command[2:])}: not done after {CLI_SECONDS} s")
        return ""
    if done.returncode != 0:
        findings.fail(f"{' '.join(command[2:])}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    findings.figure(file=f"llada-moe generate --device {device}", passed=int(done.returncode == 0))
    return done.stdout.strip()


if __name__ == "__main__":
    run(model)
