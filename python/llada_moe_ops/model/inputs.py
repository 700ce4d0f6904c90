"""What surrounds the tokens of a forward pass: their positions, which keys they attend to, and the checks of it all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import ops
from .config import LLaDAMoEConfig
from .key_value_cache import KeyValueCache


@dataclass(frozen=True)
class KeyMask:
    """Which keys a batch may attend to: a contiguous range per row, or any set of positions.

    With a ``block_size`` besides only those of a query's own block of positions and of earlier ones. ``block_ranges``
    are then the key ranges of each block of the queries; without them the queries are the canvas's first positions.
    """

    key_range: Tensor | None = None
    mask: Tensor | None = None
    block_size: int | None = None
    block_ranges: tuple[Tensor, ...] = ()

    @classmethod
    def from_attention_mask(cls, attention_mask: Tensor | None, length: int) -> KeyMask:
        """From [B, L] with 1 (or True) at real tokens; no mask when every token is real."""
        if attention_mask is None:
            return cls()
        real = attention_mask.bool()
        if bool(real.all()):
            return cls()
        counts = real.sum(1)
        start = real.int().argmax(1)
        positions = torch.arange(length, device=real.device)
        end = start + counts
        contiguous = ((positions >= start[:, None]) & (positions < end[:, None])) == real
        if bool(contiguous.all()):
            return cls(key_range=torch.stack([start, end], dim=1).to(torch.int32))
        return cls(mask=real[:, None, None, :])

    def in_blocks(self, size: int, positions: Tensor | None, length: int) -> KeyMask:
        """Block-causal as well, for the canvas's first positions, or for whole blocks at ``positions`` [B, W]."""
        if positions is None:
            return replace(self, block_size=size)
        ends = (positions[:, ::size] + size).clamp(max=length)
        starts = torch.zeros_like(ends)
        if self.key_range is not None:
            starts = starts + self.key_range[:, :1]
            ends = torch.maximum(torch.minimum(ends, self.key_range[:, 1:]), starts)
        return replace(self, block_size=size, block_ranges=torch.stack([starts, ends], dim=2).unbind(1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q [B, W, Hq, D] on k and v [B, L, Hkv, D] under this mask, [B, W, Hq, D]."""
        if self.block_size is None:
            return ops.attention(q, k, v, mask=self.mask, key_range=self.key_range)
        if self.block_ranges:
            blocks = zip(q.split(self.block_size, dim=1), self.block_ranges, strict=True)
            return torch.cat([ops.attention(block, k, v, mask=self.mask, key_range=keys) for block, keys in blocks], 1)
        width = q.shape[1]
        return ops.attention(
            q,
            k[:, :width],
            v[:, :width],
            mask=None if self.mask is None else self.mask[..., :width],
            key_range=None if self.key_range is None else self.key_range.clamp(max=width),
            block_size=self.block_size,
        )


@dataclass(frozen=True)
class Place:
    """Where the tokens of a pass stand: their positions [B, W], the keys they attend to, the cache that holds them."""

    positions: Tensor
    keys: KeyMask
    cache: KeyValueCache | None

    @classmethod
    def build(
        cls,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        positions: Tensor | None,
        cache: KeyValueCache | None,
        block_size: int | None = None,
    ) -> Place:
        """From the checked arguments of a forward pass."""
        length = input_ids.shape[1] if cache is None else cache.length
        keys = KeyMask.from_attention_mask(attention_mask, length)
        if block_size is not None:
            keys = keys.in_blocks(block_size, None if cache is None else positions, length)
        if positions is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return cls(positions, keys, cache)


def check_inputs(
    config: LLaDAMoEConfig,
    input_ids: object,
    attention_mask: Tensor | None,
    positions: Tensor | None,
    cache: object,
    block_size: int | None = None,
    added: Tensor | None = None,
    wanted: Tensor | None = None,
) -> None:
    """Check the arguments of a forward pass.

    Raises:
        TypeError, ValueError: an argument of the wrong dtype, shape or range; the message names it.
    """
    if not isinstance(input_ids, Tensor) or input_ids.dtype not in (torch.int32, torch.int64):
        kind = input_ids.dtype if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise TypeError(f"input_ids must be an integer tensor, got {kind}")
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids must have shape [B, L], got {list(input_ids.shape)}")
    if input_ids.shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"input_ids must have at most max_position_embeddings {config.max_position_embeddings} positions, "
            f"got {input_ids.shape[1]}"
        )
    batch, width = input_ids.shape
    if cache is not None and not isinstance(cache, KeyValueCache):
        raise TypeError(f"cache must be a KeyValueCache or None, got {type(cache).__name__}")
    if cache is not None and cache.batch != batch:
        raise ValueError(f"cache must hold as many rows as input_ids, {batch}, got {cache.batch}")
    length = width if cache is None else cache.length
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    if positions is None and width != length and (block_size is None or width > length):
        raise ValueError(f"positions must be given unless input_ids fills the cache's {length} positions, got {width}")
    for name, value, columns in (("attention_mask", attention_mask, length), ("positions", positions, width)):
        if value is not None and value.shape != (batch, columns):
            raise ValueError(f"{name} must have shape {[batch, columns]}, got {list(value.shape)}")
    if cache is not None and positions is not None and positions.numel():
        if int(positions.min()) < 0:
            raise ValueError(f"positions must not be negative, got {int(positions.min())}")
        if block_size is not None and not _whole_blocks(positions, block_size):
            raise ValueError(f"positions must be a run of whole blocks of block_size {block_size} in each row")
    if added is not None:
        if added.dtype != torch.float32:
            raise TypeError(f"added must be float32, got {str(added.dtype).removeprefix('torch.')}")
        if added.shape != (batch, width, config.hidden_size):
            raise ValueError(f"added must have shape {[batch, width, config.hidden_size]}, got {list(added.shape)}")
    if input_ids.numel():
        low, high = (int(bound) for bound in torch.aminmax(input_ids))
        if low < 0 or high >= config.vocab_size:
            raise ValueError(f"input_ids must be in [0, {config.vocab_size}), got {low} … {high}")
    if wanted is not None:
        _check_wanted(wanted, batch * width)


def _check_wanted(wanted: Tensor, places: int) -> None:
    if wanted.dtype != torch.int64:
        raise TypeError(f"wanted must be int64, got {str(wanted.dtype).removeprefix('torch.')}")
    if wanted.dim() != 1:
        raise ValueError(f"wanted must have shape [R], got {list(wanted.shape)}")
    if wanted.numel():
        low, high = (int(bound) for bound in torch.aminmax(wanted))
        if low < 0 or high >= places:
            raise ValueError(f"wanted must be in [0, {places}), got {low} … {high}")


def _whole_blocks(positions: Tensor, size: int) -> bool:
    starts, width = positions[:, :1], positions.shape[1]
    run = starts + torch.arange(width, device=positions.device)
    return width % size == 0 and bool((starts % size == 0).all() & (positions == run).all())
