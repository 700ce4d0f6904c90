"""The whole expert layer: gather, gate/up product, SwiGLU, down product, weighted sum (arXiv 2509.24389 section 2)."""

from __future__ import annotations

from torch import Tensor

from .grouped_gemm import grouped_gemm_reference, grouped_swiglu_reference
from .permute import expert_order_reference, permute_reference, unpermute_reference


def moe_mlp_reference(x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
    """The specification of :func:`moe_mlp` in plain PyTorch. Expert index E means "not mine" and adds nothing."""
    order, offsets = expert_order_reference(experts, gate_up_proj.shape[0])
    order = order[: int(offsets[-1])]
    hidden = grouped_swiglu_reference(permute_reference(x, order, experts.shape[-1]), gate_up_proj, offsets)
    return unpermute_reference(grouped_gemm_reference(hidden, down_proj, offsets), order, weights)
