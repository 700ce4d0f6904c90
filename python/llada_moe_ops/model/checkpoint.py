"""Checkpoints in the published format: streamed in tensor by tensor, written back file by file.

Loading touches one tensor at a time and packs it at once, so the peak is the model plus one tensor; plus the experts of
one layer where a GPU holds them in bytes. Experts may stand one by one (as published), or fused per layer as dInfer's
``mlp.w1``/``mlp.w2`` or transformers 5's ``mlp.experts.gate_up_proj``/``down_proj``: both are [E, 2I, H], gate rows
first, and [E, H, I].
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..files import CheckpointError
from ..ops import PackedExperts, PackedLinear, pack_linear, quantize_experts
from .config import LLaDAMoEConfig
from .model import Experts, LLaDAMoEModel
from .packed import is_packed, load_packed
from .safetensors_files import CheckpointReader, write_shards
from .slots import QUANTIZATIONS, Slot, dense_slots, expert_layers, formats_of
from .source import resolve_folder

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float32}
_FUSED_NAMES = (("w1", "w2"), ("experts.gate_up_proj", "experts.down_proj"))


def separate_expert_names(prefix: str, expert: int) -> tuple[str, str, str]:
    """The published names of one expert's gate, up and down projections."""
    base = f"{prefix}.experts.{expert}"
    return f"{base}.gate_proj.weight", f"{base}.up_proj.weight", f"{base}.down_proj.weight"


def load_pretrained(
    path_or_id: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None,
    device: str | torch.device,
    quantization: str | None,
    pack: bool,
    progress: bool,
) -> LLaDAMoEModel:
    """See :meth:`LLaDAMoEModel.from_pretrained`."""
    where = _usable_device(device)
    if quantization is not None and quantization not in QUANTIZATIONS:
        known = ", ".join(QUANTIZATIONS)
        raise ValueError(f"quantization must be None or one of {known}, got {quantization!r}")
    if quantization is not None and not pack:
        raise ValueError(f"quantization must be None for a model that is not packed, got {quantization!r}")
    if quantization is not None and where.type != "cpu":
        dtype = _dtype_of_bytes(quantization, dtype)
    folder = resolve_folder(path_or_id)
    if is_packed(folder):
        if not pack:
            raise CheckpointError(
                f"{folder}: holds packed weights; to train, load the checkpoint they were packed from"
            )
        if where.type != "cpu":
            raise CheckpointError(
                f"{folder}: holds weights packed for the CPU; for a GPU load the checkpoint they were packed from"
            )
        return load_packed(folder, dtype=dtype, quantization=quantization)
    config = LLaDAMoEConfig.from_pretrained(folder)
    dtype = dtype or _DTYPES.get(str(config.torch_dtype or "bfloat16").removeprefix("torch."), torch.bfloat16)
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype}")
    config.torch_dtype = str(dtype).removeprefix("torch.")
    with torch.device("meta"):
        model = LLaDAMoEModel(config)
    with CheckpointReader(folder) as reader:
        _Loader(model, reader, dtype, pack and where.type == "cpu", quantization, where).load(progress)
    model.quantization = quantization
    return model.requires_grad_(not pack).eval()


def _dtype_of_bytes(quantization: str, dtype: torch.dtype | None) -> torch.dtype:
    """What surrounds experts in bytes on a GPU.

    Raises:
        ValueError: another quantization or dtype than the kernels take.
    """
    if quantization != "int8":
        raise ValueError(
            f"quantization must be None or 'int8' on a GPU, got {quantization!r}: its kernels are the CPU's; "
            "take 'int8', which halves the experts there"
        )
    if dtype not in (None, torch.bfloat16):
        raise ValueError(f"dtype must be torch.bfloat16 with quantization 'int8' on a GPU, got {dtype}")
    return torch.bfloat16


