"""A kernel that does nothing but read: the denominator for kernels that stream weights."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8192
STEPS = 8


@triton.jit
def _read(words, sums, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK * STEPS
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(STEPS):
        total += tl.load(words + first + step * BLOCK + tl.arange(0, BLOCK), eviction_policy="evict_first")
    tl.store(sums + tl.program_id(0), tl.sum(total, 0))


def read_all(words: Tensor) -> Tensor:
    """Sums of each 65536 of the words, float32; the words are a multiple of that many."""
    programs = words.numel() // (BLOCK * STEPS)
    sums = torch.empty(programs, dtype=torch.float32, device=words.device)
    _read[(programs,)](words, sums, BLOCK, STEPS, num_warps=8)
    return sums
