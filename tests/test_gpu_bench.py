"""The benchmarks of ``make gpu-check`` on this CPU at a tiny size: their cases are right and their figures add up. A
stand-in takes the place of CUDA's graphs and events; nothing here is a measurement."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import full_size
from benchmarks.gpu_check import attention, bench, bench_group, experts, head, rows, step
from benchmarks.gpu_check.case import OURS, Case, Geometry, run_case
from benchmarks.gpu_check.roofs import Roofs, figures
from benchmarks.gpu_check.stage import Findings
from benchmarks.gpu_check.timing import MIN_REPLAYS, MOST_SETS, Times, measure, number_of_sets

ROOT = Path(__file__).resolve().parent.parent
TINY = Geometry(hidden=32, intermediate=16, experts=4, slots=2, heads=2, head_size=16, vocabulary=300, device="cpu")
ROOFS = Roofs(read=2e12, copy=1e12, product=5e14)
MISSING_TRITON = importlib.util.find_spec("triton") is None


class CpuClock:
    """Runs the calls, and times them on the host."""

    def __init__(self) -> None:
        self.captured = 0

    def capture(self, calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
        self.captured += 1
        return lambda: [call() for call in calls]

    def seconds(self, call: Callable[[], Any]) -> float:
        before = time.perf_counter()
        call()
        return time.perf_counter() - before


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    return Findings(tmp_path / "findings.json", 60.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens, nothing compiled, no time spent on repetitions."""
    for module, name, value in (
        (experts, "TOKENS", (1, 9)),
        (experts, "PRODUCT_TOKENS", (9,)),
        (experts, "INT8_TOKENS", (9,)),
        (rows, "TOKENS", (9,)),
        (head, "ROWS", (9,)),
        (attention, "LENGTHS", ((4, 12), (8, 8))),
    ):
        monkeypatch.setattr(module, name, value)
    for module in (rows, head):
        monkeypatch.setattr(module, "compiled", lambda function: function)
    monkeypatch.setattr(attention, "flex", lambda: attention.sdpa(attention.SDPBackend.MATH))
    monkeypatch.setattr("benchmarks.gpu_check.case.measure", lambda *a, **k: measure(*a, **{**k, "budget": 0.0}))


def run_one(case: Case, findings: Findings) -> dict[str, dict[str, Any]]:
    """The figures of a case by run."""
    run_case(case, findings, CpuClock(), ROOFS, l2_bytes=1 << 14, memory_bytes=1 << 17)
    return {figure["run"]: figure for figure in findings.values["figures"] if figure["case"] == case.name}


def test_every_case_is_right_and_is_measured(findings: Findings) -> None:
    for case in (case for make in bench_group.CASES.values() for case in make(TINY)):
        before = len(findings.values["notes"])
        run_one(case, findings)
        told = findings.values["notes"][before:]
        done = {figure["run"] for figure in findings.values["figures"] if (figure["group"], figure["case"]) ==
                (case.group, case.name)}  # fmt: skip
        silent = set(case.runs) - done - {name for name in case.runs if any(name in note for note in told)}
        assert OURS in done
        assert not silent, f"{case.group} {case.name}: {silent}"
        assert case.reference in done or any(case.reference in note for note in told)
        assert case.bytes_moved > 0
    assert findings.values["failures"] == []
    groups = {figure["group"] for figure in findings.values["figures"]}
    assert groups == {
        *("expert layer", "expert layer, int8", "gate and up product, SwiGLU", "down product", "attention"),
        *("router and order", "permute", "unpermute", "token_confidence"),
    }
    if MISSING_TRITON:
        assert "expert layer, T=9: Triton is left out: No module named 'triton'" in findings.values["notes"]


def made_up(**changes: Any) -> Case:
    runs = {OURS: lambda x: x + x, "peer": lambda x: 2 * x}
    values: dict[str, Any] = {
        "group": "sum",
        "name": "N=4000",
        "inputs": lambda: (torch.rand(4000),),
        "runs": runs,
        "reference": "peer",
        "bytes_moved": 72.0,
        "flops": 9.0,
    }
    return Case(**{**values, **changes})


def test_a_figure_s_rates_are_those_of_its_median() -> None:
    found = figures(Times(1e-6, 4e-6, "graph"), bytes_moved=4e6, flops=2e9, roofs=ROOFS)
    assert (found["min_us"], found["median_us"], found["how"]) == (1.0, 4.0, "graph")
    assert (found["tb_per_s"], found["tflop_per_s"]) == (1.0, 500.0)
    assert (found["of_read"], found["of_copy"], found["of_product"]) == (0.5, 1.0, 1.0)


