"""Sorting a batch of tokens by expert, and summing the experts' outputs back per token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _check
from ._library import differentiable, native, overload, runs_natively


def expert_order_reference(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """The specification of :func:`expert_order` in plain PyTorch."""
    flat = experts.flatten().long()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=num_experts + 1)[:num_experts]
    offsets = torch.zeros(num_experts + 1, dtype=torch.int32, device=experts.device)
    offsets[1:] = counts.cumsum(0)
    return order.to(torch.int32), offsets


def permute_reference(x: Tensor, order: Tensor, k: int) -> Tensor:
    """The specification of :func:`permute` in plain PyTorch."""
    return x[order.long() // k]


def unpermute_reference(y_sorted: Tensor, order: Tensor, weights: Tensor) -> Tensor:
    """The specification of :func:`unpermute` in plain PyTorch."""
    tokens, k = weights.shape
    rows = torch.zeros(tokens * k, y_sorted.shape[-1], dtype=torch.float32, device=y_sorted.device)
    rows = rows.index_copy(0, order.long(), y_sorted.float())
    return (rows.view(tokens, k, y_sorted.shape[-1]) * weights.float().unsqueeze(-1)).sum(1).to(y_sorted.dtype)


def expert_order(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """Stable counting sort of assignments (token · k + slot) by expert.

    Args:
        experts: int32 or int64 [T, k], contiguous, values 0 .. E; E means "not mine": last in order, in no group. On a
            GPU values are not read by the host: one outside counts as E.
        num_experts: E.

    Returns:
        order int32 [T · k]; offsets int32 [E + 1]: expert e has order[offsets[e] : offsets[e + 1]].

    Raises:
        TypeError: experts is no tensor or has another dtype.
        ValueError: a wrong shape, layout or range.
    """
    _check.tensor("expert_order", "experts", experts, dtypes=_check.INDEX, shape=("T", "k"), contiguous=True)
    _check.require("expert_order", "num_experts", 1 <= num_experts <= 1 << 24, "within 1 and 2^24", num_experts)
    _check.index_range("expert_order", "experts", experts, num_experts)
    if not runs_natively(experts, "expert_order"):
        return expert_order_reference(experts, num_experts)
    order, offsets = overload("expert_order")(experts, num_experts)
    return order, offsets


def permute(x: Tensor, order: Tensor, k: int) -> Tensor:
    """The rows of x in the order of their assignments: row i is x[order[i] // k].

    Args:
        x: [T, H] float32 or bfloat16, last dimension contiguous.
        order: int32 [A], contiguous, values below T · k. On a GPU one outside gives a row of zeros.
        k: experts per token.

    Returns:
        [A, H].

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device, layout or range.
    """
    _check.tensor("permute", "x", x, dtypes=_check.FLOATING, shape=("T", "H"), rows_contiguous=True)
    _check_order("permute", order, x.device)
    _check.require("permute", "k", k >= 1, "at least 1", k)
    _check.index_range("permute", "order", order, x.shape[0] * k - 1)
    if not runs_natively(x, "permute"):
        return permute_reference(x, order, k)
    out: Tensor = differentiable("permute", x, order, k)
    return out


def unpermute(y_sorted: Tensor, order: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of each token's rows, in slot order in fp32, rounded once: the inverse of :func:`permute`.

    Args:
        y_sorted: [A, H] float32 or bfloat16, last dimension contiguous.
        order: int32 [A], contiguous, each assignment at most once; a missing one counts as a row of zeros. On a GPU
            this is not checked; a value outside 0 .. T · k - 1 is skipped.
        weights: [T, k] float32 or bfloat16, contiguous.

    Returns:
        [T, H] of y_sorted's dtype.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device, layout or range.
    """
    op = "unpermute"
    _check.tensor(op, "y_sorted", y_sorted, dtypes=_check.FLOATING, shape=("A", "H"), rows_contiguous=True)
    _check_order(op, order, y_sorted.device)
    _check.require(op, "order", order.shape[0] == y_sorted.shape[0], f"of {y_sorted.shape[0]} rows", order.shape[0])
    _check.tensor(
        op, "weights", weights, dtypes=_check.FLOATING, shape=("T", "k"), device=y_sorted.device, contiguous=True
    )
    _check.index_range(op, "order", order, weights.numel() - 1)
    if _check.has_values(order) and order.device.type == "cpu":
        _check.require(op, "order", int(order.bincount().max()) == 1, "without repetition", "an entry twice")
    if not runs_natively(y_sorted, op):
        return unpermute_reference(y_sorted, order, weights)
    out: Tensor = differentiable("unpermute", y_sorted, order, weights)
    return out


def _check_order(op: str, order: Tensor, device: torch.device) -> None:
    _check.tensor(op, "order", order, dtypes=(torch.int32,), shape=("A",), device=device, contiguous=True)


def _setup_permute(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    x, order, ctx.k = inputs
    ctx.tokens = x.shape[0]
    ctx.save_for_backward(order)


def _backward_permute(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (order,) = ctx.saved_tensors
    total = grad.new_zeros((ctx.tokens, grad.shape[1]), dtype=torch.float32)
    return total.index_add(0, order.long() // ctx.k, grad.float()).to(grad.dtype), None, None


def _setup_unpermute(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_unpermute(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
    y_sorted, order, weights = ctx.saved_tensors
    assignment = order.long()
    rows = grad.float()[assignment // weights.shape[1]]
    grad_rows = rows * weights.float().flatten()[assignment].unsqueeze(-1)
    products = (rows * y_sorted.float()).sum(-1)
    grad_weights = products.new_zeros(weights.numel()).index_copy(0, assignment, products).view_as(weights)
    return grad_rows.to(y_sorted.dtype), None, grad_weights.to(weights.dtype)


if native():

    @torch.library.register_fake("llada_moe::expert_order")
    def _expert_order_fake(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
        return (
            experts.new_empty(experts.numel(), dtype=torch.int32),
            experts.new_empty(num_experts + 1, dtype=torch.int32),
        )

    @torch.library.register_fake("llada_moe::permute")
    def _permute_fake(x: Tensor, order: Tensor, k: int) -> Tensor:
        return x.new_empty(order.shape[0], x.shape[1])

    @torch.library.register_fake("llada_moe::unpermute")
    def _unpermute_fake(y_sorted: Tensor, order: Tensor, weights: Tensor) -> Tensor:
        return y_sorted.new_empty(weights.shape[0], y_sorted.shape[1])

    torch.library.register_autograd("llada_moe::permute", _backward_permute, setup_context=_setup_permute)
    torch.library.register_autograd("llada_moe::unpermute", _backward_unpermute, setup_context=_setup_unpermute)
