"""vLLM's own CPU experts: the grouped product over vectors that it takes on a processor without AMX."""

from __future__ import annotations

import torch
from torch import Tensor

from .peer import Peer, Run
from .vllm_library import load as available

ISA = "vec"


def build(gate_up_proj: Tensor, down_proj: Tensor, format: str) -> Run:
    """Weights packed once, as vLLM does after loading."""
    gate_up, down = torch.empty_like(gate_up_proj), torch.empty_like(down_proj)
    torch.ops._C.prepack_moe_weight(gate_up_proj, gate_up, ISA)
    torch.ops._C.prepack_moe_weight(down_proj, down, ISA)

    def run(x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        y = torch.empty_like(x)
        torch.ops._C.cpu_fused_moe(y, x, gate_up, down, None, None, weights, experts.int(), False, "silu", ISA)
        return y

    return run


PEERS = (Peer("vllm", ("bf16", "fp32"), available, build),)
