"""Products of rows grouped by expert with that expert's own weight."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import _check
from ._library import differentiable, native, overload, runs_natively
from ._panels import rounded_rows
from .packing import PackedExperts, PackedGroups, check_format


def grouped_gemm_reference(x_sorted: Tensor, weight: Tensor | PackedGroups, offsets: Tensor) -> Tensor:
    """The specification of :func:`grouped_gemm` in plain PyTorch."""
    if isinstance(weight, PackedGroups):
        rows = rounded_rows(x_sorted) if weight.quantized else x_sorted
        return grouped_gemm_reference(rows, weight.unpack(), offsets).to(x_sorted.dtype)
    sizes = offsets.diff().tolist()
    groups = x_sorted.split([*sizes, x_sorted.shape[0] - sum(sizes)])[: len(sizes)]
    return torch.cat([functional.linear(rows, weight[e]) for e, rows in enumerate(groups)])


def grouped_swiglu_reference(x_sorted: Tensor, gate_up_proj: Tensor | PackedExperts, offsets: Tensor) -> Tensor:
    """The specification of :func:`grouped_swiglu` in plain PyTorch."""
    if isinstance(gate_up_proj, PackedExperts):
        rows = rounded_rows(x_sorted) if gate_up_proj.quantized else x_sorted
        return grouped_swiglu_reference(rows, gate_up_proj.unpack()[0], offsets).to(x_sorted.dtype)
    gate, up = grouped_gemm_reference(x_sorted, gate_up_proj, offsets).chunk(2, dim=-1)
    return functional.silu(gate) * up


def grouped_gemm(x_sorted: Tensor, weight: Tensor | PackedGroups, offsets: Tensor) -> Tensor:
    """y = rows of each group times that group's weightᵀ, summed in fp32, rounded once.

    Args:
        x_sorted: [A, K] float32 or bfloat16, sorted by group; rows may be strided.
        weight: [E, N, K] of x_sorted's dtype, last dimension contiguous, or packed by :func:`pack_grouped` (inference
            only; int8 and int4 weights take either dtype of x_sorted).
        offsets: [E + 1] int32 or int64, rising from 0: group e has rows offsets[e] .. offsets[e + 1].

    Returns:
        [A, N] of x_sorted's dtype; zero in rows from offsets[E] on, which belong to no group.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device or layout, or offsets that do not rise from 0 to at most A.
    """
    op = "grouped_gemm"
    _check.tensor(op, "x_sorted", x_sorted, dtypes=_check.FLOATING, shape=("A", "K"), rows_contiguous=True)
    if isinstance(weight, PackedGroups):
        weight.check_input(op, "x_sorted", x_sorted)
        offsets = _checked_offsets(op, x_sorted, offsets, weight.num_groups)
    else:
        _check_plain(op, "weight", x_sorted, weight, "N")
        offsets = _checked_offsets(op, x_sorted, offsets, weight.shape[0])
    if not runs_natively(x_sorted, f"{op}_packed" if isinstance(weight, PackedGroups) else op):
        return _padded(grouped_gemm_reference(x_sorted, weight, offsets), x_sorted.shape[0])
    if isinstance(weight, PackedGroups):
        packed: Tensor = overload("grouped_gemm_packed")(x_sorted, weight.panels, weight.out_features, offsets)
        return packed
    y: Tensor = differentiable(op, x_sorted, weight, offsets)
    return y


def grouped_swiglu(x_sorted: Tensor, gate_up_proj: Tensor | PackedExperts, offsets: Tensor) -> Tensor:
    """silu(gate) · up of each group's rows, the two products and SwiGLU in fp32, rounded once.

    Args:
        x_sorted: [A, H] float32 or bfloat16, sorted by group; rows may be strided.
        gate_up_proj: [E, 2I, H] of x_sorted's dtype, gate rows first, last dimension contiguous, or the experts packed
            by :func:`pack_experts`, whose down projection is not used here (inference only; int8 and int4 weights take
            either dtype of x_sorted).
        offsets: as for :func:`grouped_gemm`.

    Returns:
        [A, I] of x_sorted's dtype; zero in rows from offsets[E] on.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device or layout, or offsets that do not rise from 0 to at most A.
    """
    op = "grouped_swiglu"
    _check.tensor(op, "x_sorted", x_sorted, dtypes=_check.FLOATING, shape=("A", "H"), rows_contiguous=True)
    if isinstance(gate_up_proj, PackedExperts):
        check_format(op, "x_sorted", x_sorted, gate_up_proj.format, gate_up_proj.gate_up)
        hidden = gate_up_proj.hidden_size
        _check.require(op, "x_sorted", x_sorted.shape[1] == hidden, f"[.., {hidden}]", list(x_sorted.shape))
        offsets = _checked_offsets(op, x_sorted, offsets, gate_up_proj.num_experts)
    else:
        _check_plain(op, "gate_up_proj", x_sorted, gate_up_proj, "2I")
        size = gate_up_proj.shape[1]
        _check.require(op, "gate_up_proj", size % 2 == 0, "of an even second size", list(gate_up_proj.shape))
        offsets = _checked_offsets(op, x_sorted, offsets, gate_up_proj.shape[0])
    if not runs_natively(x_sorted, f"{op}_packed" if isinstance(gate_up_proj, PackedExperts) else op):
        return _padded(grouped_swiglu_reference(x_sorted, gate_up_proj, offsets), x_sorted.shape[0])
    if isinstance(gate_up_proj, PackedExperts):
        packed: Tensor = overload("grouped_swiglu_packed")(
            x_sorted, gate_up_proj.gate_up, gate_up_proj.intermediate_size, offsets
        )
        return packed
    y: Tensor = differentiable(op, x_sorted, gate_up_proj, offsets)
    return y


def _check_plain(op: str, name: str, x_sorted: Tensor, weight: object, rows: str) -> None:
    like: dict[str, Any] = {"dtypes": (x_sorted.dtype,), "device": x_sorted.device}
    _check.tensor(op, name, weight, shape=("E", rows, x_sorted.shape[1]), rows_contiguous=True, **like)


def _checked_offsets(op: str, x_sorted: Tensor, offsets: Tensor, groups: int) -> Tensor:
    """Offsets as contiguous int32."""
    _check.tensor(op, "offsets", offsets, dtypes=_check.INDEX, shape=(groups + 1,), device=x_sorted.device)
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

    @torch.library.register_fake("llada_moe::grouped_gemm_packed")
    @torch.library.register_fake("llada_moe::grouped_swiglu_packed")
    def _packed_fake(x_sorted: Tensor, packed: Tensor, columns: int, offsets: Tensor) -> Tensor:
        return x_sorted.new_empty(x_sorted.shape[0], columns)

    @torch.library.register_fake("llada_moe::grouped_swiglu")
    def _grouped_swiglu_fake(x_sorted: Tensor, gate_up_proj: Tensor, offsets: Tensor) -> Tensor:
        return x_sorted.new_empty(x_sorted.shape[0], gate_up_proj.shape[1] // 2)

    torch.library.register_autograd("llada_moe::grouped_gemm", _gemm_backward, setup_context=_setup)
    torch.library.register_autograd("llada_moe::grouped_swiglu", _swiglu_backward, setup_context=_setup)
