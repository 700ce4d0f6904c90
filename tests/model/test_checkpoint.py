"""Checkpoint files: every published layout is read, damage is told by file and tensor, saving loses nothing."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from llada_moe_ops import CheckpointError, LLaDAMoEModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.golden import CHECKPOINTS, GOLDEN

IDS = torch.arange(12).view(2, 6) + 4


def all_tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in folder.glob("model*.safetensors") for name, tensor in load_file(path).items()}


def logits(folder: Path, **options: object) -> Tensor:
    model = LLaDAMoEModel.from_pretrained(folder, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A copy of a golden checkpoint, to damage."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "base-fp32" / name, folder)
    return folder


def rewrite(folder: Path, change: dict[str, Tensor | None]) -> None:
    tensors: dict[str, Tensor | None] = {**load_file(folder / "model.safetensors"), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "plain"])
def test_round_trip_is_exact(name: str, pack: bool, tmp_path: Path) -> None:
    model = LLaDAMoEModel.from_pretrained(GOLDEN / name, pack=pack)
    model.save_pretrained(tmp_path)
    written, expected = all_tensors(tmp_path), all_tensors(GOLDEN / name)
    assert written.keys() == expected.keys()
    for key, value in expected.items():
        assert written[key].dtype == value.dtype, key
        assert torch.equal(written[key], value), key
    assert torch.equal(logits(tmp_path), logits(GOLDEN / name))


def test_sharded_writing(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "sharded"
    LLaDAMoEModel.from_pretrained(base).save_pretrained(target, max_shard_bytes=100_000)
    shards = sorted(target.glob("model-*.safetensors"))
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert len(shards) > 2
    assert set(index["weight_map"].values()) == {path.name for path in shards}
    assert not (target / "model.safetensors").exists()
    assert torch.equal(logits(target), logits(base))
    LLaDAMoEModel.from_pretrained(base).save_pretrained(target)
    assert [path.name for path in target.glob("model*")] == ["model.safetensors"], "the old shards are gone"
    assert torch.equal(logits(target), logits(base))


@pytest.mark.parametrize("names", [("w1", "w2"), ("experts.gate_up_proj", "experts.down_proj")])
def test_fused_experts(base: Path, names: tuple[str, str]) -> None:
    expected = logits(base)
    tensors = load_file(base / "model.safetensors")
    change: dict[str, Tensor | None] = {}
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp"
        kinds = ("gate_proj", "up_proj", "down_proj")
        gate, up, down = (
            torch.stack([tensors[f"{prefix}.experts.{e}.{kind}.weight"] for e in range(8)]) for kind in kinds
        )
        change |= {f"{prefix}.experts.{e}.{kind}.weight": None for e in range(8) for kind in kinds}
        change |= {f"{prefix}.{names[0]}": torch.cat([gate, up], 1), f"{prefix}.{names[1]}": down}
    rewrite(base, change)
    assert torch.equal(logits(base), expected)
    assert torch.equal(logits(base, pack=False), expected)


def test_float16_is_read(base: Path) -> None:
    rewrite(base, {name: value.half() for name, value in load_file(base / "model.safetensors").items()})
    assert (logits(base, dtype=torch.float32) - logits(GOLDEN / "base-fp32")).abs().max() < 0.1


NORM = "model.norm.weight"
EXPERT = "model.layers.1.mlp.experts.7.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NORM: None}, f"missing tensor {NORM}"),
        ({EXPERT: None}, f"missing tensor {EXPERT}"),
        ({"model.extra": torch.zeros(1)}, "unexpected tensor model.extra"),
        ({NORM: torch.ones(63)}, f"{NORM} must have shape [64], got [63]"),
        ({EXPERT: torch.ones(32, 64)}, f"{EXPERT} must have shape [64, 32], got [32, 64]"),
        ({NORM: torch.ones(64, dtype=torch.int8)}, f"{NORM} must be float32, bfloat16 or float16, got I8"),
        ({NORM: torch.full((64,), torch.nan)}, f"{NORM} holds NaN or infinite values"),
        ({EXPERT: torch.full((64, 32), torch.inf)}, f"{EXPERT} holds NaN or infinite values"),
    ],
)
def test_wrong_tensors_are_named(base: Path, change: dict[str, Tensor | None], message: str) -> None:
    rewrite(base, change)
    with pytest.raises(CheckpointError) as error:
        LLaDAMoEModel.from_pretrained(base)
    assert message in str(error.value)


@pytest.mark.parametrize("keep", [0, 4, 5000, -1])
def test_truncated_file(base: Path, keep: int) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        LLaDAMoEModel.from_pretrained(base)


def test_oversized_header(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        LLaDAMoEModel.from_pretrained(base)


def test_index_names_an_absent_shard(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "base-bf16", tmp_path / "c")
    (tmp_path / "c" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names the shard model-00002-of-00003\.safetensors, which is not there"):
        LLaDAMoEModel.from_pretrained(tmp_path / "c")


def test_index_is_damaged(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "base-bf16", tmp_path / "c")
    (tmp_path / "c" / "model.safetensors.index.json").write_text('{"weight_map": ')
    with pytest.raises(CheckpointError, match=r"index\.json: cannot be read"):
        LLaDAMoEModel.from_pretrained(tmp_path / "c")


def test_index_names_a_tensor_that_its_shard_lacks(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "base-bf16", tmp_path / "c")
    index = tmp_path / "c" / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"][NORM] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="does not hold"):
        LLaDAMoEModel.from_pretrained(tmp_path / "c")


@pytest.mark.parametrize("where", ["nowhere", "./nowhere/here", "/nowhere/at/all"])
def test_missing_folder(where: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        LLaDAMoEModel.from_pretrained(where)


def test_file_instead_of_folder(base: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        LLaDAMoEModel.from_pretrained(base / "model.safetensors")


def test_folder_without_weights(base: Path) -> None:
    (base / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="must hold its weights"):
        LLaDAMoEModel.from_pretrained(base)


def test_hub_id_while_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"offline.*local folder"):
        LLaDAMoEModel.from_pretrained("someone/some-model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, r"device must be one that torch sees, got 'cuda:99': it sees \d+ CUDA devices"),
        ({"device": "mps"}, 'device must be "cpu" or "cuda", got \'mps\''),
        ({"device": "nowhere"}, 'device must be "cpu" or "cuda", got \'nowhere\''),
        ({"quantization": "int2"}, "quantization must be None or one of int8, int4, got 'int2'"),
        ({"quantization": "int8", "pack": False}, "quantization must be None for a model that is not packed"),
        ({"dtype": torch.float64}, "dtype must be torch.float32 or torch.bfloat16"),
    ],
)
def test_unsupported_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLaDAMoEModel.from_pretrained(GOLDEN / "base-fp32", **options)  # type: ignore[arg-type]


def test_a_full_disk_leaves_the_old_checkpoint(base: Path) -> None:
    """Files may not grow past 64 KiB, as on a full disk: the old ones stay whole, nothing half-written remains."""
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    model = LLaDAMoEModel.from_pretrained(base)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(OSError, match="weights cannot be written"):
            model.save_pretrained(base)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_unwritable_target(base: Path) -> None:
    model = LLaDAMoEModel.from_pretrained(base)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        model.save_pretrained(base / "model.safetensors")


def test_written_files_carry_the_format(base: Path, tmp_path: Path) -> None:
    LLaDAMoEModel.from_pretrained(base).save_pretrained(tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
