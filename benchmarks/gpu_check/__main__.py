"""Runs the stages, writes ``gpu_check.json`` and ``gpu_check.md`` after each of them.

    make gpu-check                              # all stages
    make gpu-check STAGE=bench                  # one; what other stages found before is kept
    python -m benchmarks.gpu_check ops model    # some

It takes the Python it is run by, with the torch and nvcc found there, and no network. Status: 0 all passed, 1 a stage
did not, 2 no CUDA device. ``build`` and ``conformance`` also run without a device when they are named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .report import read_report, write_report
from .stage import ROOT
from .stages import STAGES, Stage, environment, run_stage

FACTS_SECONDS = 120
NO_DEVICE = 2


def facts(library: Path | None) -> dict[str, Any]:
    """Of :mod:`.machine`, from a process of its own: a driver that hangs must not take this one with it."""
    command = [sys.executable, "-m", f"{__package__}.machine"]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(library),
            capture_output=True,
            text=True,
            timeout=FACTS_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return {"gpu": {"none": f"torch has not answered for {FACTS_SECONDS} s"}}
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no output"])[-1]
        return {"gpu": {"none": f"asking torch failed: {last}"}}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Parse the command line, run, say what came out."""
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [stage.name for stage in STAGES]
    parser.add_argument("stage", nargs="*", help=f"of {', '.join(names)}; without any, all")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu-check", help="folder of the results")
    parser.add_argument("--library", type=Path, help="folder with built binaries, to be taken instead of building")
    parser.add_argument("--seconds", type=float, help="limit of each stage instead of its own")
    options = parser.parse_args()
    options.output = options.output.resolve()
    if options.library is not None:
        options.library = options.library.resolve()
    if unknown := set(options.stage) - set(names):
        parser.error(f"no stage {', '.join(sorted(unknown))}: there are {', '.join(names)}")
    wanted = [stage for stage in STAGES if not options.stage or stage.name in options.stage]
    machine = facts(options.library)
    reason = machine["gpu"].get("none")
    if reason is not None and (not options.stage or any(stage.needs_gpu for stage in wanted)):
        print(f"no CUDA device: {reason}", file=sys.stderr)
        return NO_DEVICE
    options.output.mkdir(parents=True, exist_ok=True)
    report = read_report(options.output)
    if report.get("machine", {}).get("sources_sha256") != machine.get("sources_sha256"):
        report = {"stages": {}}  # what other sources gave is no result of these
    report["machine"] = machine
    return _run_all(wanted, report, options.output, options.library, options.seconds)


def _run_all(
    wanted: list[Stage], report: dict[str, Any], output: Path, library: Path | None, seconds: float | None
) -> int:
    ran = []
    for stage in wanted:
        print(f"== {stage.name} (at most {seconds or stage.seconds:.0f} s)", flush=True)
        result = {"started": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        result |= run_stage(stage, output, library, seconds)
        report["stages"][stage.name] = result
        ran.append(result)
        write_report(report, output)
        print(f"== {stage.name}: {result['outcome']} in {result['seconds']} s", flush=True)
    print(f"\n{(output / 'gpu_check.md').read_text(encoding='utf-8')}\nwritten to {output}")
    return 0 if all(result["outcome"] == "passed" for result in ran) else 1


if __name__ == "__main__":
    sys.exit(main())