def test_a_wrong_result_is_no_figure(findings: Findings) -> None:
    case = made_up(runs={OURS: lambda x: x, "peer": lambda x: 2 * x, "nan": lambda x: x * torch.nan})
    assert set(run_one(case, findings)) == {"peer"}
    assert findings.values["failures"] == ["sum, N=4000: ours : ArithmeticError: wrong result, relative error 0.5"]
    assert findings.values["notes"] == ["sum, N=4000: nan : ArithmeticError: wrong result, relative error nan"]


def test_a_peer_that_breaks_is_named_and_an_unchecked_one_is_timed(findings: Findings) -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("not for this GPU\nat all")

    runs = {OURS: lambda x: x + x, "peer": lambda x: 2 * x, "broken": broken, "bound": lambda x: x.sum()}
    case = made_up(runs=runs, unchecked=("bound",), missing={"other": "not installed"})
    assert set(run_one(case, findings)) == {OURS, "peer", "bound"}
    assert findings.values["notes"] == [
        "sum, N=4000: other is left out: not installed",
        "sum, N=4000: broken : RuntimeError: not for this GPU",
    ]


def test_the_fastest_variant_counts(findings: Findings) -> None:
    def after(seconds: float) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            time.sleep(seconds)
            return 2 * x

        return run

    variants = {"slow": after(3e-3), "quick": after(1e-4)}
    found = run_one(made_up(variants={"peer": variants}), findings)
    assert found["peer"]["how"] == "graph, quick"


def test_what_reads_on_the_host_is_not_captured(findings: Findings) -> None:
    clock = CpuClock()
    run_case(made_up(eager=("peer",)), findings, clock, ROOFS, 1 << 14, 1 << 30)
    assert clock.captured == 1
    assert {figure["run"]: figure["how"] for figure in findings.values["figures"]} == {OURS: "graph", "peer": "eager"}


