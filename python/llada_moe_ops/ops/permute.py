"""Sorting a batch of tokens by expert, and summing the experts' outputs back per token."""

from __future__ import annotations

import torch
from torch import Tensor


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
    return (rows.view(tokens, k, -1) * weights.float().unsqueeze(-1)).sum(1).to(y_sorted.dtype)
