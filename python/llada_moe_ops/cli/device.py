"""Where a command's model runs."""

from __future__ import annotations

import sys
from pathlib import Path

from .. import cuda
from .options import Device, Dtype, ModelChoice, Quantization


def choose_device(choice: ModelChoice, folder: Path) -> tuple[str, str | None]:
    """A GPU that this build serves, else the CPU; and why, in a few words, where the machine has a GPU to choose."""
    import torch

    from ..model.packed import is_packed

    try:
        info = cuda.runtime_info()
    except RuntimeError:
        info = None
    too_old = None if info is None else cuda.driver_problem(info)
    if not torch.cuda.is_available() and not (info and info["devices"]) and too_old is None:
        return "cpu", None
    if choice.quantization is Quantization.int4:
        return "cpu", "int4 weights run there alone"
    if choice.quantization is Quantization.int8 and choice.dtype is Dtype.float32:
        return "cpu", "int8 weights with fp32 activations run there alone"
    if is_packed(folder):
        return "cpu", "packed weights run there alone"
    problem = cuda.problem(0, cuda.build_info(), info)
    if problem is not None:
        return "cpu", problem
    if not torch.cuda.is_available():
        return "cpu", f"torch {torch.__version__} sees no CUDA device"
    assert info is not None
    return "cuda", str(info["devices"][0]["name"])


def device_for(choice: ModelChoice, folder: Path) -> str:
    """The device that was asked for; where this had to choose, it says so in one line on standard error."""
    if choice.device is not Device.auto:
        return choice.device.value
    device, why = choose_device(choice, folder)
    if why is not None:
        print(f"llada-moe: on the {'CPU' if device == 'cpu' else 'GPU'} ({why})", file=sys.stderr)
    return device
