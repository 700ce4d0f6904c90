"""The attention half of a layer in one call: norm of the residual stream, projections, rotary embedding, attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _check
from ._library import native, overload, runs_natively
from .attention import MAX_HEAD_SIZE, attention, attention_reference
from .linear import linear, linear_reference
from .norm_rope import (
    add_rms_norm,
    add_rms_norm_reference,
    frequencies_for,
    qk_norm_rope,
    qk_norm_rope_reference,
    rms_norm,
    rms_norm_reference,
)
from .packing import PackedLinear, check_format


def attention_layer_reference(
    update: Tensor | None,
    residual: Tensor,
    norm_weight: Tensor,
    qkv: PackedLinear | Tensor,
    out: PackedLinear | Tensor,
    positions: Tensor,
    *,
    heads: int,
    key_heads: int,
    theta: float,
    rotary_dim: int,
    eps: float,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    qkv_bias: Tensor | None = None,
    out_bias: Tensor | None = None,
    cache: Tensor | None = None,
    key_range: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The specification of :func:`attention_layer` in plain PyTorch."""
    if update is None:
        normed, total = rms_norm_reference(residual, norm_weight, eps), residual
    else:
        normed, total = add_rms_norm_reference(update, residual, norm_weight, eps)
    size = _head_size(qkv, heads, key_heads)
    q, k, v = linear_reference(normed, qkv, qkv_bias).unflatten(-1, (-1, size)).split([heads, key_heads, key_heads], 2)
    q, k = qk_norm_rope_reference(q, k, q_weight, k_weight, positions, theta=theta, rotary_dim=rotary_dim, eps=eps)
    if cache is not None:
        row, token = (positions < cache.shape[2]).nonzero(as_tuple=True)
        for stored, new in zip(cache, (k, v), strict=True):
            stored[row, positions[row, token].long()] = new[row, token]
        k, v = cache
    attended = attention_reference(q, k, v, key_range=key_range)
    return linear_reference(attended.flatten(2), out, out_bias), total


