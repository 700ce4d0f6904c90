"""The CUDA kernels run on the CPU by the emulator, in place of the CPU's own: the library and its settings.

``LLADA_MOE_OPS_EMULATE_DIR`` names a folder with another build of the library (a sanitizer's, say).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from llada_moe_ops.ops import _library
from llada_moe_ops.ops._library import extension

NAMESPACE = "llada_moe_emulated"
FOLDER = Path(os.environ.get("LLADA_MOE_OPS_EMULATE_DIR") or Path(__file__).resolve().parent.parent / "build/emulate")
LIBRARY = FOLDER / f"lib{NAMESPACE}.so"
SEEDS = range(8)
MULTIPROCESSORS = 4
PATHS = ("sm80", "sm90a")

needs_emulator = pytest.mark.skipif(
    not LIBRARY.exists(), reason=f"no emulated kernels in {FOLDER}: build with -DLLADA_MOE_OPS_EMULATE=ON"
)
# For a fixture: the CPU's kernels, then CUDA's under several orders of threads and blocks.
KERNELS = ["native", *(pytest.param(seed, marks=needs_emulator, id=f"cuda-{seed}") for seed in SEEDS)]


@cache
def _loaded() -> ctypes.CDLL:
    torch.ops.load_library(str(LIBRARY))
    library = ctypes.CDLL(str(LIBRARY))
    library.llada_emulate_configure.argtypes = (ctypes.c_uint64, ctypes.c_uint, ctypes.c_int)
    library.llada_emulate_configure.restype = None
    return library


def emulated_ops(seed: int = 0) -> Any:
    """``torch.ops.llada_moe_emulated`` under a scheduler's seed, which also draws how many blocks run interleaved."""
    _loaded().llada_emulate_configure(seed, 1 + seed % 4, MULTIPROCESSORS)
    return getattr(torch.ops, NAMESPACE)


@contextmanager
def emulated(seed: int, path: str = "") -> Iterator[None]:
    """The package's functions run the emulated kernels on CPU tensors; without gradients.

    Args:
        seed: of the scheduler.
        path: "sm80" or "sm90a" forces one where an op has both.
    """
    ops, before = emulated_ops(seed), dict(_library._overloads)
    names = [
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith(f"{NAMESPACE}::")
    ]
    _library._overloads.update({name: getattr(ops, name).default for name in names})
    extension().force_isa(path)
    try:
        yield
    finally:
        extension().force_isa("")
        _library._overloads.clear()
        _library._overloads.update(before)
