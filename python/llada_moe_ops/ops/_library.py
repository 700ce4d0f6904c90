"""Finds and loads the compiled ops library; without it every op runs its PyTorch reference."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import torch

NAMESPACE = "llada_moe"
LIBRARY = Path(__file__).resolve().parent.parent / "libllada_moe_torch.so"


@cache
def native() -> bool:
    """Whether the compiled ops are loaded. Warns once, with the command that mends it, when they are not."""
    if not LIBRARY.exists():
        warnings.warn(
            "llada_moe_ops: the extension is not built, the slow PyTorch references run instead; "
            "build it with `pip install --no-build-isolation .`",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        warnings.warn(
            f"llada_moe_ops: {LIBRARY.name} does not load with torch {torch.__version__} ({error}), the slow PyTorch "
            "references run instead; rebuild it with `pip install --no-build-isolation --force-reinstall .`",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
