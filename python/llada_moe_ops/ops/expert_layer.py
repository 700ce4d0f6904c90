"""The expert half of a layer in one call: norm of the residual stream, router, experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _check
from ._library import native, overload, runs_natively
from .moe_mlp import moe_mlp, moe_mlp_reference
from .norm_rope import add_rms_norm, add_rms_norm_reference
from .packing import PackedExperts, check_format
from .router_topk import router, router_reference

Experts = PackedExperts | tuple[Tensor, Tensor]


def expert_layer_reference(
    update: Tensor,
    residual: Tensor,
    norm_weight: Tensor,
    gate_weight: Tensor,
    experts: Experts,
    k: int,
    *,
    eps: float,
    bias: Tensor | None = None,
    renormalize: bool = False,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The specification of :func:`expert_layer` in plain PyTorch."""
    normed, total = add_rms_norm_reference(update, residual, norm_weight, eps)
    rows = normed.view(-1, update.shape[-1])
    weights, chosen = router_reference(rows, gate_weight, k, bias=bias, renormalize=renormalize, scale=scale)
    return moe_mlp_reference(rows, weights.to(update.dtype), chosen, *_weights(experts)).view_as(update), total


def _weights(experts: Experts) -> tuple[Any, ...]:
    return (experts,) if isinstance(experts, PackedExperts) else experts


def expert_layer(
    update: Tensor,
    residual: Tensor,
    norm_weight: Tensor,
    gate_weight: Tensor,
    experts: Experts,
    k: int,
    *,
    eps: float,
    bias: Tensor | None = None,
    renormalize: bool = False,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """:func:`add_rms_norm`, :func:`router` and :func:`moe_mlp` in one call, bit for bit; for inference, no gradient.

    With few tokens what a caller does between these ops takes as long as the small ones of them: on the CPU, with
    packed weights, this is one op. Else it makes those calls. Routing weights are rounded to update's dtype, as
    published.

    Args:
        update, residual: [.., H] float32 or bfloat16, contiguous, of one shape and dtype: the residual stream is their
            sum.
        norm_weight: [H] of update's dtype.
        gate_weight: [E, H] of update's dtype, last dimension contiguous.
        experts: E experts packed by :func:`pack_experts`, fp32 and bf16 ones of update's dtype; or (gate_up_proj,
            down_proj) as in :func:`moe_mlp`.
        k: experts per token, at most E.
        eps: of the norm, not negative.
        bias, renormalize, scale: as in :func:`router_topk`.

    Returns:
        (what the experts add to the stream, update + residual), both [.., H].

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device, layout or range.
    """
    op = "expert_layer"
    _check.tensor(op, "update", update, dtypes=_check.FLOATING, contiguous=True)
    _check.require(op, "update", update.dim() >= 1 and update.shape[-1] >= 1, "[.., H]", list(update.shape))
    hidden = update.shape[-1]
    like: dict[str, Any] = {"dtypes": (update.dtype,), "device": update.device}
    _check.tensor(op, "residual", residual, shape=tuple(update.shape), contiguous=True, **like)
    _check.tensor(op, "norm_weight", norm_weight, shape=(hidden,), contiguous=True, **like)
    _check.tensor(op, "gate_weight", gate_weight, shape=("E", hidden), rows_contiguous=True, **like)
    if isinstance(experts, PackedExperts):
        check_format(op, "update", update, experts.format, experts.gate_up)
        good = hidden == experts.hidden_size
        _check.require(op, "update", good, f"[.., {experts.hidden_size}]", list(update.shape))
        count = experts.num_experts
    elif isinstance(experts, tuple) and len(experts) == 2 and all(isinstance(part, Tensor) for part in experts):
        count = experts[1].shape[0]
    else:
        raise TypeError(f"{op}: experts must be PackedExperts or two tensors, got {type(experts).__name__}")
    _check.require(op, "gate_weight", gate_weight.shape[0] == count, f"of {count} experts", gate_weight.shape[0])
    _check.require(op, "k", 1 <= k <= count, f"within 1 and {count}", k)
    _check.require(op, "eps", eps >= 0, "not negative", eps)
    if bias is not None:
        _check.tensor(op, "bias", bias, dtypes=_check.FLOATING, shape=(count,), device=update.device)
    options: dict[str, Any] = {"bias": bias, "renormalize": renormalize, "scale": scale}
    if not isinstance(experts, PackedExperts) or update.is_cuda:
        with torch.no_grad():
            normed, total = add_rms_norm(update, residual, norm_weight, eps)
            rows = normed.view(-1, hidden)
            weights, chosen = router(rows, gate_weight, k, **options)
            return moe_mlp(rows, weights.to(update.dtype), chosen, *_weights(experts)).view_as(update), total
    if not runs_natively(update):
        return expert_layer_reference(update, residual, norm_weight, gate_weight, experts, k, eps=eps, **options)
    out, total = overload("expert_layer")(
        update,
        residual,
        norm_weight,
        eps,
        gate_weight,
        bias,
        k,
        renormalize,
        scale,
        experts.gate_up,
        experts.down,
        experts.intermediate_size,
    )
    return out, total


if native():

    @torch.library.register_fake("llada_moe::expert_layer")
    def _expert_layer_fake(update: Tensor, *options: Any, **named: Any) -> tuple[Tensor, Tensor]:
        return update.new_empty(update.shape), update.new_empty(update.shape)
