"""Routing: scores, top-k choice and weights of the experts (arXiv 2509.24389 section 2; LLaDA2's gate as an option)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import _check
from ._autograd import reference_gradients
from ._library import differentiable, native, runs_natively

SCORES = ("softmax", "sigmoid")


def router_topk_reference(
    logits: Tensor,
    k: int,
    *,
    score: str = "softmax",
    bias: Tensor | None = None,
    bias_in_weights: bool = True,
    num_groups: int = 1,
    topk_groups: int = 1,
    renormalize: bool = False,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The specification of :func:`router_topk` in plain PyTorch."""
    scores = logits.float().softmax(-1) if score == "softmax" else logits.float().sigmoid()
    selection = scores if bias is None else scores + bias.float()
    source = selection if bias_in_weights else scores
    if num_groups > 1:
        grouped = selection.reshape(*selection.shape[:-1], num_groups, selection.shape[-1] // num_groups)
        group_scores = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
        kept = _stable_topk(group_scores, topk_groups)
        keep = torch.zeros_like(group_scores, dtype=torch.bool).scatter(-1, kept, True)
        selection = grouped.masked_fill(~keep.unsqueeze(-1), -torch.inf).flatten(-2)
    experts = _stable_topk(selection, k)
    weights = source.gather(-1, experts)
    if renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * scale, experts.to(torch.int32)


def _stable_topk(values: Tensor, k: int) -> Tensor:
    """Indices of the k largest, in falling order, equal values by lower index first (torch.topk promises no order)."""
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def router_reference(x: Tensor, gate_weight: Tensor, k: int, **options: Any) -> tuple[Tensor, Tensor]:
    """The specification of :func:`router` in plain PyTorch."""
    return router_topk_reference(functional.linear(x, gate_weight), k, **options)


def router_topk(
    logits: Tensor,
    k: int,
    *,
    score: str = "softmax",
    bias: Tensor | None = None,
    bias_in_weights: bool = True,
    num_groups: int = 1,
    topk_groups: int = 1,
    renormalize: bool = False,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The k best experts of each token, in falling order of score, and their weights; one pass per token in fp32.

    Equal scores are ordered by lower expert index. NaN counts as the largest score, as in torch.sort, so that it
    reaches the weights instead of hiding.

    Args:
        logits: [T, E] float32 or bfloat16, last dimension contiguous.
        k: experts per token, at most E (with groups: at most the experts of topk_groups groups).
        score: "softmax" (LLaDA-MoE) or "sigmoid" (LLaDA2, DeepSeek).
        bias: [E] float32 or bfloat16, added to the scores before the choice.
        bias_in_weights: whether the bias enters the weights too (LLaDA-MoE) or only the choice (LLaDA2, DeepSeek).
        num_groups: > 1 splits the experts into groups of equal size.
        topk_groups: experts are chosen from this many groups, those with the largest sum of their two best scores.
        renormalize: divide the weights by (their sum + 1e-20).
        scale: factor of the weights.

    Returns:
        weights float32 [T, k], experts int32 [T, k].

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device, layout or range.
    """
    op = "router_topk"
    _check.tensor(op, "logits", logits, dtypes=_check.FLOATING, shape=("T", "E"), rows_contiguous=True)
    _check_choice(op, logits.shape[1], k, score, bias, num_groups, topk_groups, logits.device)
    if not runs_natively(logits, op):
        return router_topk_reference(
            logits,
            k,
            score=score,
            bias=bias,
            bias_in_weights=bias_in_weights,
            num_groups=num_groups,
            topk_groups=topk_groups,
            renormalize=renormalize,
            scale=scale,
        )
    weights, experts = differentiable(
        "router_topk", logits, k, score == "sigmoid", bias, bias_in_weights, num_groups, topk_groups, renormalize, scale
    )
    return weights, experts


def router(
    x: Tensor,
    gate_weight: Tensor,
    k: int,
    *,
    score: str = "softmax",
    bias: Tensor | None = None,
    bias_in_weights: bool = True,
    num_groups: int = 1,
    topk_groups: int = 1,
    renormalize: bool = False,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """:func:`router_topk` of x gate_weightᵀ, fused: logits are summed in fp32 and rounded to x's dtype, as published.

    Args:
        x: [T, H] float32 or bfloat16, last dimension contiguous.
        gate_weight: [E, H] of x's dtype, last dimension contiguous.
        k, score, bias, bias_in_weights, num_groups, topk_groups, renormalize, scale: as in :func:`router_topk`.

    Returns:
        weights float32 [T, k], experts int32 [T, k].

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device, layout or range.
    """
    op = "router"
    _check.tensor(op, "x", x, dtypes=_check.FLOATING, shape=("T", "H"), rows_contiguous=True)
    _check.tensor(
        op,
        "gate_weight",
        gate_weight,
        dtypes=(x.dtype,),
        shape=("E", x.shape[1]),
        device=x.device,
        rows_contiguous=True,
    )
    _check_choice(op, gate_weight.shape[0], k, score, bias, num_groups, topk_groups, x.device)
    if not runs_natively(x, op):
        return router_reference(
            x,
            gate_weight,
            k,
            score=score,
            bias=bias,
            bias_in_weights=bias_in_weights,
            num_groups=num_groups,
            topk_groups=topk_groups,
            renormalize=renormalize,
            scale=scale,
        )
    weights, experts = differentiable(
        "router",
        x,
        gate_weight,
        k,
        score == "sigmoid",
        bias,
        bias_in_weights,
        num_groups,
        topk_groups,
        renormalize,
        scale,
    )
    return weights, experts


def _check_choice(
    op: str,
    num_experts: int,
    k: int,
    score: str,
    bias: Tensor | None,
    num_groups: int,
    topk_groups: int,
    device: torch.device,
) -> None:
    if score not in SCORES:
        _check.refuse(op, "score", " or ".join(map(repr, SCORES)), repr(score))
    if not 1 <= k <= num_experts:
        _check.refuse(op, "k", f"within 1 and {num_experts}", k)
    if num_groups < 1 or num_experts % num_groups != 0:
        _check.refuse(op, "num_groups", f"a divisor of {num_experts}", num_groups)
    if not 1 <= topk_groups <= num_groups:
        _check.refuse(op, "topk_groups", f"within 1 and {num_groups}", topk_groups)
    if num_groups > 1 and k > topk_groups * (num_experts // num_groups):
        _check.refuse(op, "k", f"at most the experts of {topk_groups} groups", k)
    if bias is not None:
        _check.tensor(op, "bias", bias, dtypes=_check.FLOATING, shape=(num_experts,), device=device)


def _weights_of(
    logits: Tensor,
    bias: Tensor | None,
    experts: Tensor,
    sigmoid: bool,
    bias_in_weights: bool,
    renormalize: bool,
    scale: float,
) -> Tensor:
    """The weights as a differentiable function once the choice is made."""
    scores = logits.float().sigmoid() if sigmoid else logits.float().softmax(-1)
    if bias is not None and bias_in_weights:
        scores = scores + bias.float()
    weights = scores.gather(-1, experts.long())
    if renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * scale


def _bias_needed(ctx: Any, index: int) -> bool:
    """torch leaves trailing arguments at their defaults out of ``needs_input_grad``."""
    return len(ctx.needs_input_grad) > index and bool(ctx.needs_input_grad[index])


def _setup_topk(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, _, sigmoid, bias, bias_in_weights, _, _, renormalize, scale = inputs
    ctx.options = (sigmoid, bias_in_weights, renormalize, scale)
    ctx.save_for_backward(logits, bias, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward_topk(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    logits, bias, experts = ctx.saved_tensors

    def function(logits: Tensor, bias: Tensor | None) -> Tensor:
        return _weights_of(logits, bias, experts, *ctx.options)

    needed = (ctx.needs_input_grad[0], _bias_needed(ctx, 3))
    grad_logits, grad_bias = reference_gradients(function, (logits, bias), needed, (grad,))
    return grad_logits, None, None, grad_bias, None, None, None, None, None


def _setup_router(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gate_weight, _, sigmoid, bias, bias_in_weights, _, _, renormalize, scale = inputs
    ctx.options = (sigmoid, bias_in_weights, renormalize, scale)
    ctx.save_for_backward(x, gate_weight, bias, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward_router(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, gate_weight, bias, experts = ctx.saved_tensors

    def function(x: Tensor, gate_weight: Tensor, bias: Tensor | None) -> Tensor:
        return _weights_of(functional.linear(x, gate_weight), bias, experts, *ctx.options)

    needed = (*ctx.needs_input_grad[:2], _bias_needed(ctx, 4))
    grad_x, grad_weight, grad_bias = reference_gradients(function, (x, gate_weight, bias), needed, (grad,))
    return grad_x, grad_weight, None, None, grad_bias, None, None, None, None, None


def _new_choice(like: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return like.new_empty(like.shape[0], k, dtype=torch.float32), like.new_empty(like.shape[0], k, dtype=torch.int32)


if native():

    @torch.library.register_fake("llada_moe::router_topk")
    def _router_topk_fake(logits: Tensor, k: int, *options: Any, **named: Any) -> tuple[Tensor, Tensor]:
        return _new_choice(logits, k)

    @torch.library.register_fake("llada_moe::router")
    def _router_fake(x: Tensor, gate_weight: Tensor, k: int, *options: Any, **named: Any) -> tuple[Tensor, Tensor]:
        return _new_choice(x, k)

    torch.library.register_autograd("llada_moe::router_topk", _backward_topk, setup_context=_setup_topk)
    torch.library.register_autograd("llada_moe::router", _backward_router, setup_context=_setup_router)
