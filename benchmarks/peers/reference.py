"""What every peer is compared with: the op's specification, a few experts at a time to spare memory."""

from __future__ import annotations

import torch
from llada_moe_ops import ops
from torch import Tensor

CHUNK = 8


def reference(
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`moe_mlp_reference` on copies of the arguments in dtype; experts outside the chunk at hand are "not mine"."""
    total = torch.zeros(x.shape, dtype=dtype)
    for start in range(0, down_proj.shape[0], CHUNK):
        chunk = slice(start, start + CHUNK)
        gate_up, down = gate_up_proj[chunk].to(dtype), down_proj[chunk].to(dtype)
        inside = (experts >= start) & (experts < start + down.shape[0])
        mine = torch.where(inside, experts - start, down.shape[0])
        total += ops.moe_mlp_reference(x.to(dtype), weights.to(dtype), mine, gate_up, down)
    return total


def relative_error(y: Tensor, expected: Tensor) -> float:
    """‖y − expected‖ ÷ ‖expected‖."""
    return float((y.to(expected.dtype) - expected).norm() / expected.norm())
