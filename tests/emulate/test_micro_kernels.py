"""Each PTX wrapper, run by the emulator, against the PTX manual's formulas, under several orders of threads."""

from __future__ import annotations

import ctypes
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.emulate.micro_kernels import Case, cases

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(os.environ.get("LLADA_MOE_OPS_EMULATE_DIR") or ROOT / "build/emulate")
LIBRARY = FOLDER / "libllada_moe_micro_kernels.so"
SEEDS = range(8)

pytestmark = pytest.mark.skipif(
    not LIBRARY.exists(), reason=f"no micro-kernels in {FOLDER}: build with -DLLADA_MOE_OPS_EMULATE=ON"
)


@cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(LIBRARY))
    loaded.llada_emulate_configure.argtypes = (ctypes.c_uint64, ctypes.c_uint)
    loaded.llada_emulate_error.restype = ctypes.c_char_p
    return loaded


def run(case: Case, seed: int) -> np.ndarray:
    kernels = library()
    kernels.llada_emulate_configure(seed, 1 + seed % 4 if case.kernel != "release_acquire" else 2)
    # TMA wants its source aligned to 16 bytes.
    source = np.empty(case.input.nbytes + 16, np.uint8)
    source = source[-source.ctypes.data % 16 :][: case.input.nbytes]
    source[:] = np.ascontiguousarray(case.input).view(np.uint8).ravel()
    output = np.full_like(case.expected, 77) if case.initial is None else case.initial.copy()
    status = getattr(kernels, case.kernel)(
        ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(output.ctypes.data), *case.arguments
    )
    assert status == 0, kernels.llada_emulate_error().decode()
    return output


@pytest.mark.parametrize("case", cases(), ids=str)
def test_micro_kernel(case: Case) -> None:
    nonzero = np.count_nonzero(case.expected) / case.expected.size
    assert nonzero > 0.15, "a reference that is mostly zeros proves nothing"
    for seed in SEEDS:
        np.testing.assert_array_equal(run(case, seed), case.expected, err_msg=f"seed {seed}")


def test_every_wrapper_has_a_micro_kernel() -> None:
    wrappers = set()
    for header in ("ptx_sm80.h", "ptx_sm90.h", "ptx_sm90_wgmma.h"):
        text = (ROOT / "csrc/cuda" / header).read_text()
        wrappers |= set(re.findall(r"^__device__ __forceinline__ \S+ (\w+)\(", text, re.MULTILINE))
    used = "".join(path.read_text() for path in (ROOT / "tests/emulate").glob("micro_kernels_sm*.cu"))
    assert len(wrappers) > 30
    assert {name for name in wrappers if not re.search(rf"ptx::{name}\b", used)} == set()
