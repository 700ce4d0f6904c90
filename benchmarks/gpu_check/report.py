"""The results as one JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .stage import write_aside
from .targets import judged

JSON_FILE, MARKDOWN_FILE = "gpu_check.json", "gpu_check.md"
Row = Mapping[str, Any]
# Stages whose figures are timings, written as one table per group; the figures of the others are written as they are.
TIMED = ("bench",)


def read_report(folder: Path) -> dict[str, Any]:
    """What earlier runs left there."""
    try:
        report: dict[str, Any] = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"stages": {}}
    return report if isinstance(report.get("stages"), dict) else {"stages": {}}


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Both files, each written aside and renamed."""
    write_aside(folder / JSON_FILE, json.dumps(report, indent=1) + "\n")
    write_aside(folder / MARKDOWN_FILE, markdown(report))


def markdown(report: Mapping[str, Any]) -> str:
    """Machine, outcomes, failures, notes and figures."""
    machine = report.get("machine", {})
    parts = ["# GPU check", _machine(machine), _outcomes(report["stages"])]
    for name, stage in report["stages"].items():
        lines = [f"- **failed:** {text}" for text in stage["failures"]] + [f"- {text}" for text in stage["notes"]]
        tables = list(_timings(stage["figures"])) if name in TIMED else [_plain(stage["figures"])]
        if name in TIMED:
            tables.insert(0, _targets(stage["figures"], str(machine.get("gpu", {}).get("name"))))
        tables = [table for table in tables if table]
        if lines or tables:
            parts += [f"## {name}", *(["\n".join(lines)] if lines else []), *tables]
    return "\n\n".join(parts) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    gpu = machine.get("gpu", {})
    memory, l2 = gpu.get("memory_bytes", 0) / 2**30, gpu.get("l2_bytes", 0) / 2**20
    device = f"none ({gpu['none']})" if "none" in gpu else (
        f"{gpu.get('name')}, sm_{str(gpu.get('compute_capability')).replace('.', '')}, "
        f"{gpu.get('multiprocessors')} multiprocessors, {memory:.0f} GiB, {l2:.0f} MiB of L2"
    )  # fmt: skip
    clocks = machine.get("clocks") or {}
    packages = ", ".join(f"{name} {version or 'absent'}" for name, version in machine.get("packages", {}).items())
    facts = {
        "device": device,
        "driver": f"{machine.get('driver')}; torch's CUDA {gpu.get('torch_cuda')}; nvcc {machine.get('nvcc')}",
        "clocks": ", ".join(f"{name} {value}" for name, value in clocks.items()) or "unknown",
        "software": f"Python {machine.get('python')}, {packages}",
        "host": machine.get("host"),
        "sources": f"{machine.get('commit')}, sha256 {str(machine.get('sources_sha256'))[:16]}",
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _outcomes(stages: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            stage["outcome"],
            f"{stage['seconds']} s",
            len(stage["figures"]),
            len(stage["failures"]),
            stage["started"],
        )
        for name, stage in stages.items()
    ]
    return table(("stage", "outcome", "took", "figures", "failures", "started (UTC)"), rows)


def _plain(figures: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for figure in figures for name in figure))
    return table(columns, [[figure.get(name, "") for name in columns] for figure in figures]) if figures else ""


def _timings(figures: Sequence[Row]) -> Iterable[str]:
    """Per group: each case's runs, how they stand to the measured limits, and how many times ours is faster."""
    for group in dict.fromkeys(figure["group"] for figure in figures):
        rows = []
        members = [figure for figure in figures if figure["group"] == group]
        ours = {figure["case"]: figure["median_us"] for figure in members if figure["run"] == "ours"}
        order = {case: number for number, case in enumerate(dict.fromkeys(figure["case"] for figure in members))}
        for figure in sorted(members, key=lambda one: (order[one["case"]], one["run"] != "ours")):
            mine = ours.get(figure["case"])
            ratio = f"{figure['median_us'] / mine:.2f}" if mine and figure["run"] != "ours" else ""
            rows.append(
                (
                    figure["case"],
                    figure["run"],
                    f"{figure['median_us']:.1f} ({figure['min_us']:.1f})",
                    _number(figure.get("tb_per_s"), ".2f"),
                    _number(figure.get("tflop_per_s"), ".0f"),
                    _percent(figure.get("of_read")),
                    _percent(figure.get("of_copy")),
                    _percent(figure.get("of_product")),
                    ratio,
                    figure.get("how", ""),
                )
            )
        heading = (
            "case",
            "run",
            "µs: median (min)",
            "TB/s",
            "TFLOP/s",
            "of read",
            "of copy",
            "of product",
            "x ours",
            "",
        )
        yield f"### {group}\n\n{table(heading, rows)}"


def _targets(figures: Sequence[Row], gpu: str) -> str:
    """How the figures stand to the targets, where this GPU has any; and to the peers."""
    rows = list(judged(figures, gpu))
    return f"### targets\n\n{table(('group', 'case', 'target', 'found', ''), rows)}" if rows else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; bars in cells are escaped."""

    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(heading), line("---" for _ in heading), *map(line, rows)])
