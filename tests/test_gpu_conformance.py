"""The conformance stage of ``make gpu-check`` with the emulator in the GPU's place: differences, faults and hangs are
told apart, and each names its micro-kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_check import conformance
from benchmarks.gpu_check.conformance import Worker, wrappers_of
from benchmarks.gpu_check.conformance_worker import answer, difference
from benchmarks.gpu_check.stage import Findings
from tests.emulate.micro_kernels import Case, cases
from tests.emulate.test_micro_kernels import LIBRARY, library

needs_micro_kernels = pytest.mark.skipif(not LIBRARY.exists(), reason="no emulated micro-kernels")
WORKER = """
import os, sys, time
for line in sys.stdin:
    index = int(line)
    print("some warning\\nand more", flush=True)
    if index == 1: os.abort()
    if index == 2: time.sleep(1000)
    if index == 3: print('{"error": "illegal address"}', flush=True)
    else: print('{"emulator": "same", "gpu": "same", "pid": %d}' % os.getpid(), flush=True)
"""


@pytest.fixture
def in_place_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def one(kernel: str) -> Case:
    return next(case for case in cases() if case.kernel == kernel)


class Altered:
    """The emulated library whose kernels give other outputs, or an error."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def __getattr__(self, name: str) -> Any:
        def call(source: ctypes.c_void_p, output: ctypes.c_void_p, *arguments: int) -> int:
            status = getattr(library(), name)(source, output, *arguments)
            return self.change(output) or status

        return call


def flip(output: ctypes.c_void_p) -> None:
    ctypes.cast(output, ctypes.POINTER(ctypes.c_uint8))[5] ^= 1


@needs_micro_kernels
@pytest.mark.parametrize("kernel", ["ldmatrix_trans_2", "mma_bf16", "release_acquire"])
def test_the_bits_of_both_are_compared(in_place_of_a_gpu: None, kernel: str) -> None:
    case = one(kernel)
    assert answer(case, Altered(lambda output: 0)) == {"emulator": "same", "gpu": "same"}  # type: ignore[arg-type]
    found = answer(case, Altered(flip))  # type: ignore[arg-type]
    assert found["emulator"] == "same"
    assert found["gpu"].startswith(f"1 of {case.expected.size} differ, first [")
    error = answer(case, Altered(lambda output: 719))  # type: ignore[arg-type]
    assert error == {"error": "RuntimeError: the launch gave error 719"}


def test_a_difference_says_where() -> None:
    expected = np.arange(6).reshape(2, 3)
    assert difference(expected, expected) == "same"
    assert difference(expected + (expected > 3), expected) == "2 of 6 differ, first [1, 1]: 5, not 4"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Worker]:
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "conformance_worker.py").write_text(WORKER)
    monkeypatch.setattr(conformance, "__package__", "made_up")
    monkeypatch.setattr(conformance, "CASE_SECONDS", 2)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Worker(gpu=True)
    yield made
    made.stop()


def test_a_case_that_crashes_or_hangs_leaves_those_after_it(worker: Worker) -> None:
    first = worker(0)["pid"]
    assert worker(5)["pid"] == first
    assert worker(1)["error"].startswith("no answer within 2 s or a crash: some warning and more")
    second = worker(0)["pid"]
    assert worker(2)["error"].startswith("no answer within 2 s")
    third = worker(0)["pid"]
    assert worker(3) == {"error": "illegal address"}
    fourth = worker(0)["pid"]  # a context with a fault is left behind
    assert len({first, second, third, fourth}) == 4


@needs_micro_kernels
def test_a_wrapper_that_differs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    index = [case.kernel for case in cases()].index("stmatrix_trans_4")
    monkeypatch.setattr(
        Worker, "__call__", lambda self, i: {"emulator": "same", "gpu": "9 differ" if i == index else "same"}
    )
    findings = Findings(tmp_path / "findings.json", 60.0)
    conformance.conformance(findings)
    assert findings.values["failures"] == ["stmatrix_trans_4 (stmatrix, stmatrix_trans): gpu: 9 differ"]
    (figure,) = findings.values["figures"]
    assert (figure["same"], figure["differ"]) == (len(cases()) - 1, 1)


def test_every_micro_kernel_names_its_wrappers() -> None:
    known = wrappers_of()
    assert {case.kernel for case in cases()} <= set(known)
    assert known["ldmatrix_trans_2"] == ("micro_kernels_sm80.cu", "ldmatrix, ldmatrix_trans")
    assert "tma_load_3d" in known["tile_copy"][1]
    assert "wgmma_wait_group" in known["wgmma_registers_f16"][1]
