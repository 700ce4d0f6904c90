"""Packed checkpoints: the same bits as packing at load, mapped and not copied; bad files are told what they are."""

from __future__ import annotations

import json
import resource
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from llada_moe_ops import CheckpointError, LLaDAMoEModel
from llada_moe_ops.model.packed_file import VERSION, map_packed, write_packed
from llada_moe_ops.model.slots import dense_slots, expert_layers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.golden import CHECKPOINTS, GOLDEN

IDS = torch.arange(12).view(2, 6) + 4
NAME = "packed.safetensors"
QUANTIZATIONS = (None, "int8", "int4")
NORM = "model.norm.weight"


def logits(folder: Path, **options: Any) -> Tensor:
    with torch.no_grad():
        return LLaDAMoEModel.from_pretrained(folder, **options)(IDS).logits


def held(model: LLaDAMoEModel) -> list[Tensor]:
    """Every tensor that the model computes with."""
    values = [getattr(slot.module, slot.attribute) for slot in dense_slots(model)]
    tensors = [value if isinstance(value, Tensor) else value.panels for value in values]
    for _, experts in expert_layers(model):
        assert experts.packed is not None
        tensors += [experts.packed.gate_up, experts.packed.down]
    return tensors


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A packed int4 checkpoint, to damage."""
    LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32", quantization="int4").save_packed(tmp_path / "packed")
    return tmp_path / "packed"


def metadata(folder: Path) -> dict[str, str]:
    with safe_open(folder / NAME, framework="pt") as file:
        return dict(file.metadata())


def rewrite(folder: Path, change: dict[str, Tensor | None], **facts: str) -> None:
    tensors: dict[str, Tensor | None] = {**load_file(folder / NAME), **change}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None and "padding" not in name}
    write_packed(folder / NAME, kept, {**metadata(folder), **facts})


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_mapped_weights_are_those_packed_at_load(name: str, quantization: str | None, tmp_path: Path) -> None:
    model = LLaDAMoEModel.from_pretrained(GOLDEN / name, quantization=quantization)
    model.save_packed(tmp_path / "packed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = LLaDAMoEModel.from_pretrained(tmp_path / "packed", quantization=quantization)
    assert (mapped.quantization, mapped.dtype) == (quantization, model.dtype)
    assert mapped.config == model.config
    for ours, theirs in zip(held(mapped), held(model), strict=True):
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        assert torch.equal(mapped(IDS).logits, model(IDS).logits)
    assert torch.equal(logits(tmp_path / "packed"), model(IDS).logits)


def test_every_tensor_is_a_view_of_the_mapped_file(packed: Path) -> None:
    model = LLaDAMoEModel.from_pretrained(packed)
    ranges = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith(str(packed / NAME)):
            ranges.append([int(end, 16) for end in line.split()[0].split("-")])
    assert ranges
    for tensor in held(model):
        assert tensor.data_ptr() % 64 == 0
        assert any(first <= tensor.data_ptr() < last for first, last in ranges)
        assert not tensor.requires_grad


def test_any_safetensors_reader_reads_the_file(packed: Path) -> None:
    read, mapped = load_file(packed / NAME), map_packed(packed / NAME)
    assert {name for name in read if "padding" not in name} == mapped.tensors.keys()
    for name, tensor in mapped.tensors.items():
        assert torch.equal(read[name], tensor)
    facts = metadata(packed)
    assert (facts["dtype"], facts["quantization"], facts["version"]) == ("float32", "int4", VERSION)


def test_a_plain_packed_checkpoint_is_written_back_exactly(tmp_path: Path) -> None:
    LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32").save_packed(tmp_path / "packed")
    LLaDAMoEModel.from_pretrained(tmp_path / "packed").save_pretrained(tmp_path / "back")
    written = load_file(tmp_path / "back" / "model.safetensors")
    expected = load_file(GOLDEN / "base-fp32" / "model.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], value) for name, value in expected.items())


@pytest.mark.parametrize("spaces", [1, 4])
def test_unaligned_tensors_are_copied_with_a_warning(packed: Path, spaces: int) -> None:
    expected = logits(packed)
    content = (packed / NAME).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    (packed / NAME).write_bytes(
        (end - 8 + spaces).to_bytes(8, "little") + content[8:end] + b" " * spaces + content[end:]
    )
    with pytest.warns(RuntimeWarning, match=r"packed\.safetensors: \d+ tensors are not aligned to 64 bytes"):
        assert torch.equal(logits(packed), expected)


def test_another_safetensors_file(packed: Path) -> None:
    save_file(load_file(packed / NAME), packed / NAME)
    with pytest.raises(CheckpointError, match=r"packed\.safetensors: holds no packed weights"):
        LLaDAMoEModel.from_pretrained(packed)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_file(packed: Path, keep: int) -> None:
    content = (packed / NAME).read_bytes()
    (packed / NAME).write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=r"safetensors: (damaged or cut short|cannot be read).*llada-moe pack"):
        LLaDAMoEModel.from_pretrained(packed)
    (packed / NAME).write_bytes(content + b"\0")
    with pytest.raises(CheckpointError, match="longer than its tensors"):
        LLaDAMoEModel.from_pretrained(packed)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"__metadata__":{"format":"llada_moe_ops packed","version":"2"},"a":{"dtype":"I64"}}',
        b'{"__metadata__":{"format":"llada_moe_ops packed","version":"2"},"a":7}',
        b'{"__metadata__":{"format":"llada_moe_ops packed","version":"2"},'
        b'"a":{"dtype":"U8","shape":[9],"data_offsets":[-9,0]}}',
        b'{"__metadata__":{"format":"llada_moe_ops packed","version":"2"},'
        b'"a":{"dtype":"U8","shape":[9],"data_offsets":[0,8]}}',
    ],
)
def test_damaged_header(packed: Path, header: bytes) -> None:
    (packed / NAME).write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(CheckpointError, match=r"packed\.safetensors: damaged or cut short"):
        LLaDAMoEModel.from_pretrained(packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NORM: None}, f"missing tensor {NORM}"),
        ({"model.extra": torch.zeros(16)}, "unexpected tensor model.extra"),
        ({NORM: torch.ones(63)}, f"{NORM} must be float32 [64], got float32 [63]"),
        ({NORM: torch.ones(64).bfloat16()}, f"{NORM} must be float32 [64], got bfloat16 [64]"),
        ({"lm_head.weight": torch.ones(4, 8)}, "lm_head.weight must be int8"),
    ],
)
def test_wrong_tensors_are_named(packed: Path, change: dict[str, Tensor | None], message: str) -> None:
    rewrite(packed, change)
    with pytest.raises(CheckpointError) as error:
        LLaDAMoEModel.from_pretrained(packed)
    assert message in str(error.value)
    assert "packed.safetensors" in str(error.value)


def test_another_version(packed: Path) -> None:
    content = (packed / NAME).read_bytes()
    (packed / NAME).write_bytes(content.replace(b'"version":"2"', b'"version":"7"'))
    with pytest.raises(CheckpointError, match=r"is of version 7 of the packed format \(by llada-moe-ops .*version 2"):
        LLaDAMoEModel.from_pretrained(packed)


def test_a_configuration_of_other_sizes(packed: Path) -> None:
    values = json.loads((packed / "config.json").read_text(encoding="utf-8"))
    values["expert_intermediate_size"] *= 4
    (packed / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"experts\.gate_up must be uint8 .*does config\.json belong to it"):
        LLaDAMoEModel.from_pretrained(packed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.bfloat16}, "packed with dtype float32 and cannot be loaded as bfloat16; leave --dtype out"),
        ({"quantization": "int8"}, "with quantization int4 and cannot be loaded as int8; leave --quantization out"),
        ({"pack": False}, "holds packed weights"),
    ],
)
def test_options_that_contradict_the_file(packed: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        LLaDAMoEModel.from_pretrained(packed, **options)
    assert LLaDAMoEModel.from_pretrained(packed, dtype=torch.float32, quantization="int4").quantization == "int4"


def test_metadata_without_the_facts(packed: Path) -> None:
    rewrite(packed, {}, quantization="int3")
    with pytest.raises(CheckpointError, match="does not say its dtype and quantization"):
        LLaDAMoEModel.from_pretrained(packed)


def test_a_full_disk_leaves_the_old_file(packed: Path) -> None:
    """Files may not grow past 64 KiB, as on a full disk."""
    before = {path.name: path.read_bytes() for path in packed.iterdir()}
    model = LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(OSError, match=r"packed\.safetensors: cannot be written"):
            model.save_packed(packed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in packed.iterdir()} == before


def test_a_model_stays_whole_while_its_file_is_replaced(packed: Path) -> None:
    model = LLaDAMoEModel.from_pretrained(packed)
    with torch.no_grad():
        before = model(IDS).logits
        LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32").save_packed(packed)
        assert torch.equal(model(IDS).logits, before)
    assert LLaDAMoEModel.from_pretrained(packed).quantization is None


def test_what_cannot_be_written(tmp_path: Path) -> None:
    model = LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32", pack=False)
    with pytest.raises(ValueError, match="must be packed"):
        model.save_packed(tmp_path / "packed")
    model.save_pretrained(tmp_path / "published")
    with pytest.raises(ValueError, match="folder of their own"):
        model.pack().save_packed(tmp_path / "published")
