"""RMS normalisation, and the per-head normalisation, clip and rotary embedding of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The specification of :func:`rms_norm` in plain PyTorch: round to the input's dtype before the weight."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The specification of :func:`add_rms_norm` in plain PyTorch."""
    total = x + residual
    return rms_norm_reference(total, weight, eps), total


def rope_reference(x: Tensor, positions: Tensor, theta: float, rotary_dim: int) -> Tensor:
    """Rotary embedding of x [B, S, heads, D] at positions [B, S] over the first rotary_dim components.

    Pairs are (i, i + rotary_dim/2); cos and sin are computed in fp32 and cast to x's dtype, as published.
    """
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=x.device) / rotary_dim
    angles = positions.float().unsqueeze(-1) * (1.0 / theta**exponents)
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

    def one(x: Tensor, weight: Tensor | None) -> Tensor:
        if weight is not None:
            x = rms_norm_reference(x, weight, eps)
        if clip is not None:
            x = x.clamp(-clip, clip)
        return rope_reference(x, positions, theta, rotary_dim)

    return one(q, q_weight), one(k, k_weight)