def test_every_call_of_a_graph_has_inputs_of_its_own() -> None:
    seen: list[list[int]] = []

    class Watching(CpuClock):
        def capture(self, calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
            seen.append([call() for call in calls])
            return super().capture(calls)

    sets = [(torch.rand(3),) for _ in range(4)]
    times = measure([lambda values=values: values[0].data_ptr() for values in sets], Watching(), budget=0.0)
    assert len(set(seen[0])) == 4
    assert 0 < times.least <= times.median
    assert MIN_REPLAYS >= 5


@pytest.mark.parametrize(
    ("set_bytes", "expected"),
    [(805 << 20, 2), (50 << 20, 3), (500 << 10, 308), (1, MOST_SETS), (0, MOST_SETS), (60 << 30, 1)],
)
def test_inputs_exceed_the_cache_and_fit_the_memory(set_bytes: int, expected: int) -> None:
    assert number_of_sets(set_bytes, 50 << 20, 80 << 30) == expected


def test_the_geometry_is_the_7b_model_s() -> None:
    config, full = full_size.full_config(16), Geometry()
    assert (config.hidden_size, config.expert_intermediate_size) == (full.hidden, full.intermediate)
    assert (config.num_experts, config.num_experts_per_tok) == (full.experts, full.slots)
    assert (config.num_attention_heads, config.head_dim) == (full.heads, full.head_size)
    assert config.vocab_size == full.vocabulary
    case = experts.layer_case(full, 64)
    assert case.bytes_moved == pytest.approx(806e6, rel=0.01)
    assert case.flops == pytest.approx(6.44e9, rel=0.01)


def tiny_config(layers: int) -> Any:
    config = full_size.full_config(layers)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    tokens = {"vocab_size": 90, "mask_token_id": 89, "eos_token_id": 1}
    sizes = {"hidden_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "expert_intermediate_size": 16}
    for name, value in {**heads, **tokens, **sizes}.items():
        setattr(config, name, value)
    return config


def record(function: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
    return function, function()


def test_decode_steps_of_a_whole_model(monkeypatch: pytest.MonkeyPatch, findings: Findings) -> None:
    monkeypatch.setattr(step, "full_config", tiny_config)
    monkeypatch.setattr(full_size, "record_cuda_graph", record)
    monkeypatch.setattr(step, "BLOCKS", (8, 4))
    model = step.random_model(2, "cpu")
    monkeypatch.setattr(step, "random_model", lambda: model)
    monkeypatch.setattr(full_size, "device_seconds", CpuClock().seconds)
    for name, value in (("synchronize", None), ("get_device_name", "made up"), ("max_memory_allocated", 1 << 30)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    step.measure_steps(findings, CpuClock(), ROOFS)
    assert findings.values["failures"] == []
    blocks = [f"block of {tokens}, 2 layers{more}" for more in ("", ", int8 experts") for tokens in (8, 4)]
    assert [figure["case"] for figure in findings.values["figures"]] == blocks
    plain, _, in_bytes, _ = findings.values["figures"]
    scales = 4 * (2 * 16 + 32)
    assert plain["bytes"] - in_bytes["bytes"] == 2 * 4 * (3 * 16 * 32 - scales)
    assert all(figure["python_us"] > 0 and figure["memory_gib"] == 1.0 for figure in findings.values["figures"])
    assert "Python" in plain["how"]
    assert plain["tokens_per_s_at_4_per_forward"] > 0
    found = full_size.measure_on_gpu(model, [4, 8], repeats=3)
    assert found["quantization"] == "int8"
    assert found["steps"]["4"]["host_us"] > 0
    assert set(found["steps"]) == {"4", "8"}
    assert found["steps"]["4"]["step_ms"]["min"] > 0
    assert "tokens_per_second_at_4_per_forward" in found["steps"]["8"]


def run_some(findings: Findings, folder: Path, begin: int, measure: Callable[[Case], None], **more: Any) -> list[str]:
    """Which of five cases are settled."""
    settled: list[str] = []
    cases = iter(made_up(name=f"N={number}") for number in range(5))
    bench_group.run_cases(
        cases, begin, folder / "begun", findings, measure, lambda: settled.append((folder / "begun").read_text())
    )
    return settled


def test_a_group_goes_on_after_a_case(findings: Findings, tmp_path: Path) -> None:
    def measure(case: Case) -> None:
        if case.name == "N=3":
            raise RuntimeError("no memory\nat all")

    assert run_some(findings, tmp_path, 2, measure) == ["2", "3", "4"]
    assert findings.values["failures"] == ["sum, N=3: RuntimeError: no memory"]
    findings.seconds = 1.0
    assert run_some(findings, tmp_path, 3, measure) == []
    assert findings.values["notes"] == ["no time was left for sum N=3, sum N=4"]


GROUP = """
import argparse, os
from pathlib import Path
from benchmarks.gpu_check.stage import Findings
parser = argparse.ArgumentParser()
for name in ("group", "begin", "folder", "findings", "seconds"): parser.add_argument("--" + name)
options = parser.parse_args()
findings = Findings(Path(options.findings), 1.0)
for number in range(int(options.begin), 4):
    (Path(options.folder) / "begun").write_text(str(number))
    findings.figure(group=options.group, case=number)
    if number == 1: os.abort()
"""


def test_a_fault_ends_a_process_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch, findings: Findings, tmp_path: Path
) -> None:
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "bench_group.py").write_text(GROUP)
    monkeypatch.setattr(bench, "__package__", "made_up")
    monkeypatch.setattr(bench, "GROUPS", ("some",))
    monkeypatch.setattr(bench, "clocks", dict)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    bench.bench(findings)
    assert [figure["case"] for figure in findings.values["figures"]] == [0, 1, 2, 3]
    assert findings.values["failures"] == ["some: the process ended with status -6 at case 2"]
    findings.seconds = bench.RESERVE
    bench.bench(findings)
    assert "no time was left for some from case 1 on" in findings.values["notes"]


def test_a_group_that_says_nothing_has_failed(
    monkeypatch: pytest.MonkeyPatch, findings: Findings, tmp_path: Path
) -> None:
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "bench_group.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(bench, "__package__", "made_up")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert bench.run_group(findings, "some", 0, time.monotonic() + 60, tmp_path) is None
    assert findings.values["failures"] == ["some: the process ended with status 1"]


def test_a_step_that_breaks_leaves_the_stage_be(monkeypatch: pytest.MonkeyPatch, findings: Findings) -> None:
    def out_of_memory() -> None:
        raise torch.OutOfMemoryError("14 GB are not there")

    monkeypatch.setattr(step, "random_model", out_of_memory)
    step.measure_steps(findings, CpuClock(), ROOFS)
    assert findings.values["failures"] == ["decode step: OutOfMemoryError: 14 GB are not there"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "torch sees no CUDA device"),
        (["--quantization", "int8"], "torch sees no CUDA device"),
        (["--quantization", "int4"], "int4 and packed weights are the CPU's; --quantization int8 is for both"),
        (["--packed"], "int4 and packed weights are the CPU's; --quantization int8 is for both"),
    ],
)
def test_full_size_without_a_gpu(options: list[str], message: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "full_size.py"), "--device", "cuda", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"error: --device cuda: {message}\n")
