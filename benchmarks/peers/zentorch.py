"""zentorch: AMD's extension of PyTorch, whose fused experts are among the two fastest on a processor without AMX."""

from __future__ import annotations

import torch
from torch import Tensor

from .peer import Peer, Run, importable, int4_per_group, int8_per_channel, nibbles


def available() -> str | None:
    """None, or why zentorch is missing."""
    return importable("zentorch") or (
        None if hasattr(torch.ops.zentorch, "zentorch_fused_moe") else "this zentorch has no fused experts"
    )


def build(gate_up_proj: Tensor, down_proj: Tensor, format: str) -> Run:
    """Its fused experts; the first call reorders the weights, in bf16 in place, so they are copied here."""
    scales: tuple[Tensor | None, Tensor | None] = (None, None)
    if format == "int8":
        (gate_up, gate_up_scale), (down, down_scale) = int8_per_channel(gate_up_proj), int8_per_channel(down_proj)
        scales = (gate_up_scale, down_scale)
    elif format == "int4":
        (gate_up, gate_up_scale), (down, down_scale) = int4_per_group(gate_up_proj), int4_per_group(down_proj)
        gate_up, down = nibbles(gate_up), nibbles(down)
        scales = (gate_up_scale.transpose(1, 2).contiguous(), down_scale.transpose(1, 2).contiguous())
    else:
        gate_up, down = gate_up_proj.clone(), down_proj.clone()

    def run(x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        y = torch.empty_like(x)
        torch.ops.zentorch.zentorch_fused_moe(
            y, x, gate_up, down, None, None, weights, experts.int(), False, "silu", *scales
        )
        return y

    return run


def release() -> None:
    """Its packed copies are found again by address, which the next layer's weights may have."""
    torch.ops.zentorch.zentorch_flush_moe_weight_cache()


PEERS = (Peer("zentorch", ("bf16", "fp32", "int8", "int4"), available, build, release=release),)
