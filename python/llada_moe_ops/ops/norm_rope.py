"""RMS normalisation, and the per-head normalisation, clip and rotary embedding of queries and keys."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from . import _check
from ._autograd import reference_gradients
from ._library import differentiable, native, runs_natively


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The specification of :func:`rms_norm` in plain PyTorch: round to the input's dtype before the weight."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The specification of :func:`add_rms_norm` in plain PyTorch."""
    total = x + residual
    return rms_norm_reference(total, weight, eps), total


def rope_frequencies(theta: float, rotary_dim: int, device: torch.device) -> Tensor:
    """theta^(-2i / rotary_dim), fp32 [rotary_dim / 2], by the published expression: at position 8192 its ulps show."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device) / rotary_dim
    return 1.0 / theta**exponents


def frequencies_for(x: Tensor, theta: float, rotary_dim: int) -> Tensor:
    """:func:`rope_frequencies` on x's device; computed once unless x is being traced."""
    return (_kept_frequencies if _check.has_values(x) else rope_frequencies)(theta, rotary_dim, x.device)


@cache
def _kept_frequencies(theta: float, rotary_dim: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor of inference mode could not be saved for a backward later
        return rope_frequencies(theta, rotary_dim, device)


def _rotate(x: Tensor, positions: Tensor, frequencies: Tensor) -> Tensor:
    """Rotary embedding of x [B, S, heads, D] at positions [B, S] over the first rotary_dim components.

    Pairs are (i, i + rotary_dim/2); cos and sin are computed in fp32 and cast to x's dtype, as published.
    """
    rotary_dim = 2 * frequencies.shape[0]
    angles = positions.float().unsqueeze(-1) * frequencies
    angles = torch.cat([angles, angles], dim=-1).unsqueeze(-2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    rotated, passed = x[..., :rotary_dim], x[..., rotary_dim:]
    first, second = rotated.chunk(2, dim=-1)
    turned = rotated * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned, passed], dim=-1)


def qk_norm_rope_reference(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    positions: Tensor,
    *,
    theta: float,
    rotary_dim: int,
    eps: float,
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The specification of :func:`qk_norm_rope` in plain PyTorch."""
    frequencies = rope_frequencies(theta, rotary_dim, q.device)
    return (
        _norm_clip_rotate(q, q_weight, positions, frequencies, eps, clip),
        _norm_clip_rotate(k, k_weight, positions, frequencies, eps, clip),
    )


def _norm_clip_rotate(
    x: Tensor, weight: Tensor | None, positions: Tensor, frequencies: Tensor, eps: float, clip: float | None
) -> Tensor:
    if weight is not None:
        x = rms_norm_reference(x, weight, eps)
    if clip is not None:
        x = x.clamp(-clip, clip)
    return _rotate(x, positions, frequencies)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) in fp32, rounded to x's dtype, times the weight (arXiv 1910.07467; LLaDA-MoE's order).

    Args:
        x: [.., H] float32 or bfloat16, contiguous.
        weight: [H] of x's dtype.
        eps: added to the mean square, not negative.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device, layout or range.
    """
    _check_norm("rms_norm", x, weight, eps)
    if not runs_natively(x, "rms_norm"):
        return rms_norm_reference(x, weight, eps)
    out: Tensor = differentiable("rms_norm", x, weight, eps)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual); the sum is rounded to the dtype before it is normalised.

    Args:
        x, residual: [.., H] float32 or bfloat16, contiguous, of one shape and dtype.
        weight: [H] of x's dtype.
        eps: added to the mean square, not negative.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device, layout or range.
    """
    _check_norm("add_rms_norm", x, weight, eps)
    _check.tensor(
        "add_rms_norm", "residual", residual, dtypes=(x.dtype,), shape=tuple(x.shape), device=x.device, contiguous=True
    )
    if not runs_natively(x, "add_rms_norm"):
        return add_rms_norm_reference(x, residual, weight, eps)
    out, total = differentiable("add_rms_norm", x, residual, weight, eps)
    return out, total


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    positions: Tensor,
    *,
    theta: float,
    rotary_dim: int,
    eps: float,
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Per-head RMSNorm of q and k, clip to ± ``clip``, rotary embedding (arXiv 2104.09864, halves rotated), one pass.

    Args:
        q: [B, S, Hq, D] float32 or bfloat16; strided views are read in place if D is contiguous.
        k: [B, S, Hk, D] of q's dtype.
        q_weight, k_weight: [D] of q's dtype; None leaves that side unnormalised.
        positions: int32 or int64 [B, S].
        theta: base of the angles position · theta^(-2i / rotary_dim).
        rotary_dim: how many leading components turn: even, at most D.
        eps: of the norm, not negative.
        clip: positive, or None.

    Returns:
        (q, k), contiguous.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device, layout or range.
    """
    op = "qk_norm_rope"
    _check.tensor(op, "q", q, dtypes=_check.FLOATING, shape=("B", "S", "Hq", "D"), rows_contiguous=True)
    batch, length, _, depth = q.shape
    _check.tensor(
        op, "k", k, dtypes=(q.dtype,), shape=(batch, length, "Hk", depth), device=q.device, rows_contiguous=True
    )
    for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        if weight is not None:
            _check.tensor(op, name, weight, dtypes=(q.dtype,), shape=(depth,), device=q.device, contiguous=True)
    _check.tensor(op, "positions", positions, dtypes=_check.INDEX, shape=(batch, length), device=q.device)
    _check.require(op, "q", depth >= 1, "of head size at least 1", depth)
    even = rotary_dim % 2 == 0 and 0 <= rotary_dim <= depth
    _check.require(op, "rotary_dim", even, f"even and within 0 and {depth}", rotary_dim)
    _check.require(op, "theta", theta > 0, "positive", theta)
    _check.require(op, "eps", eps >= 0, "not negative", eps)
    _check.require(op, "clip", clip is None or clip > 0, "positive", clip)
    if not runs_natively(q, op):
        return qk_norm_rope_reference(
            q, k, q_weight, k_weight, positions, theta=theta, rotary_dim=rotary_dim, eps=eps, clip=clip
        )
    frequencies = frequencies_for(q, theta, rotary_dim)
    turned_q, turned_k = differentiable("qk_norm_rope", q, k, q_weight, k_weight, positions, frequencies, eps, clip)
    return turned_q, turned_k


