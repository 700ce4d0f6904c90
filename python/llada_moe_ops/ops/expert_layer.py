"""The expert half of a layer in one call: norm of the residual stream, router, experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _check
from ._library import native, overload, runs_natively
from .moe_mlp import moe_mlp_reference
from .norm_rope import add_rms_norm_reference
from .packing import PackedExperts, check_format
from .router_topk import router_reference


def expert_layer_reference(
    update: Tensor,
    residual: Tensor,
    norm_weight: Tensor,
    gate_weight: Tensor,
    experts: PackedExperts,
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
    return moe_mlp_reference(rows, weights.to(update.dtype), chosen, experts).view_as(update), total


def expert_layer(
    update: Tensor,
    residual: Tensor,
    norm_weight: Tensor,
    gate_weight: Tensor,
    experts: PackedExperts,
    k: int,
    *,
    eps: float,
    bias: Tensor | None = None,
    renormalize: bool = False,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """:func:`add_rms_norm`, :func:`router` and :func:`moe_mlp` in one call, bit for bit; for inference, no gradient.

    With few tokens what a caller does between these ops takes as long as the small ones of them. Routing weights are
    rounded to update's dtype, as published.

    Args:
        update, residual: [.., H] float32 or bfloat16, contiguous, of one shape and dtype: the residual stream is their
            sum.
        norm_weight: [H] of update's dtype.
        gate_weight: [E, H] of update's dtype, last dimension contiguous.
        experts: E experts packed by :func:`pack_experts`; fp32 and bf16 ones have update's dtype.
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
    if not isinstance(experts, PackedExperts):
        raise TypeError(f"{op}: experts must be PackedExperts, got {type(experts).__name__}")
    check_format(op, "update", update, experts.format, experts.gate_up)
    _check.require(op, "update", hidden == experts.hidden_size, f"[.., {experts.hidden_size}]", list(update.shape))
    count = experts.num_experts
    _check.require(op, "gate_weight", gate_weight.shape[0] == count, f"of {count} experts", gate_weight.shape[0])
    _check.require(op, "k", 1 <= k <= count, f"within 1 and {count}", k)
    _check.require(op, "eps", eps >= 0, "not negative", eps)
    if bias is not None:
        _check.tensor(op, "bias", bias, dtypes=_check.FLOATING, shape=(count,), device=update.device)
    if not runs_natively(update):
        return expert_layer_reference(
            update,
            residual,
            norm_weight,
            gate_weight,
            experts,
            k,
            eps=eps,
            bias=bias,
            renormalize=renormalize,
            scale=scale,
        )
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
