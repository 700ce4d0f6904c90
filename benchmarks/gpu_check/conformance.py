"""Stage conformance: every PTX wrapper as a micro-kernel, on the GPU and in the emulator, on one input, bit for bit.

The inputs are small whole numbers, whose sums are exact in any order. Both are also compared with the PTX manual's
formulas (tests/emulate/micro_kernels.py), so that a difference says who is wrong. Without a GPU only the emulator is.

The micro-kernels run in a process of their own: one that faults or hangs costs its own case, not those after it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from queue import Empty, Queue
from threading import Thread
from typing import Any

from .stage import ROOT, Findings, run

CASE_SECONDS = 40  # the first holds the start of CUDA
SOURCES = ROOT / "tests" / "emulate"
KERNEL = re.compile(r"__global__ void (?:__launch_bounds__\([^\n]*?\) )?(\w+)\(.*?\{\n(.*?)\n\}", re.S)


def wrappers_of() -> dict[str, tuple[str, str]]:
    """Micro-kernel -> (its source, the wrappers it calls), read from the sources."""
    found = {}
    for path in sorted(SOURCES.glob("micro_kernels_sm*.cu")):
        text = path.read_text(encoding="utf-8")
        bodies = dict(KERNEL.findall(text))
        calls = {name: sorted(set(re.findall(r"ptx::(\w+)[<(]", body))) for name, body in bodies.items()}
        for name, call in re.findall(r"^MICRO_KERNEL\((\w+), (\w+)", text, re.M):
            found[name] = (path.name, ", ".join(calls[call]) or "intrinsics of the toolkit")
        for name, body in re.findall(r"^EXPORT (\w+)\(.*?\{\n(.*?)\n\}", text, re.M | re.S):
            kernel = re.search(r"run_(wgmma\w*)|(\w+_kernel)", body)
            assert kernel is not None, name
            found[name] = (path.name, ", ".join(calls[f"{kernel[1]}_kernel" if kernel[1] else kernel[2]]))
    return found


class Worker:
    """The process that runs cases, started again after each that does not answer."""

    def __init__(self, gpu: bool) -> None:
        self.gpu = gpu
        self.process: subprocess.Popen[str] | None = None
        self.lines: Queue[str | None] = Queue()

    def __call__(self, index: int) -> dict[str, Any]:
        """What became of a case: {"emulator": ..., "gpu": ...}, or {"error": ...}."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(f"{index}\n")
        process.stdin.flush()
        said = []
        for line in self._lines():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer:
                    self.stop()  # a context with a fault answers nothing more
                return answer
            said.append(line.strip())
        self.stop()
        return {"error": f"no answer within {CASE_SECONDS} s or a crash: {' '.join(said[-3:])}".strip()}

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None:
            command = [sys.executable, "-m", f"{__package__}.conformance_worker", *(["--gpu"] if self.gpu else [])]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
            )
            self.lines = Queue()
            Thread(target=_read, args=(self.process.stdout, self.lines), daemon=True).start()
        return self.process

    def _lines(self) -> Iterator[str]:
        """Until the process ends, or says nothing for too long."""
        try:
            while (line := self.lines.get(timeout=CASE_SECONDS)) is not None:
                yield line
        except Empty:
            return

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _read(stream: Iterable[str], lines: Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def conformance(findings: Findings) -> None:
    """Run every case that this GPU has the instructions for."""
    import torch

    from tests.emulate.micro_kernels import cases
    from tests.emulate.test_micro_kernels import LIBRARY

    from .conformance_worker import LIBRARY as CUDA_LIBRARY

    gpu = torch.cuda.is_available()
    for library in (LIBRARY, *([CUDA_LIBRARY] if gpu else [])):
        if not library.exists():
            findings.fail(f"{library} is missing: make gpu-check STAGE=build, or LIBRARY= with a folder emulate")
            return
    hopper = gpu and torch.cuda.get_device_capability() == (9, 0)
    if not gpu:
        findings.note("no CUDA device: the emulator alone is compared with the manual's formulas")
    elif not hopper:
        findings.note("not a Hopper GPU: the micro-kernels of sm_90a are left out")
    wrappers, worker, outcomes = wrappers_of(), Worker(gpu), Counter[str]()
    for index, case in enumerate(cases()):
        source, used = wrappers[case.kernel]
        if gpu and not hopper and source.endswith("sm90.cu"):
            continue
        answer = worker(index)
        wrong = [f"{who}: {text}" for who, text in answer.items() if text != "same"]
        outcomes["differ" if wrong else "same"] += 1
        if wrong:
            findings.fail(f"{case} ({used}): {'; '.join(wrong)}")
    worker.stop()
    compared = "GPU, emulator and manual" if gpu else "emulator and manual"
    findings.figure(compared=compared, micro_kernels=outcomes.total(), same=outcomes["same"], differ=outcomes["differ"])


if __name__ == "__main__":
    run(conformance)
