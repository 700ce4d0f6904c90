"""Checkpoints in packed form: ``config.json`` and ``packed.safetensors``, whose tensors are the model's own memory.

Dense tensors keep their published names, but queries, keys and values are one, ``self_attn.qkv_proj.weight``; the
packed ones among them hold panels. An expert layer has the two tensors ``model.layers.0.mlp.experts.gate_up`` and
``.down``. One file serves every instruction set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..files import CheckpointError
from ..ops import PackedExperts, PackedLinear
from ..ops._panels import FORMATS, panel_shape
from .config import LLaDAMoEConfig
from .model import LLaDAMoEModel
from .packed_file import AGAIN, PackedFile, map_packed, write_packed
from .safetensors_files import INDEX_FILE, SINGLE_FILE
from .slots import dense_slots, expert_layers, formats_of

PACKED_FILE = "packed.safetensors"


def is_packed(folder: Path) -> bool:
    """Whether a folder holds a packed checkpoint."""
    return (folder / PACKED_FILE).is_file()


def save_packed(model: LLaDAMoEModel, folder: str | os.PathLike[str]) -> None:
    """See :meth:`LLaDAMoEModel.save_packed`."""
    from .. import __version__

    target = Path(folder)
    for name in (SINGLE_FILE, INDEX_FILE):
        if (target / name).exists():
            raise ValueError(f"{target}: holds the checkpoint {name}; give packed weights a folder of their own")
    tensors = dict(_tensors(model))
    dtype = str(model.dtype).removeprefix("torch.")
    metadata = {"dtype": dtype, "quantization": model.quantization or "none", "package": __version__}
    target.mkdir(parents=True, exist_ok=True)
    write_packed(target / PACKED_FILE, tensors, metadata)
    model.config.torch_dtype = dtype
    model.config.save_pretrained(target)


def _tensors(model: LLaDAMoEModel) -> Iterator[tuple[str, Tensor]]:
    layers = dict(expert_layers(model))
    for slot in dense_slots(model):
        value = getattr(slot.module, slot.attribute)
        if slot.projection is not None and not isinstance(value, PackedLinear):
            raise ValueError("a model must be packed before it is written in packed form: call pack()")
        yield slot.name, value.panels if isinstance(value, PackedLinear) else value.detach().contiguous()
        prefix = slot.name.removesuffix(".gate.weight")
        if prefix in layers:
            packed = layers[prefix].packed
            assert isinstance(packed, PackedExperts)
            yield f"{prefix}.experts.gate_up", packed.gate_up
            yield f"{prefix}.experts.down", packed.down


def load_packed(folder: Path, *, dtype: torch.dtype | None, quantization: str | None) -> LLaDAMoEModel:
    """Map a packed checkpoint; its pages are read when they are first used.

    Raises:
        CheckpointError: a file is missing or damaged, or dtype or quantization is not what the weights were packed in.
    """
    config = LLaDAMoEConfig.from_pretrained(folder)
    file = map_packed(folder / PACKED_FILE)
    held = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(file.metadata.get("dtype", ""))
    packed_as = file.metadata.get("quantization")
    if held is None or packed_as not in ("none", "int8", "int4"):
        raise CheckpointError(f"{file.path}: does not say its dtype and quantization; {AGAIN}")
    for name, wanted, got in (("dtype", dtype, held), ("quantization", quantization, packed_as)):
        if wanted is not None and wanted != got:
            asked, has = (str(value).removeprefix("torch.") for value in (wanted, got))
            raise CheckpointError(
                f"{file.path}: was packed with {name} {has} and cannot be loaded as {asked}; leave --{name} out, or "
                f"pack the original checkpoint again with --{name} {asked}"
            )
    with torch.device("meta"):
        model = LLaDAMoEModel(config)
    model.quantization = None if packed_as == "none" else packed_as
    config.torch_dtype = str(held).removeprefix("torch.")
    _fill(model, file, held)
    return model.requires_grad_(False).eval()


def _fill(model: LLaDAMoEModel, file: PackedFile, dtype: torch.dtype) -> None:
    config = model.config
    sizes = (config.num_experts, config.hidden_size, config.expert_intermediate_size)
    expert_format, dense_format = formats_of(model.quantization, dtype)
    for slot in list(dense_slots(model)):
        if slot.projection is None:
            value = file.take(slot.name, slot.shape, dtype)
            setattr(slot.module, slot.attribute, nn.Parameter(value, requires_grad=False))
        else:
            columns, k = slot.shape
            panels = file.take(slot.name, panel_shape(columns, k, dense_format), FORMATS[dense_format])
            slot.projection.set_packed(PackedLinear(panels, columns, k, dense_format))
    for prefix, experts in expert_layers(model):
        gate_up, down = (
            file.take(f"{prefix}.experts.{part}", shape, FORMATS[expert_format])
            for part, shape in zip(("gate_up", "down"), PackedExperts.panel_shapes(*sizes, expert_format), strict=True)
        )
        experts.set_packed(PackedExperts(gate_up, down, *sizes[1:], expert_format))
    if file.tensors:
        raise CheckpointError(
            f"{file.path}: unexpected tensor {min(file.tensors)} (does config.json belong to it?); {AGAIN}"
        )
