"""The CUDA kernels run on the CPU by the emulator, in place of the CPU's own: the library and its settings.

``LLADA_MOE_OPS_EMULATE_DIR`` names a folder with another build of the library (a sanitizer's, say).
``LLADA_MOE_OPS_TEST_DEVICE=cuda`` runs on a GPU what would run in the emulator; the seeds are repetitions then.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from llada_moe_ops.machine import extension
from llada_moe_ops.ops import _library
from torch import Tensor

from tests.on_gpu import GpuOps, missing

NAMESPACE = "llada_moe_emulated"
FOLDER = Path(os.environ.get("LLADA_MOE_OPS_EMULATE_DIR") or Path(__file__).resolve().parent.parent / "build/emulate")
LIBRARY = FOLDER / f"lib{NAMESPACE}.so"
SEEDS = range(8)
MULTIPROCESSORS = 4
PATHS = ("sm80", "sm90a")
ON_GPU = os.environ.get("LLADA_MOE_OPS_TEST_DEVICE") == "cuda"

needs_emulator = (
    pytest.mark.skipif(missing() is not None, reason=f"LLADA_MOE_OPS_TEST_DEVICE=cuda, but {missing()}")
    if ON_GPU
    else pytest.mark.skipif(
        not LIBRARY.exists(), reason=f"no emulated kernels in {FOLDER}: build with -DLLADA_MOE_OPS_EMULATE=ON"
    )
)
# For a fixture: CUDA's kernels under several orders of threads and blocks, then on a GPU where one is.
CUDA_KERNELS: list[Any] = [pytest.param(seed, marks=needs_emulator, id=f"cuda-{seed}") for seed in SEEDS]
if missing() is None:
    CUDA_KERNELS.append("cuda")


@cache
def _loaded() -> ctypes.CDLL:
    torch.ops.load_library(str(LIBRARY))
    library = ctypes.CDLL(str(LIBRARY))
    library.llada_emulate_configure.argtypes = (ctypes.c_uint64, ctypes.c_uint, ctypes.c_int)
    library.llada_emulate_configure.restype = None
    library.llada_emulate_launches.restype = ctypes.c_uint64
    library.llada_emulate_kernels.argtypes = (ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t)
    library.llada_emulate_kernels.restype = ctypes.c_size_t
    library.llada_emulate_late_error.argtypes = (ctypes.c_int,)
    library.llada_emulate_late_error.restype = None
    library.llada_emulate_path.restype = ctypes.c_char_p
    return library


class _EmulatedOps:
    """``torch.ops.llada_moe_emulated``, which keeps count of what is called."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getattr__(self, name: str) -> Callable[..., Any]:
        op = getattr(getattr(torch.ops, NAMESPACE), name).default

        def call(*args: Any, **named: Any) -> Any:
            path, signatures = _loaded().llada_emulate_path(), map(_signature, (*args, *named.values()))
            _calls.add(((name, path, *named, *signatures), self.seed))
            return op(*args, **named)

        return call

    def __iter__(self) -> Iterator[str]:
        prefix = f"{NAMESPACE}::"
        names = torch._C._dispatch_get_all_op_names()
        return (name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix))


def _signature(value: Any) -> Hashable:
    return (value.dtype, value.shape, value.stride()) if isinstance(value, Tensor) else repr(value)


_calls: set[tuple[Hashable, int]] = set()  # an op with its path, its arguments' shapes and options; the seed


def emulated_ops(seed: int = 0) -> Any:
    """``torch.ops.llada_moe_emulated`` under a scheduler's seed, which also draws how many blocks run interleaved."""
    if ON_GPU:
        return GpuOps()
    _loaded().llada_emulate_configure(seed, 1 + seed % 4, MULTIPROCESSORS)
    return _EmulatedOps(seed)


def launches() -> int:
    """How many kernels this process has launched in the emulator."""
    return int(_loaded().llada_emulate_launches())


def fail_later(code: int) -> None:
    """The last kernel fails with a cudaError_t after its launch, as on a GPU: the next wait for the stream says so."""
    _loaded().llada_emulate_late_error(code)


class EmulatedWork(NamedTuple):
    """What the emulator has run, of plain values that a process can send to another."""

    kernels: list[int]  # numbers, the same in every process; instances of templates one by one
    cases: list[str]  # an op with its path, its arguments' shapes and options
    seeded: list[str]  # these with the scheduler's seed
    launches: int


def work_so_far() -> EmulatedWork:
    """In this process."""
    if not _calls:
        return EmulatedWork([], [], [], 0)
    count = _loaded().llada_emulate_kernels(None, 0)
    numbers = (ctypes.c_int64 * count)()
    _loaded().llada_emulate_kernels(numbers, count)
    cases = sorted({repr(case) for case, _ in _calls})
    return EmulatedWork(list(numbers), cases, sorted(map(repr, _calls)), _loaded().llada_emulate_launches())


def summary(parts: Iterable[EmulatedWork]) -> str:
    """The work of several processes in a line; empty if there was none."""
    parts = list(parts)
    kernels, cases, seeded = (
        len(set().union(*(getattr(part, name) for part in parts))) for name in ("kernels", "cases", "seeded")
    )
    if not seeded:
        return ""
    launches = sum(part.launches for part in parts)
    shapes = f"{cases} shapes and options of ops, {seeded} with their seeds"
    return f"emulated: {kernels} kernels; {shapes}; {launches} launches"


@contextmanager
def emulated(seed: int | str, path: str = "") -> Iterator[None]:
    """The package's functions run the emulated kernels on CPU tensors; without gradients.

    Args:
        seed: of the scheduler; "cuda": on a GPU instead.
        path: "sm80" or "sm90a" forces one where an op has both.
    """
    before = dict(_library._overloads)
    ops = GpuOps() if isinstance(seed, str) else emulated_ops(seed)
    _library._overloads.update({name: getattr(ops, name) for name in ops})
    extension().force_isa(path)
    try:
        yield
    finally:
        extension().force_isa("")
        _library._overloads.clear()
        _library._overloads.update(before)
