"""The reference data of tests/data/golden: outputs of the published code (see its README)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "data" / "golden"
CHECKPOINTS = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))


@cache
def tensors(name: str) -> dict[str, Tensor]:
    """The tensors of ``name.safetensors``."""
    return load_file(GOLDEN / f"{name}.safetensors")


@cache
def facts(name: str) -> dict[str, Any]:
    """The entries of ``name.json``."""
    values: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return values


def forward_cases() -> list[tuple[str, str]]:
    """Every (checkpoint, case) with a recorded forward pass."""
    return [(name, case) for name in CHECKPOINTS for case in sorted(facts(f"{name}/forward"))]
