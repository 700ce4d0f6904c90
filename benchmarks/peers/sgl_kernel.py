"""SGLang's CPU experts, from the copy of them in vLLM's CPU wheel.

Both projects offer them only where the processor has AMX; called directly they also run on AVX-512, and fast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .peer import Peer, Run, int4_per_group, int8_per_channel, nibbles
from .vllm_library import load as available

BF16, INT8, INT4 = 0, 1, 3
GPTQ = 1
# GPTQ stores a zero point less one; 8 is the middle of four bits.
ZERO_POINTS = 0x77777777


def _pack_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, scales and zero points in the kernel's blocks, through GPTQ's layout."""
    values, scales = int4_per_group(weight)
    gptq = nibbles(values.add_(8)).transpose(1, 2).contiguous()
    gptq_scales = scales.transpose(1, 2).contiguous().bfloat16()
    experts, groups, columns = gptq_scales.shape
    zeros = torch.full((experts, groups, columns // 8), ZERO_POINTS, dtype=torch.int32)
    packed, packed_zeros, packed_scales = torch.ops._C.convert_weight_packed_scale_zp(gptq, zeros, gptq_scales, GPTQ)
    return packed, packed_scales, packed_zeros


def build(gate_up_proj: Tensor, down_proj: Tensor, format: str) -> Run:
    """Weights packed once into its blocks; int8 and int4 quantise the activations per token."""
    pack = torch.ops._C.convert_weight_packed
    scales: tuple[Tensor | None, ...] = (None,) * 4
    if format == "int4":
        gate_up, gate_up_scale, gate_up_zero = _pack_int4(gate_up_proj)
        down, down_scale, down_zero = _pack_int4(down_proj)
        method, scales = INT4, (gate_up_scale, down_scale, gate_up_zero, down_zero)
    elif format == "int8":
        (gate_up, gate_up_scale), (down, down_scale) = int8_per_channel(gate_up_proj), int8_per_channel(down_proj)
        method, scales = INT8, (gate_up_scale, down_scale, None, None)
        gate_up, down = pack(gate_up), pack(down)
    else:
        method, gate_up, down = BF16, pack(gate_up_proj), pack(down_proj)
    # activation scale, block size, two biases, alpha and limit of another activation function; packed
    rest = (None, None, None, None, None, None, True)

    def run(x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        y = torch.empty_like(x)
        torch.ops._C.fused_experts_cpu(y, x, gate_up, down, weights, experts.int(), method, *scales, *rest)
        return y

    return run


PEERS = (Peer("sgl-kernel", ("bf16", "int8", "int4"), available, build),)
