"""Single ops on plain tensors: each with its reference, argument checks, fake kernel and gradient.

The same ops are ``torch.ops.llada_moe.*`` (checked again in C++). On the CPU, and on a GPU that the build serves, they
run the compiled kernels; elsewhere, and without the extension, their references. An op without a CUDA kernel says so
once.
"""

from .attention import attention, attention_reference
from .attention_layer import attention_layer, attention_layer_reference
from .confidence_of_logits import TokenConfidence
from .expert_layer import expert_layer, expert_layer_reference
from .grouped_gemm import grouped_gemm, grouped_gemm_reference, grouped_swiglu, grouped_swiglu_reference
from .gumbel_noise import gumbel_noise
from .int8_experts import Int8Experts, quantize_experts
from .linear import linear, linear_reference
from .moe_mlp import moe_mlp, moe_mlp_reference
from .norm_rope import (
    add_rms_norm,
    add_rms_norm_reference,
    qk_norm_rope,
    qk_norm_rope_reference,
    rms_norm,
    rms_norm_reference,
)
from .packing import PackedExperts, PackedGroups, PackedLinear, pack_experts, pack_grouped, pack_linear
from .permute import (
    expert_order,
    expert_order_reference,
    permute,
    permute_reference,
    unpermute,
    unpermute_reference,
)
from .router_topk import router, router_reference, router_topk, router_topk_reference
from .token_confidence import token_confidence, token_confidence_reference

__all__ = [
    "Int8Experts",
    "PackedExperts",
    "PackedGroups",
    "PackedLinear",
    "TokenConfidence",
    "add_rms_norm",
    "add_rms_norm_reference",
    "attention",
    "attention_layer",
    "attention_layer_reference",
    "attention_reference",
    "expert_layer",
    "expert_layer_reference",
    "expert_order",
    "expert_order_reference",
    "grouped_gemm",
    "grouped_gemm_reference",
    "grouped_swiglu",
    "grouped_swiglu_reference",
    "gumbel_noise",
    "linear",
    "linear_reference",
    "moe_mlp",
    "moe_mlp_reference",
    "pack_experts",
    "pack_grouped",
    "pack_linear",
    "permute",
    "permute_reference",
    "qk_norm_rope",
    "qk_norm_rope_reference",
    "quantize_experts",
    "rms_norm",
    "rms_norm_reference",
    "router",
    "router_reference",
    "router_topk",
    "router_topk_reference",
    "token_confidence",
    "token_confidence_reference",
    "unpermute",
    "unpermute_reference",
]
