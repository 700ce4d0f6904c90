"""The model's weights, the published tensors they hold, and the formats in which they are held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..ops import PackedLinear
from ..ops._panels import format_of
from .model import Attention, Experts, LLaDAMoEModel
from .modules import Linear

# quantization -> formats of the experts, and of the dense projections and the head: those are a tenth of the weights
# but used by every token, so int4 leaves them at eight bits.
QUANTIZATIONS = {"int8": ("int8", "int8"), "int4": ("int4", "int8")}


def formats_of(quantization: str | None, dtype: torch.dtype) -> tuple[str, str]:
    """Formats of the experts, and of the dense projections and the head."""
    plain = format_of(dtype)
    return QUANTIZATIONS[quantization] if quantization else (plain, plain)


@dataclass(frozen=True)
class Slot:
    """One parameter of ours, and the published tensors that it holds one below the other."""

    name: str
    shape: tuple[int, ...]
    module: nn.Module
    attribute: str
    published: tuple[tuple[str, tuple[int, ...]], ...]
    """Names and shapes: one, or those of a fused projection."""

    @property
    def projection(self) -> Linear | None:
        """The projection whose weight this is, to be packed; None for other parameters."""
        return self.module if isinstance(self.module, Linear) and self.attribute == "weight" else None


def dense_slots(model: LLaDAMoEModel) -> Iterator[Slot]:
    """Every parameter but the experts' own, in the order of the forward pass."""
    yield _slot("model.embed_tokens.weight", tuple(model.embed_tokens.shape), model, "embed_tokens")
    for index, layer in enumerate(model.layers):
        prefix = f"model.layers.{index}"
        for name, child in layer.named_children():
            if isinstance(child, Experts):
                yield _slot(f"{prefix}.mlp.gate.weight", tuple(child.gate.shape), child, "gate")
                if child.expert_bias is not None:
                    yield _slot(f"{prefix}.mlp.expert_bias", tuple(child.expert_bias.shape), child, "expert_bias")
            else:
                yield from _parameters(f"{prefix}.{name}", child)
    yield from _parameters("model.norm", model.norm)
    if model.head_projection is not None:
        yield from _parameters("lm_head", model.head_projection)


def _slot(name: str, shape: tuple[int, ...], module: nn.Module, attribute: str) -> Slot:
    return Slot(name, shape, module, attribute, ((name, shape),))


def _parameters(prefix: str, module: nn.Module) -> Iterator[Slot]:
    if isinstance(module, Linear) and isinstance(module.weight, PackedLinear):
        yield _slot(f"{prefix}.weight", module.shape, module, "weight")
    for name, parameter in module.named_parameters(recurse=False):
        yield _slot(f"{prefix}.{name}", tuple(parameter.shape), module, name)
    for name, child in module.named_children():
        slots = _parameters(f"{prefix}.{name}", child)
        if isinstance(module, Attention) and child is module.qkv_proj:
            slots = (replace(slot, published=_query_key_value(slot, prefix, module.qkv_sizes)) for slot in slots)
        yield from slots


def _query_key_value(slot: Slot, prefix: str, sizes: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    names = (f"{prefix}.{part}_proj.{slot.attribute}" for part in "qkv")
    return tuple((name, (size, *slot.shape[1:])) for name, size in zip(names, sizes, strict=True))


def expert_layers(model: LLaDAMoEModel) -> Iterator[tuple[str, Experts]]:
    """The prefix (``model.layers.0.mlp``) and module of each expert layer."""
    for index, layer in enumerate(model.layers):
        if isinstance(layer.mlp, Experts):
            yield f"model.layers.{index}.mlp", layer.mlp
