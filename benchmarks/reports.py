"""pytest-benchmark's JSON as the plot and the tables read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_report(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """The machine and the date in words, and what each case recorded about itself."""
    report = json.loads(path.read_text(encoding="utf-8"))
    facts = report["machine_info"].get("llada_moe_ops", {})
    machine = " · ".join(str(facts[key]) for key in ("processor", "isa", "date") if key in facts)
    return machine, [one["extra_info"] for one in report["benchmarks"]]
