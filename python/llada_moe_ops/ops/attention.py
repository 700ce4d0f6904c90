"""Bidirectional attention with the masks that diffusion language models use."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import _check
from ._autograd import reference_gradients
from ._library import differentiable, native, runs_natively


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


MAX_HEAD_SIZE = 256


def attention(
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
    """softmax(scale · q kᵀ) v per head, bidirectional, with an online softmax in fp32 (FlashAttention, 2205.14135).

    Masks combine: a key counts only where all of them allow it. A row with no key gives zeros. A row's bits depend on
    its own keys only: the same row alone, in a batch, packed, or padded with ``key_range`` gives the same bits. On a
    GPU, bfloat16 and float16 depend on the layout as well, and where L > S, on S.

    Args:
        q: [B, S, Hq, D] float32 or bfloat16, or float16 on a GPU, D at most 256; strided views are read in place if D
            is contiguous.
        k, v: [B, L, Hkv, D] of q's dtype; query head j reads key/value head j // (Hq / Hkv). L may differ from S.
        mask: bool, true = attend, broadcastable to [B, Hq, S, L] (so three dimensions are [heads, S, L]).
        key_range: int32 or int64 [B, 2], each row's first valid key and the one past its last (padding).
        cu_seqlens: int32 or int64 [n + 1], rising from 0 to S: B = 1 holds n packed sequences, and S = L. On a GPU its
            values and those of key_range are not checked: wrong ones give wrong rows.
        block_size: block-causal: a query sees its own block of positions and earlier ones. When L > S the queries are
            the last S positions.
        scale: default 1 / sqrt(D).

    Returns:
        [B, S, Hq, D] of q's dtype, contiguous.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device, layout or range.
    """
    _check_arguments(q, k, v, key_range, cu_seqlens, block_size)
    shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    if mask is not None:
        _check.tensor("attention", "mask", mask, dtypes=(torch.bool,), device=q.device)
        good = mask.dim() <= 4 and all(
            have in (1, want) for have, want in zip(reversed(mask.shape), reversed(shape), strict=False)
        )
        _check.require("attention", "mask", good, f"broadcastable to {list(shape)}", list(mask.shape))
    if not runs_natively(q, "attention"):
        return attention_reference(
            q, k, v, mask=mask, key_range=key_range, cu_seqlens=cu_seqlens, block_size=block_size, scale=scale
        )
    whole_mask = None if mask is None else mask.expand(shape)
    out: Tensor = differentiable("attention", q, k, v, whole_mask, key_range, cu_seqlens, block_size or 0, scale)
    return out


def _check_arguments(
    q: Tensor, k: Tensor, v: Tensor, key_range: Tensor | None, cu_seqlens: Tensor | None, block_size: int | None
) -> None:
    op = "attention"
    _check.tensor(op, "q", q, dtypes=_check.FLOATING, shape=("B", "S", "Hq", "D"), rows_contiguous=True)
    batch, queries, heads, depth = q.shape
    _check.tensor(
        op, "k", k, dtypes=(q.dtype,), shape=(batch, "L", "Hkv", depth), device=q.device, rows_contiguous=True
    )
    _check.tensor(op, "v", v, dtypes=(q.dtype,), shape=tuple(k.shape), device=q.device, rows_contiguous=True)
    keys, key_heads = k.shape[1:3]
    _check.require(op, "q", 1 <= depth <= MAX_HEAD_SIZE, f"of head size 1 to {MAX_HEAD_SIZE}", depth)
    divides = heads % key_heads == 0 if key_heads > 0 else heads == 0
    _check.require(op, "k", divides, f"of a number of heads that divides q's {heads}", key_heads)
    if key_range is not None:
        _check.tensor(op, "key_range", key_range, dtypes=_check.INDEX, shape=(batch, 2), device=q.device)
        _check.index_range(op, "key_range", key_range, keys)
    if cu_seqlens is not None:
        _check.tensor(op, "cu_seqlens", cu_seqlens, dtypes=_check.INDEX, shape=("n + 1",), device=q.device)
        _check.require(op, "q", batch == 1, "of batch size 1 with cu_seqlens", batch)
        _check.require(op, "k", keys == queries, f"as long as q ({queries}) with cu_seqlens", keys)
        _check.require(op, "cu_seqlens", cu_seqlens.shape[0] >= 1, "of at least one entry", "none")
        if _check.has_values(cu_seqlens) and cu_seqlens.device.type == "cpu":  # a GPU's are not waited for
            ends = cu_seqlens.tolist()
            rising = ends[0] == 0 and ends[-1] == queries and ends == sorted(ends)
            _check.require(op, "cu_seqlens", rising, f"rising from 0 to {queries}", ends)
    if block_size is not None:
        _check.require(op, "block_size", block_size >= 1, "at least 1", block_size)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.block_size, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, mask, key_range, cu_seqlens = ctx.saved_tensors

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention_reference(
            q,
            k,
            v,
            mask=mask,
            key_range=key_range,
            cu_seqlens=cu_seqlens,
            block_size=ctx.block_size or None,
            scale=ctx.scale,
        )

    return (*reference_gradients(function, (q, k, v), ctx.needs_input_grad[:3], (grad,)), None, None, None, None, None)


if native():

    @torch.library.register_fake("llada_moe::attention")
    def _attention_fake(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        key_range: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        block_size: int = 0,
        scale: float | None = None,
    ) -> Tensor:
        return q.new_empty(q.shape)

    torch.library.register_autograd("llada_moe::attention", _backward, setup_context=_setup)
