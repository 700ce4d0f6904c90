"""Reference checkpoints, each loaded once."""

from __future__ import annotations

from functools import cache

import torch
from llada_moe_ops import LLaDAMoEModel

from tests.golden import GOLDEN


@cache
def load(name: str, dtype: torch.dtype = torch.float32) -> LLaDAMoEModel:
    """A checkpoint of the reference data."""
    return LLaDAMoEModel.from_pretrained(GOLDEN / name, dtype=dtype)


def random_prompts(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Token ids [rows, length] without special tokens, for a vocabulary of 256."""
    return torch.randint(4, 250, (rows, length), generator=torch.Generator().manual_seed(seed))
