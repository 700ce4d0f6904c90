"""``llada-moe bench``: the table, the JSON, wrong usage; not how fast this machine is."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from llada_moe_ops.cli.decode import _named
from llada_moe_ops.machine import extension
from llada_moe_ops.roofline import DTYPES, LEVELS, Limits
from llada_moe_ops.training.decoding import RULES, SMOOTHED

from .conftest import Command, run_process

TINY = ("--seconds", "0.01", "--stream-mib", "4")


def test_roofline(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "roofline.json"
    done = command("bench", "roofline", *TINY, "--threads", "1", "--json", path)
    assert done.code == 0, done.err
    assert done.err == ""
    assert "1 thread" in done.out
    assert all(word in done.out for word in ("read L1", "read DRAM", "fp32", "bf16", "int8", "GB/s", "GOP/s"))
    values = json.loads(path.read_text(encoding="utf-8"))
    facts = values["machine"]
    assert facts["isa"] == extension().isa()
    assert facts["isa"] in done.out
    assert {"processor", "cores", "caches", "memory", "compiler", "date"} <= set(facts)
    (limits,) = (Limits.from_dict(one) for one in values["limits"])
    assert limits.threads == 1
    assert (tuple(limits.read), tuple(limits.peak)) == (LEVELS, DTYPES)
    rates = [*limits.read.values(), *limits.peak.values()]
    assert all(math.isfinite(rate.best) and rate.best >= rate.median > 0 for rate in rates)


def test_roofline_without_a_count_takes_all_cores(tmp_path: Path) -> None:
    path, cores = tmp_path / "roofline.json", len(os.sched_getaffinity(0))
    done = run_process("bench", "roofline", *TINY, "--json", path)
    assert done.code == 0, done.err
    assert done.err == ""
    counts = [one["threads"] for one in json.loads(path.read_text(encoding="utf-8"))["limits"]]
    assert counts[0] == 1
    assert counts[-1] == cores
    assert counts == sorted(set(counts))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--threads", "0"), 2, "--threads"),
        (("--threads", "4096"), 2, "this process may use"),
        (("--seconds", "0"), 2, "--seconds must be above 0"),
        (("--stream-mib", "0"), 2, "--stream-mib"),
        ((*TINY, "-t", "1", "--json", "/no/such/folder/x"), 1, "/no/such/folder/x: cannot be written"),
    ],
)
def test_what_is_refused(command: Command, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = command("bench", "roofline", *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in " ".join(done.err.replace("│", " ").split())


def test_decode(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    path, plot = tmp_path / "decode.json", tmp_path / "decode.png"
    rules = ("--unmasker", "fixed", "--unmasker", "threshold:0")
    small = ("sort", "operator", "-m", checkpoint, "--count", "3", "--block-length", "4")
    done = command("bench", "decode", *small, *rules, "--cache", "dual", "--json", path, "--plot", plot)
    assert done.code == 0, done.err
    assert done.err == ""
    values = json.loads(path.read_text(encoding="utf-8"))
    assert [(one["unmasker"], one["cache"], one["smoothing"]) for one in values["pairs"]] == [
        ("fixed", "none", "none"),
        ("fixed", "dual", "none"),
        ("threshold:0", "dual", "none"),
    ]
    assert [values[name] for name in ("tasks", "count", "block_length")] == [["sort", "operator"], 3, 4]
    assert values["pairs"][2]["passes"] < values["pairs"][0]["passes"]
    assert values["machine"]["isa"] == extension().isa()
    lines = [line for line in done.out.splitlines() if "│ threshold:0 " in line]
    assert len(lines) == 1
    assert f"{values['pairs'][2]['fewer_passes']:.1f} x" in lines[0]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("asked", "measured"),
    [
        (
            ("--unmasker", "threshold", "--smoothing", "iteration:0.1", "--smoothing", "none"),
            [("threshold", "iteration:0.1"), ("threshold", "none")],
        ),
        (("--unmasker", SMOOTHED), [(SMOOTHED, "none")]),
        (
            (),
            [pair for rule in RULES for pair in [(rule, "none"), *[(rule, "iteration")] * (rule == SMOOTHED)]][1:],
        ),
    ],
)
def test_decode_with_smoothing(
    command: Command, checkpoint: Path, tmp_path: Path, asked: tuple[str, ...], measured: list[tuple[str, str]]
) -> None:
    path = tmp_path / "decode.json"
    small = ("sort", "-m", checkpoint, "--count", "1", "--cache", "none")
    done = command("bench", "decode", *small, *asked, "--json", path)
    assert done.code == 0, done.err
    figures = json.loads(path.read_text(encoding="utf-8"))["pairs"]
    assert [(one["unmasker"], one["smoothing"]) for one in figures] == [("fixed", "none"), *measured]
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in done.out.splitlines() if line.startswith("│")]
    assert "…" not in done.out.replace(" … ", "")  # nothing is cut
    assert rows == [[rule, "none", smoothing] for rule, smoothing in [("fixed", "none"), *measured]]


def test_a_point_of_the_plot_names_all_that_are_there() -> None:
    there = [("margin", "none"), ("entropy", "none"), ("entropy", "dual"), ("entropy", "none", "iteration")]
    figures = [dict(zip(("unmasker", "cache", "smoothing"), (*one, "none")[:3], strict=True)) for one in there]
    assert _named(figures) == ["margin · none", "entropy · none, dual", "entropy with iteration · none"]


def test_decode_leaves_out_what_does_not_go_together(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "decode.json"
    pairs = ("--unmasker", "klass", "--cache", "interval", "--cache", "prefix")
    done = command("bench", "decode", "sort", "-m", checkpoint, "--count", "1", *pairs, "--json", path)
    assert done.code == 0, done.err
    assert done.err.startswith("left out: klass under interval: unmasker KlassUnmasker compares")
    values = json.loads(path.read_text(encoding="utf-8"))
    assert [(one["unmasker"], one["cache"]) for one in values["pairs"]] == [("fixed", "none"), ("klass", "prefix")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chess",), "unknown task 'chess'"),
        (("--unmasker", "treshold"), "did you mean 'threshold'"),
        (("--cache", "dul"), "did you mean 'dual'"),
        (("--smoothing", "iteraton"), "did you mean 'iteration'"),
        (("--count", "0"), "--count"),
    ],
)
def test_decode_refuses(command: Command, arguments: tuple[str, ...], message: str) -> None:
    done = command("bench", "decode", *arguments)
    assert done.code == 2
    assert message in " ".join(done.err.replace("│", " ").split())
