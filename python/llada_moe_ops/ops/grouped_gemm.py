"""Products of rows grouped by expert with that expert's own weight."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import _check
from ._library import differentiable, native, runs_natively


def grouped_gemm_reference(x_sorted: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """The specification of :func:`grouped_gemm` in plain PyTorch."""
    sizes = offsets.diff().tolist()
    groups = x_sorted.split([*sizes, x_sorted.shape[0] - sum(sizes)])[: len(sizes)]
    return torch.cat([functional.linear(rows, weight[e]) for e, rows in enumerate(groups)])


def grouped_swiglu_reference(x_sorted: Tensor, gate_up_proj: Tensor, offsets: Tensor) -> Tensor:
    """The specification of :func:`grouped_swiglu` in plain PyTorch."""
    gate, up = grouped_gemm_reference(x_sorted, gate_up_proj, offsets).chunk(2, dim=-1)
    return functional.silu(gate) * up


def grouped_gemm(x_sorted: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """y = rows of each group times that group's weightᵀ, summed in fp32, rounded once.

    Args:
        x_sorted: [A, K] float32 or bfloat16, sorted by group; rows may be strided.
        weight: [E, N, K] of x_sorted's dtype, last dimension contiguous.
        offsets: [E + 1] int32 or int64, rising from 0: group e has rows offsets[e] .. offsets[e + 1].

    Returns:
        [A, N] of x_sorted's dtype; zero in rows from offsets[E] on, which belong to no group.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device or layout, or offsets that do not rise from 0 to at most A.
    """
    offsets = _checked("grouped_gemm", "weight", x_sorted, weight, "N", offsets)
    if not runs_natively(x_sorted):
        return _padded(grouped_gemm_reference(x_sorted, weight, offsets), x_sorted.shape[0])
    y: Tensor = differentiable("grouped_gemm", x_sorted, weight, offsets)
    return y


def grouped_swiglu(x_sorted: Tensor, gate_up_proj: Tensor, offsets: Tensor) -> Tensor:
    """silu(gate) · up of each group's rows, the two products and SwiGLU in fp32, rounded once.

    Args:
        x_sorted: [A, H] float32 or bfloat16, sorted by group; rows may be strided.
        gate_up_proj: [E, 2I, H] of x_sorted's dtype, gate rows first, last dimension contiguous.
        offsets: as for :func:`grouped_gemm`.

    Returns:
        [A, I] of x_sorted's dtype; zero in rows from offsets[E] on.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device or layout, or offsets that do not rise from 0 to at most A.
    """
    offsets = _checked("grouped_swiglu", "gate_up_proj", x_sorted, gate_up_proj, "2I", offsets)
    size = gate_up_proj.shape[1]
    _check.require("grouped_swiglu", "gate_up_proj", size % 2 == 0, "of an even second size", list(gate_up_proj.shape))
    if not runs_natively(x_sorted):
        return _padded(grouped_swiglu_reference(x_sorted, gate_up_proj, offsets), x_sorted.shape[0])
    y: Tensor = differentiable("grouped_swiglu", x_sorted, gate_up_proj, offsets)
    return y


def _checked(op: str, name: str, x_sorted: Tensor, weight: Tensor, rows: str, offsets: Tensor) -> Tensor:
    """Check the arguments; offsets as contiguous int32."""
    _check.tensor(op, "x_sorted", x_sorted, dtypes=_check.FLOATING, shape=("A", "K"), rows_contiguous=True)
    shape = ("E", rows, x_sorted.shape[1])
    device = x_sorted.device
    _check.tensor(op, name, weight, dtypes=(x_sorted.dtype,), shape=shape, device=device, rows_contiguous=True)
    _check.tensor(op, "offsets", offsets, dtypes=_check.INDEX, shape=(weight.shape[0] + 1,), device=device)
    _check.index_range(op, "offsets", offsets, x_sorted.shape[0])
    if _check.has_values(offsets):
        values = offsets.tolist()
        _check.require(op, "offsets", values[0] == 0 and values == sorted(values), "rising from 0", values)
    return offsets.to(torch.int32).contiguous()


def _padded(y: Tensor, rows: int) -> Tensor:
    return functional.pad(y, (0, 0, 0, rows - y.shape[0]))


def group_slices(offsets: Tensor) -> Iterator[tuple[int, slice]]:
    """(e, its rows) of every group that has rows."""
    bounds = offsets.tolist()
    for group, (begin, end) in enumerate(itertools.pairwise(bounds)):
        if begin < end:
            yield group, slice(begin, end)


def swiglu_backward(gate_up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """(silu(gate) · up, gradient of gate_up) of rows [A, 2I] for the output's gradient [A, I]; computed in fp32."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    wide = grad.float()
    grad_gate = wide * up * sigmoid * (1 + gate * (1 - sigmoid))
    return (silu * up).to(grad.dtype), torch.cat([grad_gate, wide * silu], dim=-1).to(grad.dtype)


# Ops of their own: the number of rows of each group is data, which a traced backward could not use.
@torch.library.custom_op("llada_moe::grouped_gemm_backward", mutates_args=())
def grouped_gemm_backward(grad: Tensor, x_sorted: Tensor, weight: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x_sorted and weight."""
    grad_x, grad_weight = torch.zeros_like(x_sorted), torch.zeros_like(weight)
    for group, rows in group_slices(offsets):
        grad_x[rows] = grad[rows] @ weight[group]
        grad_weight[group] = grad[rows].T @ x_sorted[rows]
    return grad_x, grad_weight


@torch.library.custom_op("llada_moe::grouped_swiglu_backward", mutates_args=())
def grouped_swiglu_backward(
    grad: Tensor, x_sorted: Tensor, gate_up_proj: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x_sorted and gate_up_proj; the two products are recomputed."""
    grad_x, grad_weight = torch.zeros_like(x_sorted), torch.zeros_like(gate_up_proj)
    for group, rows in group_slices(offsets):
        gate_up = x_sorted[rows] @ gate_up_proj[group].T
        grad_gate_up = swiglu_backward(gate_up, grad[rows])[1]
        grad_x[rows] = grad_gate_up @ gate_up_proj[group]
        grad_weight[group] = grad_gate_up.T @ x_sorted[rows]
    return grad_x, grad_weight


@grouped_gemm_backward.register_fake
@grouped_swiglu_backward.register_fake
def _backward_fake(grad: Tensor, x_sorted: Tensor, weight: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_sorted), torch.empty_like(weight)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gemm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *grouped_gemm_backward(grad, *ctx.saved_tensors), None


def _swiglu_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *grouped_swiglu_backward(grad, *ctx.saved_tensors), None


if native():

    @torch.library.register_fake("llada_moe::grouped_gemm")
    def _grouped_gemm_fake(x_sorted: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
        return x_sorted.new_empty(x_sorted.shape[0], weight.shape[1])

    @torch.library.register_fake("llada_moe::grouped_swiglu")
    def _grouped_swiglu_fake(x_sorted: Tensor, gate_up_proj: Tensor, offsets: Tensor) -> Tensor:
        return x_sorted.new_empty(x_sorted.shape[0], gate_up_proj.shape[1] // 2)

    torch.library.register_autograd("llada_moe::grouped_gemm", _gemm_backward, setup_context=_setup)
    torch.library.register_autograd("llada_moe::grouped_swiglu", _swiglu_backward, setup_context=_setup)
