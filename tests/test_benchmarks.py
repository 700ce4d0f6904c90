"""What the benchmarks share: a case proves itself right, measures its limit, and ends up in a plot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from llada_moe_ops import LLaDAMoEModel
from llada_moe_ops.cli.checkpoint import EMBEDDED
from llada_moe_ops.ops._library import native
from llada_moe_ops.roofline import Limits, Probe
from llada_moe_ops.training import Accuracy

from benchmarks import bench_step, compare, full_size
from benchmarks.bench_experts_peers import OURS, Contender, still_in
from benchmarks.peers.peer import Peer
from benchmarks.peers.table import table

pytestmark = pytest.mark.skipif(not native(), reason="the extension is not built")
ROOT = Path(__file__).resolve().parent.parent
DTYPES = (torch.float32, torch.bfloat16, "int8", "int4")
PNG = b"\x89PNG\r\n\x1a\n"


def run_case(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """What one case on a little memory records."""
    monkeypatch.setattr(compare, "probe", lambda threads: Probe(threads, stream_bytes=4 << 20))
    x = torch.randn(64, 64)
    benchmark = SimpleNamespace(extra_info={}, pedantic=lambda run, **_: run())
    peers = {"torch": lambda: x @ x, "matmul": lambda: torch.matmul(x, x)}
    work = {"dtype": torch.float32, "bytes_moved": 3.0 * x.nbytes, "flops": 2.0 * 64**3}
    compare.compare(benchmark, compare.title("product", torch.float32, N=64), lambda: x @ x, peers, **work | options)
    return benchmark.extra_info


def test_a_case_records_every_run_and_its_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = run_case(monkeypatch)
    json.dumps(info)
    limits = Limits.from_dict(info["limits"])
    assert limits.threads == torch.get_num_threads()
    assert {"dram", info["level"]} == set(limits.read)
    assert set(limits.peak) == {"fp32"}
    assert list(info["runs"]) == ["ours", "torch", "matmul"]
    assert info["runs"]["ours"]["ratio"] == 1.0
    for run in info["runs"].values():
        assert 0 < run["min"] <= run["median"]
        expected = limits.fraction(run["median"], info["bytes"], info["operations"], "fp32", level=info["level"])
        assert run["fraction"] == pytest.approx(expected)
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert line.startswith(f"product float32 N=64 threads={limits.threads} ")
    assert f"% of {info['bound']}" in line
    assert all(word in line for word in ("us", "GFLOP/s", "GB/s", " x torch ", " x matmul "))


def test_a_ratio_is_the_median_of_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    drifting = {"ours": [1.0, 2.0, 4.0, 8.0, 16.0], "torch": [3.0, 6.0, 4.0, 4.0, 48.0], "matmul": [1.0] * 5}

    def take_turns(*args: Any) -> tuple[dict[str, list[float]], Limits]:
        return drifting, real_turns(*args)[1]

    real_turns = compare.take_turns
    monkeypatch.setattr(compare, "take_turns", take_turns)
    runs = run_case(monkeypatch)["runs"]
    assert [run["ratio"] for run in runs.values()] == [1.0, 3.0, 0.25]  # torch's median is no more than ours


def test_every_size_and_thread_count(tmp_path: Path) -> None:
    results, module = tmp_path / "results.json", "benchmarks/bench_norm_rope.py"

    # A process of pytest-xdist says so in its environment, and there pytest-benchmark times nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    few, every = (run(module, "--collect-only", *more) for more in ((), ("--every-size", "--threads", "1", "2")))
    assert few.count("::test_rms_norm[") == 2 * len(compare.TOKENS)
    assert every.count("::test_rms_norm[") == 2 * 9 * 2
    ids = [f"test_rms_norm[dtype1-8-threads{count}]" for count in (1, 2)]
    assert all(id in every for id in ids)
    cases = [f"{module}::{id}" for id in ids]
    run(*cases, "--every-size", "--threads", "1", "2", f"--benchmark-json={results}")
    for count, case in enumerate(json.loads(results.read_text(encoding="utf-8"))["benchmarks"], start=1):
        info = case["extra_info"]
        assert info["name"] == f"rms_norm float32 T=8 threads={count}"
        assert info["threads"] == info["limits"]["threads"] == count


def test_cold_data_are_in_memory_and_quantised_ones_have_their_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    for format in ("int8", "int4"):
        info = run_case(monkeypatch, cold=True, dtype=format)
        assert (info["level"], info["format"], info["dtype"]) == ("dram", format, "int8")
        assert set(info["limits"]["peak"]) == {"int8"}


def test_a_wrong_result_is_no_speed() -> None:
    with pytest.raises(AssertionError, match="wrong result"):
        compare.compare(
            SimpleNamespace(),
            "zeros",
            lambda: torch.zeros(4),
            {"ones": lambda: torch.ones(4)},
            dtype=torch.float32,
            bytes_moved=16.0,
        )


def test_only_the_fastest_go_on() -> None:
    def contender(name: str, seconds: float, *, spins: bool = False) -> Contender:
        return Contender(Peer(name, (), lambda: None, OURS.build, spins=spins), [], [9.0, seconds])

    ours = Contender(OURS, [], [5.0, 4.0])
    others = [contender(*one) for one in (("a", 2.0), ("b", 3.0), ("c", 3.5), ("slow", 5.1))]
    field = [ours, *others, contender("spinning", 1.0, spins=True)]
    assert [one.peer.name for one in still_in(field, time_is_up=False)] == ["ours", "a", "b", "c"]
    assert [one.peer.name for one in still_in(field, time_is_up=True)] == ["ours", "a", "b"]
    assert still_in([ours], time_is_up=True) == [ours]


def test_a_table_says_what_fraction_of_the_limit_ours_reaches() -> None:
    row = {"format": "int8", "threads": 2, "limit": 3e-3, "bound": "dram", "absent": {"b": "not installed"}}
    times = {"ours": {"median": 4e-3, "min": 3e-3}, "a": {"median": 6e-3, "min": 6e-3}}
    rows = [{**row, "tokens": 1, "times": times}, {**row, "tokens": 8, "times": {"a": times["a"]}}]
    title, header, rule, *lines, absent = table(rows).splitlines()
    assert title == "int8, 2 threads: median ms (times ours)"
    assert header == "| T | ours | a | best peer | limit | limit ÷ ours | by |"
    assert rule.count("|") == header.count("|")
    assert lines == ["| 1 | 4 | 6 (1.50) | a | 3 | 75.0% | dram |", "| 8 |  | 6 | a | 3 |  | dram |"]
    assert absent == "b absent: not installed"
    assert "| 100.0% |" in table(rows, "min")
    times["a"]["ratio"], times["ours"]["ratio"] = 1.25, 1.0
    drifted = {"ours": times["ours"], "a": times["a"], "b": {"median": 5e-3, "min": 5e-3, "ratio": 1.3}}
    assert "| 1 | 4 | 6 (1.25) | 5 (1.30) | a | 3 |" in table([{**row, "tokens": 1, "times": drifted}])


def test_resident_memory_stands_beside_the_packed_size(tmp_path: Path) -> None:
    model = LLaDAMoEModel.from_pretrained(EMBEDDED, quantization="int4")
    model.save_packed(tmp_path)
    options = Namespace(packed=True, quantization=None, device="cpu", tokens=[1], repeats=1, measure=time.time())
    figures = full_size.measure(tmp_path, options)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    names = list(figures)
    assert figures["packed_gib"] == round(size / 2**30, 2)
    assert names.index("packed_gib") + 1 == names.index("resident_gib_after_load")
    assert figures["resident_gib_after_steps"]["now"] > 0


def test_a_step_of_fewer_layers_is_said_to_be_extrapolated() -> None:
    row = {"step_ms": 20.0, "step_min_ms": 18.5, "layer_ms": 5.0, "whole_model_ms": 90.0}
    row |= {"fraction_of_limit": 0.9, "share_in_ops": 0.99}
    few, all_of_them = (bench_step.line("int4", 8, 2, {**row, "layers": count}, {}) for count in (2, 16))
    assert "step      20.0 (18.5) ms" in few
    assert "whole model      90.0 ms, extrapolated from 2 of 16 layers" in few
    assert "extrapolated" not in all_of_them


def test_losses_are_paired_and_roundings_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from quantization_quality import divergence, paired_loss
    from rounding import ROUNDINGS

    base = [Accuracy("sort", (True, True, False, True), (), 1.0), Accuracy("reverse", (True,) * 96, (), 1.0)]
    same = paired_loss(base, base)
    assert (same["points"], same["lost"], same["won"]) == (0.0, 0, 0)
    worse = paired_loss(base, [Accuracy("sort", (False, True, True, False), (), 1.0), base[1]])
    assert (worse["points"], worse["lost"], worse["won"]) == (1.0, 2, 1)
    assert worse["interval"][0] < 1.0 < worse["interval"][1]
    rows = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log().double()
    assert divergence(rows, rows)["kl_nats"] == 0.0
    assert divergence(rows, rows.flip(1))["argmax_agreement"] == 0.5
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    errors = {name: float((one.apply(weight) - weight).square().mean()) for name, one in ROUNDINGS.items()}
    for group in (32, 64, 128):
        assert errors[f"int4, groups of {group}, searched"] < errors[f"int4, groups of {group}"]
    assert errors["int4, groups of 32"] < errors["int4, groups of 64"] < errors["int4, groups of 128"]


def test_tables(tmp_path: Path) -> None:
    def case(name: str, threads: int, runs: dict[str, float]) -> dict[str, Any]:
        timed = {
            run: {"median": median, "fraction": 0.5 / median, "ratio": median / runs["ours"]}
            for run, median in runs.items()
        }
        return {"extra_info": {"name": name, "bound": "dram", "limits": {"threads": threads}, "runs": timed}}

    results, written = tmp_path / "results.json", tmp_path / "results.md"
    cases = [
        case("linear bf16 T=8 K=2 N=3 threads=1", 1, {"ours": 1.0, "oneDNN": 1.25}),
        case("linear bf16 T=1 K=2 N=3 threads=1", 1, {"ours": 2.0, "oneDNN": 1.0, "torch": 5.0}),
        case("linear bf16 T=1 K=2 N=3 threads=2", 2, {"ours": 0.625}),
        case("permute bfloat16 T=1 threads=2", 2, {"ours": 1.0, "reference": 3.0}),
    ]
    values = {"machine_info": {"llada_moe_ops": {"processor": "some", "isa": "avx2"}}, "benchmarks": cases}
    results.write_text(json.dumps(values), encoding="utf-8")
    command = [sys.executable, str(ROOT / "benchmarks" / "results_table.py"), str(results), str(written)]
    subprocess.run(command, check=True, timeout=60)
    heading, *tables = written.read_text(encoding="utf-8").split("## ")
    assert heading.startswith("# some · avx2\n")
    linear, permute = ([line for line in table.splitlines() if line.startswith("|")] for table in tables)
    assert linear == [
        "| case | threads | T, R or S | 1 | 8 |",
        "| --- | --- | --- | --- | --- |",
        "| bf16 K=2 N=3 | 1 | of the limit | 25% dram | 50% dram |",
        "|  |  | x oneDNN | 0.50 | 1.25 |",
        "|  |  | x torch | 2.50 |  |",
        "| bf16 K=2 N=3 | 2 | of the limit | 80% dram |  |",
    ]
    assert permute[2:] == ["| bfloat16 | 2 | of the limit | 50% dram |", "|  |  | x reference | 3.00 |"]
    results.write_text(json.dumps(values | {"benchmarks": [{"extra_info": {}}]}), encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no case of benchmarks/compare.py" in done.stderr
    del cases[0]["extra_info"]["runs"]["ours"]["ratio"]
    results.write_text(json.dumps(values), encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "its cases have no ratios" in done.stderr


def test_plot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results, picture = tmp_path / "results.json", tmp_path / "roofline.png"
    plot = [sys.executable, str(ROOT / "benchmarks" / "roofline_plot.py"), str(results), str(picture)]
    copies = {"extra_info": {"operations": 0.0}}
    cases = [{"extra_info": run_case(monkeypatch, dtype=dtype)} for dtype in DTYPES]
    values = {"machine_info": {"llada_moe_ops": {"processor": "some"}}, "benchmarks": [copies, *cases]}
    results.write_text(json.dumps(values), encoding="utf-8")
    done = subprocess.run(plot, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(PNG)
    values["benchmarks"] = [copies]
    results.write_text(json.dumps(values), encoding="utf-8")
    done = subprocess.run(plot, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "no case with operations" in done.stderr
    assert done.stderr.count("\n") == 1
