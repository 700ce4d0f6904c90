"""The CUDA kernels run on a GPU by tests that hold CPU tensors: what is given goes there with its layout, what comes
out comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from llada_moe_ops import cuda
from llada_moe_ops.ops._library import NAMESPACE, has_cuda_kernel, native
from torch import Tensor


@cache
def missing() -> str | None:
    """Why there is no GPU whose kernels this build has; None where there is one."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if not native():
        return "the extension is not built"
    return cuda.problem(0, cuda.build_info(), cuda.runtime_info())


needs_gpu = pytest.mark.skipif(missing() is not None, reason=f"no GPU: {missing()}")


def to_gpu(value: Any) -> Any:
    """A tensor with its sizes, strides and offset into its storage, so that views stay views; else the value."""
    if not isinstance(value, Tensor) or value.device.type != "cpu":
        return value
    storage = torch.empty(0, dtype=value.dtype).set_(value.detach().untyped_storage()).cuda()
    return storage.as_strided(value.shape, value.stride(), value.storage_offset())


def to_cpu(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(to_cpu, value))
    return value.cpu() if isinstance(value, Tensor) else value


def on_gpu(op: Callable[..., Any]) -> Callable[..., Any]:
    """``op`` for CPU tensors, run on the GPU; waits, so that a fault in the kernel is this call's."""

    def call(*args: Any, **named: Any) -> Any:
        result = op(*map(to_gpu, args), **{name: to_gpu(value) for name, value in named.items()})
        torch.cuda.synchronize()
        return to_cpu(result)

    return call


class GpuOps:
    """Stands in for ``torch.ops.llada_moe_emulated``: ``torch.ops.llada_moe`` on the GPU."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return on_gpu(getattr(getattr(torch.ops, NAMESPACE), name))

    def __iter__(self) -> Iterator[str]:
        """The names of the ops that have CUDA kernels."""
        prefix = f"{NAMESPACE}::"
        names = {name.removeprefix(prefix).split(".")[0] for name in torch._C._dispatch_get_all_op_names()
                 if name.startswith(prefix)}  # fmt: skip
        return iter(sorted(name for name in names if has_cuda_kernel(name)))
