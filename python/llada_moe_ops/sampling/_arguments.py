"""Checks of the sampler's arguments: one wording, each message naming the argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..model import LLaDAMoEConfig, LLaDAMoEModel

TokenIds = Tensor | Sequence[Sequence[int]]


def require(good: bool, name: str, expected: str, got: object) -> None:
    """Raise ValueError, in the common wording, unless ``good``."""
    if not good:
        raise ValueError(f"{name} must be {expected}, got {got}")


def integer(name: str, value: object, smallest: int) -> int:
    """A whole number of at least ``smallest``.

    Raises:
        TypeError: not an int. ValueError: too small.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    require(value >= smallest, name, f"at least {smallest}", value)
    return value


def non_negative(name: str, value: float) -> float:
    """A finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    require(0 <= value < float("inf"), name, "finite and not negative", value)
    return float(value)


def positive(name: str, value: float) -> float:
    """A finite number above 0."""
    require(non_negative(name, value) > 0, name, "above 0", value)
    return float(value)


def fraction(name: str, value: float) -> float:
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    require(0 <= value <= 1, name, "from 0 to 1", value)
    return float(value)


def share(name: str, value: float) -> float:
    """A number above 0 and at most 1."""
    require(fraction(name, value) > 0, name, "above 0", value)
    return float(value)


def token_id(name: str, value: int, vocab_size: int) -> int:
    """One token id of the vocabulary."""
    integer(name, value, 0)
    require(value < vocab_size, name, f"a token id below vocab_size {vocab_size}", value)
    return value


def find_mask_token_id(mask_token_id: int | None, config: LLaDAMoEConfig) -> int:
    """The caller's mask id, else the config's."""
    found = config.mask_token_id if mask_token_id is None else mask_token_id
    if found is None:
        raise ValueError("mask_token_id must be given: the checkpoint's config.json does not carry it")
    return token_id("mask_token_id", found, config.vocab_size)


def token_ids(name: str, value: TokenIds, model: LLaDAMoEModel) -> tuple[Tensor, Tensor | None]:
    """Token ids as int64 [B, L] on the model's device, and which of them are real (None: all).

    Lists of different lengths are padded on the left.

    Raises:
        TypeError: not integers. ValueError: wrong rank, or an id outside the vocabulary.
    """
    real = None
    if isinstance(value, Tensor):
        if value.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name} must be int32 or int64, got {str(value.dtype).removeprefix('torch.')}")
        require(value.dim() == 2, name, "of shape [B, L]", f"shape {list(value.shape)}")
        ids = value.to(model.device, torch.int64)
    else:
        rows = _rows(name, value)
        longest = max(map(len, rows), default=0)
        padding = model.config.pad_token_id or 0
        ids = torch.tensor([[padding] * (longest - len(row)) + row for row in rows], dtype=torch.int64)
        ids = ids.view(len(rows), longest).to(model.device)
        if any(len(row) < longest for row in rows):
            starts = torch.tensor([longest - len(row) for row in rows], device=model.device)
            real = torch.arange(longest, device=model.device) >= starts[:, None]
    vocab_size = model.config.vocab_size
    if ids.numel():
        low, high = int(ids.min()), int(ids.max())
        require(low >= 0 and high < vocab_size, name, f"token ids in [0, {vocab_size})", low if low < 0 else high)
    return ids, real


def _rows(name: str, value: Sequence[Sequence[int]]) -> list[list[int]]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a tensor or a list of lists of token ids, got {type(value).__name__}")
    rows = []
    for row in value:
        if not isinstance(row, Sequence) or isinstance(row, (str, bytes)):
            raise TypeError(f"{name} must hold one list of token ids per row, got {type(row).__name__}")
        for item in row:
            if isinstance(item, bool) or not isinstance(item, int):
                raise TypeError(f"{name} must hold ints, got {type(item).__name__}")
        rows.append(list(row))
    return rows


def real_tokens(attention_mask: Tensor | None, ids: Tensor, known: Tensor | None, name: str) -> Tensor | None:
    """Which of ``ids`` [B, L] are real, bool: from the caller's mask, else from list padding; one run per row."""
    if attention_mask is None:
        return known
    if not isinstance(attention_mask, Tensor):
        raise TypeError(f"attention_mask must be a torch.Tensor, got {type(attention_mask).__name__}")
    require(
        attention_mask.shape == ids.shape,
        "attention_mask",
        f"of the shape of {name} {list(ids.shape)}",
        f"shape {list(attention_mask.shape)}",
    )
    real = attention_mask.to(ids.device).bool()
    edges = real.int().diff(dim=1, prepend=real.new_zeros(len(real), 1).int()).clamp(min=0).sum(1)
    require(bool((edges <= 1).all()), "attention_mask", "one run of ones in each row", "gaps between them")
    return real


def seeds(seed: int | Sequence[int] | None, batch: int) -> list[int]:
    """One seed per row; None draws one from torch's global generator."""
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    if isinstance(seed, int) and not isinstance(seed, bool):
        return [seed] * batch
    if isinstance(seed, Sequence) and not isinstance(seed, (str, bytes)):
        require(len(seed) == batch, "seed", f"an int or one per row ({batch})", f"{len(seed)} of them")
        return [integer("seed", one, -(2**63)) for one in seed]
    raise TypeError(f"seed must be an int, a list of them or None, got {type(seed).__name__}")