def attention_layer(
    update: Tensor | None,
    residual: Tensor,
    norm_weight: Tensor,
    qkv: PackedLinear | Tensor,
    out: PackedLinear | Tensor,
    positions: Tensor,
    *,
    heads: int,
    key_heads: int,
    theta: float,
    rotary_dim: int,
    eps: float,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    qkv_bias: Tensor | None = None,
    out_bias: Tensor | None = None,
    cache: Tensor | None = None,
    key_range: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`add_rms_norm`, :func:`linear`, :func:`qk_norm_rope`, :func:`attention` and :func:`linear` in one call.

    Bit for bit those ops, for inference: no gradient. With few tokens what a caller does between them takes as long as
    the small ones of them: on the CPU, with packed weights, this is one op. Else it makes those calls.

    Args:
        update, residual: [B, S, H] float32 or bfloat16, contiguous, of one dtype: the residual stream is their sum.
            Without an update it is the residual.
        norm_weight: [H] of residual's dtype.
        qkv: [(heads + 2 · key_heads) · D, H], the rows of q, of k and of v: of residual's dtype, or packed by
            :func:`pack_linear`; packed fp32 and bf16 ones have residual's dtype.
        out: [H, heads · D], likewise.
        positions: int32 or int64 [B, S].
        heads, key_heads: of q, and of k and v; the second divides the first.
        theta, rotary_dim: as in :func:`qk_norm_rope`.
        eps: of all norms, not negative.
        q_weight, k_weight: [D] of residual's dtype; None leaves that side unnormalised.
        qkv_bias, out_bias: [(heads + 2 · key_heads) · D] and [H] of residual's dtype.
        cache: [2, B, L, key_heads, D] of residual's dtype, last dimension contiguous: keys and values. Those of these
            tokens are stored at ``positions`` (not negative; those from L on nowhere), then all L are attended to.
        key_range: int32 or int64 [B, 2], each row's first valid key and the one past its last.

    Returns:
        (what attention adds to the stream, update + residual), both [B, S, H].

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a wrong shape, device, layout or range.
    """
    op = "attention_layer"
    _check.tensor(op, "residual", residual, dtypes=_check.FLOATING, shape=("B", "S", "H"), contiguous=True)
    batch, length, hidden = residual.shape
    like: dict[str, Any] = {"dtypes": (residual.dtype,), "device": residual.device, "contiguous": True}
    index: dict[str, Any] = {"dtypes": _check.INDEX, "device": residual.device}
    if update is not None:
        _check.tensor(op, "update", update, shape=(batch, length, hidden), **like)
    _check.tensor(op, "norm_weight", norm_weight, shape=(hidden,), **like)
    _check.require(op, "key_heads", key_heads >= 1, "at least 1", key_heads)
    _check.require(op, "heads", heads >= 1 and heads % key_heads == 0, f"a multiple of {key_heads}", heads)
    for name, projection in (("qkv", qkv), ("out", out)):
        if isinstance(projection, PackedLinear):
            check_format(op, "residual", residual, projection.format, projection.panels)
        elif isinstance(projection, Tensor):
            _check.tensor(op, name, projection, shape=("N", "K"), **like)
        else:
            raise TypeError(f"{op}: {name} must be a tensor or a PackedLinear, got {type(projection).__name__}")
    size = _head_size(qkv, heads, key_heads)
    _check.require(op, "qkv", 1 <= size <= MAX_HEAD_SIZE, f"of head size 1 to {MAX_HEAD_SIZE}", size)
    for name, projection, rows, columns in (
        ("qkv", qkv, (heads + 2 * key_heads) * size, hidden),
        ("out", out, hidden, heads * size),
    ):
        have = _sizes(projection)
        _check.require(op, name, have == [rows, columns], str([rows, columns]), have)
    for name, value, entries in (
        ("q_weight", q_weight, size),
        ("k_weight", k_weight, size),
        ("qkv_bias", qkv_bias, _sizes(qkv)[0]),
        ("out_bias", out_bias, hidden),
    ):
        if value is not None:
            _check.tensor(op, name, value, shape=(entries,), **like)
    _check.tensor(op, "positions", positions, shape=(batch, length), **index)
    even = rotary_dim % 2 == 0 and 0 <= rotary_dim <= size
    _check.require(op, "rotary_dim", even, f"even and within 0 and {size}", rotary_dim)
    _check.require(op, "theta", theta > 0, "positive", theta)
    _check.require(op, "eps", eps >= 0, "not negative", eps)
    if cache is not None:
        _check.tensor(
            op,
            "cache",
            cache,
            dtypes=(residual.dtype,),
            shape=(2, batch, "L", key_heads, size),
            device=residual.device,
            rows_contiguous=True,
        )
        if _check.has_values(positions) and positions.device.type == "cpu":
            lowest = int(positions.min())
            _check.require(op, "positions", lowest >= 0, "not negative with a cache", lowest)
    if key_range is not None:
        _check.tensor(op, "key_range", key_range, shape=(batch, 2), **index)
        _check.index_range(op, "key_range", key_range, length if cache is None else cache.shape[2])
    sizes: dict[str, Any] = {
        "heads": heads,
        "key_heads": key_heads,
        "theta": theta,
        "rotary_dim": rotary_dim,
        "eps": eps,
    }
    biases: dict[str, Any] = {"q_weight": q_weight, "k_weight": k_weight, "qkv_bias": qkv_bias, "out_bias": out_bias}
    places: dict[str, Any] = {"cache": cache, "key_range": key_range}
    if not isinstance(qkv, PackedLinear) or not isinstance(out, PackedLinear) or residual.is_cuda:
        return _op_by_op(update, residual, norm_weight, qkv, out, positions, **sizes, **biases, **places)
    if not runs_natively(residual):
        return attention_layer_reference(
            update, residual, norm_weight, qkv, out, positions, **sizes, **biases, **places
        )
    attended, total = overload("attention_layer")(
        update,
        residual,
        norm_weight,
        eps,
        qkv.panels,
        qkv_bias,
        out.panels,
        out_bias,
        heads,
        key_heads,
        size,
        q_weight,
        k_weight,
        positions,
        frequencies_for(residual, theta, rotary_dim),
        cache,
        key_range,
    )
    return attended, residual if update is None else total


@torch.no_grad()
def _op_by_op(
    update: Tensor | None,
    residual: Tensor,
    norm_weight: Tensor,
    qkv: PackedLinear | Tensor,
    out: PackedLinear | Tensor,
    positions: Tensor,
    *,
    heads: int,
    key_heads: int,
    theta: float,
    rotary_dim: int,
    eps: float,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    qkv_bias: Tensor | None,
    out_bias: Tensor | None,
    cache: Tensor | None,
    key_range: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if update is None:
        normed, total = rms_norm(residual, norm_weight, eps), residual
    else:
        normed, total = add_rms_norm(update, residual, norm_weight, eps)
    heads_of = linear(normed, qkv, qkv_bias).unflatten(-1, (-1, _head_size(qkv, heads, key_heads)))
    q, k, v = heads_of.split([heads, key_heads, key_heads], 2)
    q, k = qk_norm_rope(q, k, q_weight, k_weight, positions, theta=theta, rotary_dim=rotary_dim, eps=eps)
    if cache is not None:
        for stored, new in zip(cache, (k, v), strict=True):
            _store(stored, new, positions)
        k, v = cache
    return linear(attention(q, k, v, key_range=key_range).flatten(2), out, out_bias), total


def _store(stored: Tensor, new: Tensor, positions: Tensor) -> None:
    """stored[b, positions[b, s]] = new[b, s], those past the end nowhere; found from the other side, by which token a
    place takes, since leaving some out would make the host wait for a GPU."""
    places = torch.arange(stored.shape[1], device=stored.device)
    taken = positions[:, None, :] == places[:, None]  # [B, L, S]
    rows = torch.arange(stored.shape[0], device=stored.device)[:, None]
    if positions.shape[1]:
        stored.copy_(torch.where(taken.any(-1)[..., None, None], new[rows, taken.int().argmax(-1)], stored))


def _sizes(projection: PackedLinear | Tensor) -> list[int]:
    if isinstance(projection, PackedLinear):
        return [projection.out_features, projection.in_features]
    return list(projection.shape)


def _head_size(qkv: PackedLinear | Tensor, heads: int, key_heads: int) -> int:
    return _sizes(qkv)[0] // (heads + 2 * key_heads)


if native():

    @torch.library.register_fake("llada_moe::attention_layer")
    def _attention_layer_fake(
        update: Tensor | None, residual: Tensor, *options: Any, **named: Any
    ) -> tuple[Tensor, Tensor]:
        return residual.new_empty(residual.shape), residual.new_empty(0 if update is None else residual.shape)
