"""What surrounds the tokens of a forward pass: their positions, which keys they attend to, and the checks of it all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .config import LLaDAMoEConfig
from .key_value_cache import KeyValueCache


@dataclass(frozen=True)
class KeyMask:
    """Which keys a batch may attend to: a contiguous range per row, or any set of positions."""

    key_range: Tensor | None = None
    mask: Tensor | None = None

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
    ) -> Place:
        """From the checked arguments of a forward pass."""
        if positions is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        length = input_ids.shape[1] if cache is None else cache.length
        return cls(positions, KeyMask.from_attention_mask(attention_mask, length), cache)


def check_inputs(
    config: LLaDAMoEConfig,
    input_ids: object,
    attention_mask: Tensor | None,
    positions: Tensor | None,
    cache: object,
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
    if positions is None and width != length:
        raise ValueError(f"positions must be given unless input_ids fills the cache's {length} positions, got {width}")
    for name, value, wanted in (("attention_mask", attention_mask, length), ("positions", positions, width)):
        if value is not None and value.shape != (batch, wanted):
            raise ValueError(f"{name} must have shape {[batch, wanted]}, got {list(value.shape)}")
    if cache is not None and positions is not None and positions.numel() and int(positions.min()) < 0:
        raise ValueError(f"positions must not be negative, got {int(positions.min())}")
    if input_ids.numel():
        low, high = (int(bound) for bound in torch.aminmax(input_ids))
        if low < 0 or high >= config.vocab_size:
            raise ValueError(f"input_ids must be in [0, {config.vocab_size}), got {low} … {high}")