def _check_norm(op: str, x: Tensor, weight: Tensor, eps: float) -> None:
    _check.tensor(op, "x", x, dtypes=_check.FLOATING, contiguous=True)
    _check.require(op, "x", x.dim() >= 1 and x.shape[-1] >= 1, "of a last dimension of at least 1", list(x.shape))
    _check.tensor(op, "weight", weight, dtypes=(x.dtype,), shape=(x.shape[-1],), device=x.device, contiguous=True)
    _check.require(op, "eps", eps >= 0, "not negative", eps)


def _setup_norm(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward_rms_norm(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    def function(x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm_reference(x, weight, ctx.eps)

    return (*reference_gradients(function, ctx.saved_tensors, ctx.needs_input_grad[:2], (grad,)), None)


def _backward_add_rms_norm(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    def function(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return add_rms_norm_reference(x, residual, weight, ctx.eps)

    return (*reference_gradients(function, ctx.saved_tensors, ctx.needs_input_grad[:3], grads), None)


def _setup_rope(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.eps, ctx.clip = inputs
    ctx.save_for_backward(*tensors)


def _backward_rope(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    *differentiable, positions, frequencies = ctx.saved_tensors

    def function(q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None) -> tuple[Tensor, Tensor]:
        return (
            _norm_clip_rotate(q, q_weight, positions, frequencies, ctx.eps, ctx.clip),
            _norm_clip_rotate(k, k_weight, positions, frequencies, ctx.eps, ctx.clip),
        )

    gradients = reference_gradients(function, differentiable, ctx.needs_input_grad[:4], grads)
    return (*gradients, None, None, None, None)


if native():

    @torch.library.register_fake("llada_moe::rms_norm")
    def _rms_norm_fake(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return x.new_empty(x.shape)

    @torch.library.register_fake("llada_moe::add_rms_norm")
    def _add_rms_norm_fake(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape), x.new_empty(x.shape)

    @torch.library.register_fake("llada_moe::qk_norm_rope")
    def _qk_norm_rope_fake(
        q: Tensor,
        k: Tensor,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        positions: Tensor,
        frequencies: Tensor,
        eps: float,
        clip: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        return q.new_empty(q.shape), k.new_empty(k.shape)

    torch.library.register_autograd("llada_moe::rms_norm", _backward_rms_norm, setup_context=_setup_norm)
    torch.library.register_autograd("llada_moe::add_rms_norm", _backward_add_rms_norm, setup_context=_setup_norm)
    torch.library.register_autograd("llada_moe::qk_norm_rope", _backward_rope, setup_context=_setup_rope)
