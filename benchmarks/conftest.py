"""Facts of the machine in the JSON of every benchmark."""

from __future__ import annotations

from typing import Any

from llada_moe_ops.machine import machine_facts


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Called by pytest-benchmark."""
    machine_info["llada_moe_ops"] = machine_facts()
