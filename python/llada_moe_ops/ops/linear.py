"""Dense projections: the one-group case of the grouped GEMM, so that they are batch-invariant like it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import _check
from ._library import differentiable, native, overload, runs_natively
from .packing import PackedLinear


def linear_reference(x: Tensor, weight: Tensor | PackedLinear, bias: Tensor | None = None) -> Tensor:
    """The specification of :func:`linear` in plain PyTorch."""
    return weight.reference(x, bias) if isinstance(weight, PackedLinear) else functional.linear(x, weight, bias)


def linear(x: Tensor, weight: Tensor | PackedLinear, bias: Tensor | None = None) -> Tensor:
    """y = x weightᵀ + bias, summed in fp32 in an order that depends on the row alone, rounded once.

    Args:
        x: [.., K] float32 or bfloat16; rows may be strided if they are evenly spaced.
        weight: [N, K] of x's dtype, last dimension contiguous, or packed by :func:`pack_linear` (inference only; int8
            and int4 weights take either dtype of x).
        bias: [N] of x's dtype.

    Returns:
        [.., N] of x's dtype.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device or layout.
    """
    _check.tensor("linear", "x", x, dtypes=_check.FLOATING)
    _check.require("linear", "x", x.dim() >= 1, "of at least one dimension", "a scalar")
    if isinstance(weight, PackedLinear):
        columns = weight.out_features
        weight.check_input("linear", "x", x)
    else:
        _check.tensor("linear", "weight", weight, dtypes=(x.dtype,), shape=("N", x.shape[-1]), device=x.device)
        columns = weight.shape[0]
    if bias is not None:
        _check.tensor("linear", "bias", bias, dtypes=(x.dtype,), shape=(columns,), device=x.device, contiguous=True)
    if not runs_natively(x, "linear_packed" if isinstance(weight, PackedLinear) else "linear"):
        return linear_reference(x, weight, bias)
    _check.even_rows("linear", "x", x)
    if isinstance(weight, PackedLinear):
        packed: Tensor = overload("linear_packed")(x, weight.panels, columns, bias)
        return packed
    _check.tensor("linear", "weight", weight, rows_contiguous=True)
    y: Tensor = differentiable("linear", x, weight, bias)
    return y


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    # A bias left at its default is no input of the call, so it has no entry here and gets no gradient.
    needed = ctx.needs_input_grad
    rows = grad.reshape(-1, grad.shape[-1])
    gradients = (
        grad @ weight if needed[0] else None,
        rows.T @ x.reshape(-1, x.shape[-1]) if needed[1] else None,
        rows.sum(0) if needed[-1] and len(needed) == 3 else None,
    )
    return gradients[: len(needed)]


if native():

    @torch.library.register_fake("llada_moe::linear")
    def _linear_fake(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return x.new_empty(*x.shape[:-1], weight.shape[0])

    @torch.library.register_fake("llada_moe::linear_packed")
    def _linear_packed_fake(x: Tensor, packed: Tensor, out_features: int, bias: Tensor | None = None) -> Tensor:
        return x.new_empty(*x.shape[:-1], out_features)

    torch.library.register_autograd("llada_moe::linear", _backward, setup_context=_setup)
