"""Argument checks shared by every op: one line per argument, one wording for every message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.bfloat16)  # and float16 on a GPU
INDEX = (torch.int32, torch.int64)

_Size = int | str | None


def tensor(
    op: str,
    name: str,
    value: object,
    *,
    dtypes: Sequence[torch.dtype] | None = None,
    shape: Sequence[_Size] | None = None,
    device: torch.device | None = None,
    contiguous: bool = False,
    rows_contiguous: bool = False,
) -> None:
    """Check one tensor argument.

    ``shape`` entries: an int must match, a str names a free size (for the message), None matches anything.
    ``contiguous`` asks for the whole tensor, ``rows_contiguous`` only for a last dimension of stride 1.

    Raises:
        TypeError: not a tensor, or a dtype outside ``dtypes``.
        ValueError: wrong rank, size, device or layout.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if dtypes is not None and value.dtype not in dtypes:
        allowed = (*dtypes, torch.float16) if dtypes is FLOATING and value.is_cuda else dtypes
        if value.dtype not in allowed:
            expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
            raise TypeError(f"{op}: {name} must be {expected}, got {str(value.dtype).removeprefix('torch.')}")
    if shape is not None:
        have = value.shape
        good = len(have) == len(shape)
        for want, size in zip(shape, have):  # noqa: B905  lengths are compared above; this runs at every call
            good = good and (want == size or not isinstance(want, int))
        if not good:
            expected = ", ".join("*" if want is None else str(want) for want in shape)
            raise ValueError(f"{op}: {name} must have shape [{expected}], got {list(value.shape)}")
    if device is not None and value.device != device:
        raise ValueError(f"{op}: {name} must be on {device}, got {value.device}")
    if contiguous and not value.is_contiguous():
        raise ValueError(f"{op}: {name} must be contiguous, got strides {list(value.stride())}; call .contiguous()")
    if rows_contiguous and value.dim() > 0 and value.numel() > 0 and value.shape[-1] > 1 and value.stride(-1) != 1:
        raise ValueError(
            f"{op}: {name} must have a contiguous last dimension, got strides {list(value.stride())}; "
            "call .contiguous()"
        )


def require(op: str, name: str, good: bool, expected: str, got: object) -> None:
    """Raise ValueError, in the common wording, unless ``good``."""
    if not good:
        refuse(op, name, expected, got)


def refuse(op: str, name: str, expected: str, got: object) -> NoReturn:
    """Raise ValueError in the common wording; for checks whose wording would take longer than they do."""
    raise ValueError(f"{op}: {name} must be {expected}, got {got}")


def even_rows(op: str, name: str, value: Tensor) -> None:
    """Raise ValueError unless the leading dimensions of [.., K] can be seen as one and the last one is contiguous."""
    if value.is_contiguous():
        return
    tensor(op, name, value, rows_contiguous=True)
    count, stride = 1, None
    if value.numel() == 0:
        return
    for size, step in zip(reversed(value.shape[:-1]), reversed(value.stride()[:-1]), strict=True):
        if size == 1:
            continue
        if stride is None:
            stride = step
        elif step != stride * count:
            raise ValueError(
                f"{op}: {name} must have evenly spaced rows, got shape {list(value.shape)} with strides "
                f"{list(value.stride())}; call .contiguous()"
            )
        count *= size


def has_values(value: Tensor) -> bool:
    """Whether ``value`` may be read: not while tracing, nor on the meta device."""
    plain = type(value) in (Tensor, torch.nn.Parameter)
    return plain and value.numel() > 0 and value.device.type != "meta" and not torch.compiler.is_compiling()


def index_range(op: str, name: str, value: Tensor, highest: int) -> None:
    """Raise ValueError unless all of ``value``, where it may be read, is in 0 .. highest.

    On a GPU reading would make the host wait: there the kernels themselves skip what is outside.
    """
    if has_values(value) and value.device.type == "cpu":
        low, high = (int(bound) for bound in torch.aminmax(value))
        require(op, name, low >= 0 and high <= highest, f"in 0 .. {highest}", low if low < 0 else high)