def _usable_device(device: str | torch.device) -> torch.device:
    """The device, with its index.

    Raises:
        ValueError: it is neither the CPU nor a GPU that torch sees.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f'device must be "cpu" or "cuda", got {str(device)!r}') from None
    if found.type == "cpu":
        return found
    if found.type != "cuda":
        raise ValueError(f'device must be "cpu" or "cuda", got {str(device)!r}')
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = found.index or 0
    if index >= count:
        raise ValueError(f"device must be one that torch sees, got {str(device)!r}: it sees {count} CUDA devices")
    return torch.device("cuda", index)


class _Loader:
    def __init__(
        self,
        model: LLaDAMoEModel,
        reader: CheckpointReader,
        dtype: torch.dtype,
        pack: bool,
        quantization: str | None,
        device: torch.device,
    ) -> None:
        self.model, self.reader, self.dtype, self.pack, self.device = model, reader, dtype, pack, device
        self.expert_format, self.dense_format = formats_of(quantization, dtype)
        self.in_bytes = quantization is not None and not pack
        self.fused: dict[str, tuple[str, str]] = {}

    def load(self, progress: bool) -> None:
        names = self._check_names()
        with tqdm(total=len(names), desc="loading", unit="tensor", disable=not progress) as bar:
            for slot in list(dense_slots(self.model)):
                self._fill(slot)
                bar.update(len(slot.published))
            self.reader.release()
            for prefix, experts in expert_layers(self.model):
                bar.update(self._fill_experts(prefix, experts))
                self.reader.release()

    def _check_names(self) -> set[str]:
        """Compare the names present with those expected, before anything is read."""
        config, present = self.model.config, self.reader.names
        expected = {name for slot in dense_slots(self.model) for name, _ in slot.published}
        for prefix, _ in expert_layers(self.model):
            fused = next((pair for pair in _FUSED_NAMES if f"{prefix}.{pair[0]}" in present), None)
            if fused is not None:
                self.fused[prefix] = (f"{prefix}.{fused[0]}", f"{prefix}.{fused[1]}")
                expected.update(self.fused[prefix])
            else:
                for expert in range(config.num_experts):
                    expected.update(separate_expert_names(prefix, expert))
        ignored = {name for name in present if name.endswith("rotary_emb.inv_freq")}
        if config.tie_word_embeddings:
            ignored.add("lm_head.weight")
        missing, unexpected = expected - present, present - expected - ignored
        if missing or unexpected:
            raise CheckpointError(f"{self.reader.folder}: {_difference(missing, unexpected)}")
        return expected

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.reader.read(name, shape).to(self.dtype)

    def _fill(self, slot: Slot) -> None:
        parts = [self._read(name, shape) for name, shape in slot.published]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.pack and slot.projection is not None:
            slot.projection.set_packed(pack_linear(tensor, self.dense_format))
        else:
            setattr(slot.module, slot.attribute, nn.Parameter(tensor.to(self.device, copy=True)))

    def _fill_experts(self, prefix: str, experts: Experts) -> int:
        """Fill one layer's experts; returns how many published tensors that were."""
        config = self.model.config
        count, hidden, intermediate = config.num_experts, config.hidden_size, config.expert_intermediate_size
        if self.pack:
            packed = PackedExperts.empty(count, hidden, intermediate, self.expert_format)
        else:
            gate_up = torch.empty(count, 2 * intermediate, hidden, dtype=self.dtype, device=self.device)
            down = torch.empty(count, hidden, intermediate, dtype=self.dtype, device=self.device)
        for expert in range(count):
            gate, up, down_one = self._read_expert(prefix, expert)
            if self.pack:
                packed.set_expert(expert, gate, up, down_one)
            else:
                gate_up[expert, :intermediate], gate_up[expert, intermediate:], down[expert] = gate, up, down_one
        if self.pack:
            experts.set_packed(packed)
        elif self.in_bytes:
            experts.set_packed(quantize_experts(gate_up, down))
        else:
            experts.gate_up_proj, experts.down_proj = nn.Parameter(gate_up), nn.Parameter(down)
        return 2 if prefix in self.fused else 3 * count

    def _read_expert(self, prefix: str, expert: int) -> tuple[Tensor, Tensor, Tensor]:
        config = self.model.config
        count, hidden, intermediate = config.num_experts, config.hidden_size, config.expert_intermediate_size
        if prefix in self.fused:
            first, second = self.fused[prefix]
            gate_up = self.reader.read_row(first, expert, (count, 2 * intermediate, hidden)).to(self.dtype)
            down = self.reader.read_row(second, expert, (count, hidden, intermediate)).to(self.dtype)
            return gate_up[:intermediate], gate_up[intermediate:], down
        gate_name, up_name, down_name = separate_expert_names(prefix, expert)
        return (
            self._read(gate_name, (intermediate, hidden)),
            self._read(up_name, (intermediate, hidden)),
            self._read(down_name, (hidden, intermediate)),
        )


def _difference(missing: set[str], unexpected: set[str], most: int = 5) -> str:
    parts = []
    for kind, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            shown = ", ".join(sorted(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
            parts.append(f"{kind} tensor{'s' if len(names) > 1 else ''} {shown}")
    return "; ".join(parts) + " (does config.json belong to these files?)"


def published_tensors(model: LLaDAMoEModel) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the published format, experts one by one, unpacked where packed."""
    layers = dict(expert_layers(model))
    for slot in dense_slots(model):
        value = getattr(slot.module, slot.attribute)
        value = value.unpack() if isinstance(value, PackedLinear) else value.detach()
        parts = value.split([shape[0] for _, shape in slot.published])
        yield from ((name, part) for (name, _), part in zip(slot.published, parts, strict=True))
        prefix = slot.name.removesuffix(".gate.weight")
        if prefix in layers:
            yield from _expert_tensors(prefix, layers[prefix])


def _expert_tensors(prefix: str, experts: Experts) -> Iterator[tuple[str, Tensor]]:
    gate_up, down = experts.plain_weights()
    intermediate = down.shape[-1]
    for expert in range(down.shape[0]):
        gate_name, up_name, down_name = separate_expert_names(prefix, expert)
        yield gate_name, gate_up[expert, :intermediate]
        yield up_name, gate_up[expert, intermediate:]
        yield down_name, down[expert]


def save_pretrained(model: LLaDAMoEModel, folder: str | os.PathLike[str], *, max_shard_bytes: int) -> None:
    """See :meth:`LLaDAMoEModel.save_pretrained`."""
    if model.quantization is not None:
        raise ValueError(f"a model quantised to {model.quantization} has lost bits that the published format keeps")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_shards(published_tensors(model), target, max_shard_bytes)
    model.config.torch_dtype = str(model.dtype).removeprefix("torch.")
    model.config.save_pretrained(target)
