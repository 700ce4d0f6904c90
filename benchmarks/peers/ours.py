"""What the peers are measured against: this library's op, and the published model's loop over experts."""

from __future__ import annotations

from llada_moe_ops import ops
from torch import Tensor

from .peer import FORMATS, Peer, Run


def build_ours(gate_up_proj: Tensor, down_proj: Tensor, format: str) -> Run:
    """This library's op on weights packed once."""
    packed = ops.pack_experts(gate_up_proj, down_proj, format=format)
    return lambda x, weights, experts: ops.moe_mlp(x, weights, experts, packed)


def build_loop(gate_up_proj: Tensor, down_proj: Tensor, format: str) -> Run:
    """The loop over experts that the published model runs, in plain PyTorch."""
    return lambda x, weights, experts: ops.moe_mlp_reference(x, weights, experts, gate_up_proj, down_proj)


OURS = Peer("ours", FORMATS, lambda: None, build_ours)
LOOP = Peer("PyTorch loop", ("bf16", "fp32"), lambda: None, build_loop)
