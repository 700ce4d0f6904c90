"""The halves of a layer as one op each, where nobody needs what lies between: packed weights, inference.

Python between the ops costs as much as the small ones of them, most of all after a kernel has streamed weights through
the caches; with few tokens that shows. For that reason modules and parameters are read from their tables here, around
``nn.Module.__getattr__``, and the compiled ops, which check what they are given, are called themselves. The bits are
those of the modules called one by one, which stay the specification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..ops import PackedExperts, PackedLinear
from ..ops._library import overload, runs_natively
from ..ops.norm_rope import frequencies_for
from .inputs import Place

if TYPE_CHECKING:
    from .model import Attention, Experts, Layer


def attend(
    layer: Layer, kind: type[Attention], update: Tensor | None, residual: Tensor, place: Place
) -> tuple[Tensor, Tensor] | None:
    """(what attention adds to the stream, the stream before that); None where it takes the modules."""
    modules: dict[str, Any] = layer._modules
    norm, attention = modules["input_layernorm"], modules["self_attn"]
    if type(attention) is not kind:
        return None
    parts: dict[str, Any] = attention._modules
    qkv, out, config = parts["qkv_proj"], parts["o_proj"], attention.config
    # a packed weight is no parameter, so it is found without __getattr__; None where there is a parameter
    qkv_weight, out_weight = qkv.__dict__.get("weight"), out.__dict__.get("weight")
    if not isinstance(qkv_weight, PackedLinear) or not isinstance(out_weight, PackedLinear):
        return None
    if config.clip_qkv is not None or place.keys.mask is not None or place.keys.block_size is not None:
        return None
    if not _alone(residual, norm, attention, qkv, out):
        return None
    normed = config.qk_layernorm
    attended, total = overload("attention_layer")(
        update,
        residual,
        norm._parameters["weight"],
        config.rms_norm_eps,
        qkv_weight.panels,
        qkv.bias,
        out_weight.panels,
        out.bias,
        config.num_attention_heads,
        config.key_value_heads,
        config.head_dim,
        parts["q_norm"]._parameters["weight"] if normed else None,
        parts["k_norm"]._parameters["weight"] if normed else None,
        place.positions,
        frequencies_for(residual, config.rope_theta, config.rotary_dim),
        None if place.cache is None else place.cache.layer(attention.index),
        place.keys.key_range,
    )
    return attended, residual if update is None else total


def run_experts(
    layer: Layer, kind: type[Experts], update: Tensor, residual: Tensor, router_logits: list[Tensor] | None
) -> tuple[Tensor, Tensor] | None:
    """(what the experts add to the stream, the stream before that); None where it takes the modules."""
    modules: dict[str, Any] = layer._modules
    norm, experts = modules["post_attention_layernorm"], modules["mlp"]
    if type(experts) is not kind or modules.get("shared_expert") is not None:
        return None
    if not isinstance(experts.packed, PackedExperts):
        return None
    if router_logits is not None or not _alone(residual, norm, experts):
        return None
    parameters: dict[str, Any] = experts._parameters
    packed, options = experts.packed, experts.options
    out, total = overload("expert_layer")(
        update,
        residual,
        norm._parameters["weight"],
        norm.eps,
        parameters["gate"],
        options["bias"],
        experts.config.num_experts_per_tok,
        options["renormalize"],
        options["scale"],
        packed.gate_up,
        packed.down,
        packed.intermediate_size,
    )
    return out, total


def _alone(residual: Tensor, *modules: nn.Module) -> bool:
    """Whether nobody wants gradients, traces, or watches one of the modules."""
    if not runs_natively(residual) or residual.device.type == "meta" or torch.compiler.is_compiling():
        return False
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks:
            return False
    return not torch.is_grad_enabled() or not (
        residual.requires_grad or any(value.requires_grad for module in modules for value in module.parameters())
    )
