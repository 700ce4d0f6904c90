"""The halves of a layer as one op each, where nobody needs what lies between: packed weights, inference.

Python between the ops costs as much as the small ones of them, most of all after a kernel has streamed weights through
the caches; with few tokens that shows. For that reason modules and parameters are read from their tables here, around
``nn.Module.__getattr__``, and the compiled ops, which check what they are given, are called themselves. The bits are
those of the modules called one by one, which stay the specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..ops import PackedExperts, PackedLinear
from ..ops._library import overload, runs_natively
from ..ops.norm_rope import frequencies_for
from .inputs import Place

if TYPE_CHECKING:
    from .config import LLaDAMoEConfig
    from .key_value_cache import KeyValueCache
    from .model import Attention, Experts, Layer


Arguments = tuple[Any, ...]


class Pass(NamedTuple):
    """What all layers of a forward pass have in common that one op each would do: looked up once."""

    attends: bool  # one op does attention too: no mask, no clipping
    sizes: Arguments  # the arguments of attention_layer that are no layer's own
    places: Arguments
    cache: KeyValueCache | None
    key_range: Tensor | None
    routing: Arguments  # of expert_layer

    @classmethod
    def of(cls, config: LLaDAMoEConfig, residual: Tensor, place: Place) -> Pass | None:
        """None where the layers of a pass with such a residual stream take their modules."""
        if not runs_natively(residual) or residual.device.type == "meta" or torch.compiler.is_compiling():
            return None
        keys = place.keys
        return cls(
            config.clip_qkv is None and keys.mask is None and keys.block_size is None,
            (config.num_attention_heads, config.key_value_heads, config.head_dim),
            (place.positions, frequencies_for(residual, config.rope_theta, config.rotary_dim)),
            place.cache,
            keys.key_range,
            (config.num_experts_per_tok, bool(config.norm_topk_prob), config.routed_scaling_factor or 1.0),
        )


def attend(
    layer: Layer, kind: type[Attention], update: Tensor | None, residual: Tensor, shared: Pass | None
) -> tuple[Tensor, Tensor] | None:
    """(what attention adds to the stream, the stream before that); None where it takes the modules."""
    if shared is None or _wants_gradient(residual):
        return None
    arguments = _attention_arguments(layer, kind, shared)
    return None if arguments is None else _attend(update, residual, arguments)


def run_experts(
    layer: Layer, kind: type[Experts], update: Tensor, residual: Tensor, shared: Pass | None
) -> tuple[Tensor, Tensor] | None:
    """(what the experts add to the stream, the stream before that); None where it takes the modules."""
    if shared is None or _wants_gradient(residual):
        return None
    arguments = _expert_arguments(layer, kind, shared)
    return None if arguments is None else _run_experts(update, residual, arguments)


@dataclass(frozen=True, slots=True)
class WholeLayer:
    """A layer as two calls whose arguments are ready, but for the residual stream and what is added to it."""

    attention: Arguments
    experts: Arguments

    def __call__(self, update: Tensor | None, residual: Tensor, wanted: Tensor | None) -> tuple[Tensor, Tensor]:
        """As the layer itself."""
        attended = _attend(update, residual, self.attention)
        return _run_experts(*(attended if wanted is None else pick(*attended, wanted)), self.experts)


def pick(update: Tensor, residual: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Of both [B, W, H] the ``wanted`` positions, int64 [R] in 0 … B·W − 1, as one row [1, R, H]."""
    return update.flatten(0, 1)[wanted][None], residual.flatten(0, 1)[wanted][None]


def whole_layers(
    layers: Iterable[nn.Module],
    kinds: tuple[type[Layer], type[Attention], type[Experts]],
    shared: Pass | None,
) -> Sequence[WholeLayer | None]:
    """Each layer's calls, None for one that has to be called itself: for all where gradients may be wanted.

    Looked up for all layers before the first kernel has emptied the caches, and what they share once, arguments take
    half the time.
    """
    if shared is None or torch.is_grad_enabled():
        return [None for _ in layers]
    return [_whole_layer(layer, kinds, shared) for layer in layers]


def _whole_layer(
    layer: Any, kinds: tuple[type[Layer], type[Attention], type[Experts]], shared: Pass
) -> WholeLayer | None:
    if type(layer) is not kinds[0] or _watched(layer):
        return None
    attention = _attention_arguments(layer, kinds[1], shared)
    experts = None if attention is None else _expert_arguments(layer, kinds[2], shared)
    return None if attention is None or experts is None else WholeLayer(attention, experts)


def _attend(update: Tensor | None, residual: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    attended, total = overload("attention_layer")(update, residual, *arguments)
    return attended, residual if update is None else total


def _run_experts(update: Tensor, residual: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    out, total = overload("expert_layer")(update, residual, *arguments)
    return out, total


def _attention_arguments(layer: Layer, kind: type[Attention], shared: Pass) -> Arguments | None:
    modules: dict[str, Any] = layer._modules
    norm, attention = modules["input_layernorm"], modules["self_attn"]
    if type(attention) is not kind or not shared.attends:
        return None
    parts: dict[str, Any] = attention._modules
    qkv, out = parts["qkv_proj"], parts["o_proj"]
    # a packed weight is no parameter, so it is found without __getattr__; None where there is a parameter
    qkv_weight, out_weight = qkv.__dict__.get("weight"), out.__dict__.get("weight")
    if not isinstance(qkv_weight, PackedLinear) or not isinstance(out_weight, PackedLinear):
        return None
    if _watched(norm, attention, qkv, out) or _trained(norm, attention):
        return None
    q_norm, k_norm = parts.get("q_norm"), parts.get("k_norm")
    return (
        norm._parameters["weight"],
        norm.eps,
        qkv_weight.panels,
        qkv._parameters.get("bias"),
        out_weight.panels,
        out._parameters.get("bias"),
        *shared.sizes,
        None if q_norm is None else q_norm._parameters["weight"],
        None if k_norm is None else k_norm._parameters["weight"],
        *shared.places,
        None if shared.cache is None else shared.cache.layer(attention.index),
        shared.key_range,
    )


def _expert_arguments(layer: Layer, kind: type[Experts], shared: Pass) -> Arguments | None:
    modules: dict[str, Any] = layer._modules
    norm, experts = modules["post_attention_layernorm"], modules["mlp"]
    if type(experts) is not kind or modules.get("shared_expert") is not None:
        return None
    packed = experts.packed
    if not isinstance(packed, PackedExperts) or _watched(norm, experts) or _trained(norm, experts):
        return None
    parameters: dict[str, Any] = experts._parameters
    count, renormalize, scale = shared.routing
    return (
        norm._parameters["weight"],
        norm.eps,
        parameters["gate"],
        parameters.get("expert_bias"),
        count,
        renormalize,
        scale,
        packed.gate_up,
        packed.down,
        packed.intermediate_size,
    )


def _wants_gradient(residual: Tensor) -> bool:
    return torch.is_grad_enabled() and residual.requires_grad


def _watched(*modules: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def _trained(*modules: nn.Module) -> bool:
    if not torch.is_grad_enabled():
        return False
    return any(value.requires_grad for module in modules for value in module.parameters())
