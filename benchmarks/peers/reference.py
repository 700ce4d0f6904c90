"""What every peer is compared with: the op's specification in fp32, a few experts at a time to spare memory."""

from __future__ import annotations

import torch
from llada_moe_ops import ops
from torch import Tensor

CHUNK = 8


def reference(x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
    """`moe_mlp_reference` on fp32 copies of the arguments; experts outside the chunk at hand are "not mine"."""
    total = torch.zeros(x.shape)
    for start in range(0, down_proj.shape[0], CHUNK):
        chunk = slice(start, start + CHUNK)
        gate_up, down = gate_up_proj[chunk].float(), down_proj[chunk].float()
        inside = (experts >= start) & (experts < start + down.shape[0])
        mine = torch.where(inside, experts - start, down.shape[0])
        total += ops.moe_mlp_reference(x.float(), weights, mine, gate_up, down)
    return total


def relative_error(y: Tensor, expected: Tensor) -> float:
    """‖y − expected‖ ÷ ‖expected‖."""
    return float((y.float() - expected).norm() / expected.norm())
