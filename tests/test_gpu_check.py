"""``make gpu-check`` as far as it goes without a GPU: its command line, its stages' limits, its reports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from llada_moe_ops.ops._library import OPS

from benchmarks import full_size
from benchmarks.gpu_check import (
    bench_group,
    build,
    case,
    machine,
    pytest_runs,
    reduced,
    sanitizer,
    stages,
    step,
    targets,
)
from benchmarks.gpu_check.pytest_runs import read_results
from benchmarks.gpu_check.report import JSON_FILE, MARKDOWN_FILE, markdown, read_report, write_report
from benchmarks.gpu_check.stage import Findings
from tests import on_gpu
from tests.emulate.micro_kernels import cases
from tests.emulate.test_micro_kernels import LIBRARY

ROOT = Path(__file__).resolve().parent.parent
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


@without_gpu
@pytest.mark.parametrize("names", [(), ("bench",), ("build", "ops")])
def test_without_a_device_one_line_says_so(names: tuple[str, ...], tmp_path: Path) -> None:
    done = gpu_check(*names, "--output", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("no CUDA device: torch ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_stage_that_does_not_exist_is_refused() -> None:
    done = gpu_check("fast")
    assert done.returncode == 2
    assert "no stage fast: there are build, conformance, ops, model, sanitizer, bench" in done.stderr


@without_gpu
@pytest.mark.skipif(not LIBRARY.exists(), reason="no emulated micro-kernels")
def test_the_emulator_s_conformance_runs_alone(tmp_path: Path) -> None:
    done = gpu_check("conformance", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / JSON_FILE).read_text())
    (figure,) = report["stages"]["conformance"]["figures"]
    assert figure["micro_kernels"] == figure["same"] == len(cases())
    assert "the emulator alone" in (tmp_path / MARKDOWN_FILE).read_text()
    assert {path.name for path in tmp_path.iterdir()} == {JSON_FILE, MARKDOWN_FILE, "conformance.log"}


def test_a_library_brings_its_micro_kernels(tmp_path: Path) -> None:
    bare = stages.environment(tmp_path)
    assert bare["LLADA_MOE_OPS_LIBRARY_DIR"] == str(tmp_path)
    assert bare.get("LLADA_MOE_OPS_EMULATE_DIR") == os.environ.get("LLADA_MOE_OPS_EMULATE_DIR")
    (tmp_path / "emulate").mkdir()
    assert stages.environment(tmp_path)["LLADA_MOE_OPS_EMULATE_DIR"] == str(tmp_path / "emulate")


def timing(case: str, run: str, median: float, **more: Any) -> dict[str, Any]:
    return {"group": "expert layer", "case": case, "run": run, "min_us": median - 1, "median_us": median, **more}


def made_up_report() -> dict[str, Any]:
    """As a run on a GPU would leave it."""
    stage = {"seconds": 3.5, "limit_seconds": 9, "started": "now", "failures": [], "notes": [], "figures": []}
    gpu = {"name": "NVIDIA H100", "compute_capability": "9.0", "multiprocessors": 132, "memory_bytes": 80 << 30}
    return {
        "machine": {
            "gpu": {**gpu, "l2_bytes": 50 << 20, "torch_cuda": "13.0"},
            "clocks": {"sm_mhz": "1980"},
            "packages": {"torch": "2.11.0", "hypothesis": None},
            "driver": "580.1",
        },
        "stages": {
            "ops": {
                **stage,
                "outcome": "failed",
                "failures": ["a | b differs"],
                "figures": [
                    {"file": "tests/ops/test_linear.py", "passed": 3},
                    {"file": "torture: linear", "detail": "x|y"},
                ],
            },
            "bench": {
                **stage,
                "outcome": "timed out",
                "notes": ["FlexAttention is left out"],
                "figures": [
                    timing(
                        "T=64", "ours", 300.0, tb_per_s=2.7, of_read=0.85, of_copy=0.9, of_product=0.03, tflop_per_s=21
                    ),
                    timing("T=64", "expert loop", 900.0, how="eager"),
                    timing("T=512", "triton", 350.0),
                ],
            },
        },
    }


def test_the_table_of_a_run(tmp_path: Path) -> None:
    text = markdown(made_up_report())
    for line in (
        "- device: NVIDIA H100, sm_90, 132 multiprocessors, 80 GiB, 50 MiB of L2",
        "- clocks: sm_mhz 1980",
        "| bench | timed out | 3.5 s | 3 | 0 | now |",
        "- **failed:** a | b differs",
        "| torture: linear |  | x\\|y |",
        "### expert layer",
        "| T=64 | ours | 300.0 (299.0) | 2.70 | 21 | 85 % | 90 % | 3 % |  |  |",
        "| T=64 | expert loop | 900.0 (899.0) |  |  |  |  |  | 3.00 | eager |",
        "| T=512 | triton | 350.0 (349.0) |  |  |  |  |  |  |  |",
        "- FlexAttention is left out",
    ):
        assert line in text.splitlines(), line
    assert "hypothesis absent" in text
    write_report(made_up_report(), tmp_path)
    assert read_report(tmp_path) == made_up_report()
    assert {path.name for path in tmp_path.iterdir()} == {JSON_FILE, MARKDOWN_FILE}


def judged_at(gpu: str, **medians: float) -> dict[tuple[str, str, str], tuple[str, str]]:
    """(group, case, target) -> (found, verdict) where these runs of the expert layer of 64 tokens are all there is."""
    found = [timing("T=64", run, median) for run, median in medians.items()]
    return {row[:3]: row[3:] for row in targets.judged(found, gpu)}


def test_a_run_is_judged_by_the_targets_of_its_gpu() -> None:
    for gpu, bound, verdict in (("NVIDIA H100 80GB", 297, "met"), ("NVIDIA H200", 208, "missed")):
        rows = judged_at(gpu, ours=250.0, peer=300.0, Triton=240.0)
        assert rows["expert layer", "T=64", f"≤ {bound} µs"] == ("250.0", verdict)
        assert rows["expert layer", "T=8192", "≥ 500 TFLOP/s"] == ("", "not measured")
        assert rows["expert layer", "every case", "faster than each peer"] == ("1 of 2: not Triton at T=64", "missed")
    assert list(judged_at("NVIDIA A100", ours=1.0, peer=2.0).values()) == [("1 of 1", "met")]
    report = made_up_report()
    assert "| expert layer | T=64 | ≤ 297 µs | 300.0 | missed |" in markdown(report).splitlines()
    assert "| decode step | block of 64, 16 layers | ≤ 50 µs of Python |  | not measured |" in markdown(report)


def test_every_target_is_a_case_of_the_bench() -> None:
    assert targets.OURS == case.OURS
    there = {(one.group, one.name) for make in bench_group.CASES.values() for one in make(case.Geometry(device="cpu"))}
    there |= {(step.GROUP, step.case_name(tokens, full_size.FULL_LAYERS, None)) for tokens in step.BLOCKS}
    assert {(target.group, target.case) for target in targets.TARGETS} <= there
    assert all(set(target.bounds) == {"H100", "H200"} for target in targets.TARGETS)
    assert targets.Target("", "", {}).is_met(7.9, 8.0)
    assert not targets.Target("", "", {}, targets.TERAFLOPS).is_met(499.0, 500.0)


def test_results_that_are_damaged_are_begun_anew(tmp_path: Path) -> None:
    assert read_report(tmp_path) == {"stages": {}}
    (tmp_path / JSON_FILE).write_text('{"stages": ')
    assert read_report(tmp_path) == {"stages": {}}


TESTS = """
import pytest
def test_a(): pass
def test_b(): assert 1 == 2, 'why'
@pytest.mark.skip
def test_c(): pass
"""


def test_the_failures_of_a_test_run(tmp_path: Path) -> None:
    test = tmp_path / "test_some.py"
    test.write_text(TESTS)
    results = tmp_path / "results.xml"
    command = [sys.executable, "-m", "pytest", str(test), "-q", "-p", "no:cacheprovider", f"--junitxml={results}"]
    subprocess.run(command, capture_output=True, check=False, cwd=tmp_path)
    counts, failures = read_results(results)
    assert counts == {"passed": 1, "failed": 1, "skipped": 1}
    assert len(failures) == 1
    assert "test_b: AssertionError: why" in failures[0]


def run_files(folder: Path, text: str, seconds: float = 60.0) -> Findings:
    """What running one test file finds."""
    path = folder / "test_some.py"
    path.write_text(text)
    findings = Findings(folder / "findings.json", seconds)
    pytest_runs.run_files(findings, [path], options=[], environment={"WORD": "heard"}, seconds=seconds)
    return findings


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("import os\ndef test_a(): assert os.environ['WORD'] == 'heard'", None),
        (TESTS, "test_b: AssertionError: why"),
        ("import pytest\n@pytest.mark.skip\ndef test_a(): pass", "no test ran, 1 were skipped"),
        ("import os\ndef test_a(): os.abort()", "pytest ended with status -6; last begun: "),
        ("import nowhere", "ModuleNotFoundError|collection failure"),
    ],
)
def test_a_test_file_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, failure: str | None
) -> None:
    monkeypatch.setattr(pytest_runs, "ROOT", tmp_path)
    failures = run_files(tmp_path, text).values["failures"]
    assert len(failures) == (failure is not None)
    assert failure is None or re.search(failure, failures[0])


def test_a_test_file_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pytest_runs, "ROOT", tmp_path)
    monkeypatch.setattr(pytest_runs, "LEAST_SECONDS", 10.0)
    found = run_files(tmp_path, "import time\ndef test_a(): time.sleep(1000)", seconds=10.0)
    assert found.values["failures"] == ["test_some.py: not done after 10 s; last begun: test_some.py::test_a"]


def test_a_test_file_without_what_it_imports_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pytest_runs, "ROOT", tmp_path)
    monkeypatch.setattr(pytest_runs, "OPTIONAL", ("hypotheses",))
    found = run_files(tmp_path, "from hypotheses import given")
    assert found.values == {
        "figures": [],
        "failures": [],
        "notes": ["test_some.py is left out: hypotheses is not installed"],
    }


SANITIZER = """#!/bin/sh
case "$2" in
memcheck) echo "5 calls"; echo "========= ERROR SUMMARY: 0 errors";;
racecheck) echo "5 calls"; echo "========= Error: Race"; echo "========= RACECHECK SUMMARY: 1 hazard"; exit 99;;
synccheck) echo "========= ERROR SUMMARY: 0 errors"; exit 1;;
*) sleep 100;;
esac
"""


def test_what_the_sanitizer_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER)
    program.chmod(0o755)
    monkeypatch.setattr(sanitizer, "find_tool", lambda name: str(program))
    findings = Findings(tmp_path / "findings.json", 14.0)
    sanitizer.sanitizer(findings)
    assert [figure["summary"] for figure in findings.values["figures"]] == ["0 errors", "1 hazard", "0 errors"]
    assert [figure["calls"] for figure in findings.values["figures"]] == [5, 5, 0]
    first, second, third = findings.values["failures"]
    assert first == "racecheck: errors in the kernels: Error: Race"
    assert second.startswith("synccheck: status 1")
    assert third.startswith("initcheck: not done after ")


def test_the_sanitizer_s_small_run_is_right_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduced, "to_gpu", lambda value: value)
    ran = set()
    for call in reduced.calls():
        reduced.check(call)
        ran.add(call[0])
    on_gpus = {op for op in OPS if not op.startswith("pack_") and not op.endswith(("_packed", "_layer"))}
    assert ran == on_gpus


def test_a_view_stays_a_view_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.clone)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    base = torch.arange(60.0).view(3, 20)
    for view in (base, base[1:, 3:9], base[:, ::2], base[1], base[:1].expand(5, 20), base.T, torch.zeros(0, 4)):
        moved = on_gpu.to_gpu(view)
        assert torch.equal(moved, view)
        assert (moved.stride(), moved.storage_offset()) == (view.stride(), view.storage_offset())
        assert moved.numel() == 0 or moved.data_ptr() != view.data_ptr()
    double = on_gpu.on_gpu(lambda x, *, times: (x * times, None))
    assert torch.equal(double(base, times=2)[0], base * 2)


def test_the_build_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setattr(build, "find_tool", lambda name: None)
    command = build.configure_command(ninja=False)
    assert command[:3] == [sys.executable, "-m", "cmake"]
    assert "Unix Makefiles" in command
    assert "-DLLADA_MOE_OPS_CUDA=off" in command
    monkeypatch.setattr(build, "find_tool", lambda name: "/opt/cuda/bin/nvcc")
    assert {"-DLLADA_MOE_OPS_CUDA=on", "-DLLADA_NVCC=/opt/cuda/bin/nvcc"} <= set(build.configure_command(ninja=True))


def test_spills_name_their_source(tmp_path: Path) -> None:
    for name, count in (("linear_sm80", 0), ("linear_sm90", 16)):
        (tmp_path / f"{name}.ptxas.txt").write_text(
            f"8 bytes stack frame, {count} bytes spill stores, 0 bytes spill loads"
        )
    assert build.spills(tmp_path) == ["linear_sm90"]


def test_sources_are_known_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cu").write_text("1")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    first = machine.sources()
    assert first["commit"].startswith("unknown")
    (tmp_path / "csrc" / "a.cu").write_text("2")
    assert machine.sources()["sources_sha256"] != first["sources_sha256"]


def test_tools_are_found_in_cuda_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer" / "made-up-tool"
    tool.parent.mkdir()
    tool.touch(mode=0o755)
    assert machine.find_tool("made-up-tool") is None
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert machine.find_tool("made-up-tool") == str(tool)


def test_findings_are_whole_after_each(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "findings.json"
    findings = Findings(path, 10.0)
    for count in range(3):
        findings.figure(case=count)
        assert len(json.loads(path.read_text())["figures"]) == count + 1
    assert os.listdir(path.parent) == ["findings.json"]
