"""Finds and loads the compiled ops library; without it every op runs its PyTorch reference.

``LLADA_MOE_OPS_LIBRARY_DIR`` names a folder with another build of the binaries (a sanitizer's, say).
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import cuda
from ..machine import REINSTALL, extension

NAMESPACE = "llada_moe"
PACKAGE = __name__.split(".", 1)[0]
FOLDER = Path(os.environ.get("LLADA_MOE_OPS_LIBRARY_DIR") or Path(__file__).resolve().parent.parent)
LIBRARY = FOLDER / "libllada_moe_torch.so"
OPS = (
    "add_rms_norm",
    "attention",
    "attention_layer",
    "expert_layer",
    "expert_order",
    "grouped_gemm",
    "grouped_gemm_packed",
    "grouped_swiglu",
    "grouped_swiglu_packed",
    "linear",
    "linear_packed",
    "moe_mlp",
    "moe_mlp_int8",
    "moe_mlp_packed",
    "pack_expert",
    "pack_linear",
    "permute",
    "qk_norm_rope",
    "rms_norm",
    "router",
    "router_topk",
    "token_confidence",
    "unpermute",
)
REBUILD = f"`{REINSTALL}`"

if "LLADA_MOE_OPS_LIBRARY_DIR" in os.environ:
    sys.modules[PACKAGE].__path__.insert(0, str(FOLDER))  # so that _C comes from there, too


_loaded = False  # a plain variable: torch.compile reads it, where it would trace into native()


@cache
def native() -> bool:
    """Whether the compiled ops are loaded. Warns once, with the command that mends it, when they are not.

    Raises:
        ValueError: LLADA_MOE_OPS_ISA forces an instruction set that this processor lacks.
    """
    problem = _load()
    if problem is not None:
        warnings.warn(f"{PACKAGE}: {problem}; the slow PyTorch references run instead", RuntimeWarning, stacklevel=2)
        return False
    if os.environ.get("LLADA_MOE_OPS_ISA"):
        try:
            extension().isa()
        except ValueError as error:
            raise ValueError(
                f"LLADA_MOE_OPS_ISA: {error}; type `unset LLADA_MOE_OPS_ISA`, or name one of those"
            ) from None
    global _loaded
    _loaded = True
    _without_kernel.update({op: False for op in OPS if not has_cuda_kernel(op)})
    return True


def _load() -> str | None:
    """Load the library; what is wrong and the command that mends it, or None."""
    if not LIBRARY.exists():
        return f"the extension is not built ({LIBRARY} is missing): type `pip install --no-build-isolation .`"
    try:
        torch.ops.load_library(str(LIBRARY))
    except (OSError, RuntimeError) as error:
        return (
            f"the extension was built for torch {built_for_torch()} and does not load with torch {torch.__version__} "
            f"({error}): type {REBUILD}"
        )
    if not all(hasattr(getattr(torch.ops, NAMESPACE), op) for op in OPS):
        return f"the extension is older than this source: type {REBUILD}"
    return None


def built_for_torch() -> str:
    """The version of torch that the binaries were built against."""
    try:
        return str(import_module(f"{PACKAGE}._build_info").TORCH_VERSION)
    except ImportError:
        return "of an unknown version"


def runs_natively(x: Tensor, op: str = "") -> bool:
    """Whether the compiled op takes x: on the CPU, on the meta device, where only shapes are computed, or on a GPU.

    Warns once for an op that has no CUDA kernel, which then runs its reference on a GPU.

    Args:
        x: the op's first tensor.
        op: its name; "" for one that never runs on a GPU.
    """
    device = x.device
    if device.type in ("cpu", "meta"):
        return _loaded
    return _loaded and device.type == "cuda" and op != "" and gpu_serves(device.index) and _has_kernel_or_warns(op)


def has_cuda_kernel(op: str) -> bool:
    """Whether this build has a CUDA kernel for an op."""
    return _loaded and bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", "CUDA"))


def _has_kernel_or_warns(op: str) -> bool:
    if op in _without_kernel and not torch.compiler.is_compiling() and not _without_kernel[op]:
        warnings.warn(
            f"{PACKAGE}: {op} has no CUDA kernel; its slow PyTorch reference runs on the GPU",
            RuntimeWarning,
            stacklevel=3,
        )
        _without_kernel[op] = True
    return op not in _without_kernel


_without_kernel: dict[str, bool] = {}  # each op without one, and whether that was said


def gpu_serves(device: int) -> bool:
    """Whether this build's kernels run on a CUDA device. Warns once, with what mends it, when they do not."""
    if device not in _gpus:
        if torch.compiler.is_compiling():  # the runtime cannot be asked while a graph is traced
            return cuda.build_info()[0] != ""
        problem = cuda.problem(device, cuda.build_info(), cuda.runtime_info())
        if problem is not None:
            warnings.warn(
                f"{PACKAGE}: {problem}; the slow PyTorch references run instead", RuntimeWarning, stacklevel=2
            )
        _gpus[device] = problem is None
    return _gpus[device]


_gpus: dict[int, bool] = {}


def overload(op: str) -> Any:
    """The callable of an op, without the search among its overloads, which costs as much as a check."""
    if torch.compiler.is_compiling():
        return getattr(getattr(torch.ops, NAMESPACE), op).default
    if op not in _overloads:
        _overloads[op] = getattr(getattr(torch.ops, NAMESPACE), op).default
    return _overloads[op]


_overloads: dict[str, Any] = {}


def differentiable(op: str, *args: Any) -> Any:
    """Call an op that has an autograd formula, around torch's autograd layer when nothing asks for a gradient.

    That layer is Python code and costs more than a small kernel: 3 µs of a call. Inference mode has none.
    """
    call = overload(op)
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return call(*args)
    if torch.is_grad_enabled() and any(map(_wants_gradient, args)):
        return call(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return call(*args)


def _wants_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
