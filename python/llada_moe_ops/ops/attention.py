"""Bidirectional attention with the masks that diffusion language models use."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attention_mask(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    key_range: Tensor | None,
    cu_seqlens: Tensor | None,
    block_size: int | None,
) -> Tensor | None:
    """All mask options as one boolean tensor, broadcastable to [B, heads, S, L]; None when nothing is masked."""
    queries, keys = q.shape[1], k.shape[1]
    key_positions = torch.arange(keys, device=q.device)
    allowed = mask
    if key_range is not None:
        start, end = key_range[:, :1], key_range[:, 1:]
        inside = ((key_positions >= start) & (key_positions < end))[:, None, None, :]
        allowed = inside if allowed is None else allowed & inside
    if cu_seqlens is not None:
        sequence = torch.bucketize(key_positions, cu_seqlens[1:].long(), right=True)
        same = (sequence[:, None] == sequence[None, :])[None, None]
        allowed = same if allowed is None else allowed & same
    if block_size is not None:
        # Queries are the last positions of the keys when earlier blocks come from a cache (L > S).
        query_positions = torch.arange(keys - queries, keys, device=q.device)
        earlier = (key_positions[None, :] // block_size <= query_positions[:, None] // block_size)[None, None]
        allowed = earlier if allowed is None else allowed & earlier
    return allowed


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    key_range: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    block_size: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """The specification of :func:`attention` in plain PyTorch."""
    repeats = q.shape[2] // k.shape[2]
    query = q.float().transpose(1, 2)
    key = k.float().repeat_interleave(repeats, dim=2).transpose(1, 2)
    value = v.float().repeat_interleave(repeats, dim=2).transpose(1, 2)
    scores = query @ key.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    allowed = attention_mask(q, k, mask, key_range, cu_seqlens, block_size)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
        # A row with no valid key gives zeros: softmax of all −inf would be NaN.
        scores = scores.masked_fill(~allowed.any(-1, keepdim=True), 0.0)
        probabilities = scores.softmax(-1).masked_fill(~allowed, 0.0)
    else:
        probabilities = scores.softmax(-1)
    return (probabilities @ value).transpose(1, 2).to(q.dtype)
