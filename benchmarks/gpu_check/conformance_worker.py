"""Runs the micro-kernels whose numbers come on standard input, a line of JSON each."""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import numpy as np

from tests.emulate import test_micro_kernels as emulation
from tests.emulate.micro_kernels import Array, Case, cases

LIBRARY = emulation.FOLDER / "libllada_moe_micro_kernels_cuda.so"


def on_gpu(case: Case, library: ctypes.CDLL) -> Array:
    """The output of a case's kernel, as nvcc compiled it."""
    import torch

    def upload(values: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values).view(np.uint8).ravel().copy()).cuda()

    source = upload(case.input)
    output = upload(np.full_like(case.expected, 77) if case.initial is None else case.initial)
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (source, output))
    torch.cuda.synchronize()
    status = getattr(library, case.kernel)(*pointers, *case.arguments)
    if status != 0:
        raise RuntimeError(f"the launch gave error {status}")
    torch.cuda.synchronize()
    return output.cpu().numpy().view(case.expected.dtype).reshape(case.expected.shape)


def difference(found: Array, expected: Array) -> str:
    """ "same", or how many elements differ, and the first of them."""
    different = np.flatnonzero((found != expected).ravel())
    if not different.size:
        return "same"
    first = np.unravel_index(different[0], expected.shape)
    place = ", ".join(map(str, first))
    return f"{different.size} of {expected.size} differ, first [{place}]: {found[first]}, not {expected[first]}"


def answer(case: Case, library: ctypes.CDLL | None) -> dict[str, Any]:
    """Emulator against the manual; the GPU against the emulator, bit for bit, and against the manual."""
    try:
        emulated = emulation.run(case, seed=0)
        found = {"emulator": difference(emulated, case.expected)}
        if library is not None:
            real = on_gpu(case, library)
            found["gpu"] = difference(real, emulated)
            if found["gpu"] != "same" and np.array_equal(real, case.expected):
                found["gpu"] += " (the GPU agrees with the manual)"
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return found


def main() -> None:
    """Answer until standard input ends."""
    library = ctypes.CDLL(str(LIBRARY)) if "--gpu" in sys.argv else None
    every = cases()
    for line in sys.stdin:
        print(json.dumps(answer(every[int(line)], library)), flush=True)


if __name__ == "__main__":
    main()
