"""Reading and writing the safetensors files of a checkpoint folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import CheckpointError, write_aside

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_SHARD_PATTERN = "model-*.safetensors"
_READABLE = ("F32", "BF16", "F16")


class CheckpointReader:
    """The tensors of a folder: one file, or shards with an index. Files are memory-mapped and read on demand.

    What is read may share memory with the mapping; :meth:`release` unmaps, so that pages already read do not stay
    resident beside the model.

    Attributes:
        names: all tensor names present.

    Raises:
        CheckpointError: no weights, a damaged file, or an index that names an absent shard or tensor.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._files: dict[Path, Any] = {}
        self._path_of = self._locate()
        self.names = set(self._path_of)

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Unmap every file; it is mapped again when next read."""
        self._stack.close()
        self._files.clear()

    def _locate(self) -> dict[str, Path]:
        index = self.folder / INDEX_FILE
        if index.exists():
            return self._from_index(index)
        paths = [self.folder / SINGLE_FILE] if (self.folder / SINGLE_FILE).exists() else []
        paths = paths or sorted(self.folder.glob("*.safetensors"))
        if not paths:
            raise CheckpointError(f"{self.folder}: no *.safetensors file; a checkpoint folder must hold its weights")
        # A safe_open object has keys() but is not iterable.
        return {name: path for path in paths for name in self._open(path).keys()}  # noqa: SIM118

    def _from_index(self, index: Path) -> dict[str, Path]:
        try:
            weight_map = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{index}: cannot be read as a safetensors index ({error!r})") from error
        located = {str(name): self.folder / Path(str(shard)).name for name, shard in weight_map.items()}
        for path in sorted(set(located.values())):
            if not path.exists():
                raise CheckpointError(f"{index}: names the shard {path.name}, which is not there; download it again")
            present = set(self._open(path).keys())
            absent = sorted(name for name, where in located.items() if where == path and name not in present)
            if absent:
                raise CheckpointError(f"{path}: does not hold {absent[0]}, which {index.name} says it does")
        return located

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            try:
                self._files[path] = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{path}: damaged or not a safetensors file ({error}); download or write it again"
                ) from error
        return self._files[path]

    def _slice(self, name: str, shape: tuple[int, ...]) -> Any:
        path = self._path_of[name]
        view = self._open(path).get_slice(name)
        if tuple(view.get_shape()) != shape:
            raise CheckpointError(f"{path}: {name} must have shape {list(shape)}, got {list(view.get_shape())}")
        if view.get_dtype() not in _READABLE:
            raise CheckpointError(
                f"{path}: {name} must be float32, bfloat16 or float16, got {view.get_dtype()} "
                "(quantised checkpoints cannot be read)"
            )
        return view

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A whole tensor, checked for shape, dtype and finite values."""
        return self._finite(name, self._slice(name, shape)[:])

    def read_row(self, name: str, row: int, shape: tuple[int, ...]) -> Tensor:
        """Entry ``row`` along the first dimension of a tensor of ``shape``."""
        return self._finite(name, self._slice(name, shape)[row])

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        # A sum is NaN or infinite when any term is; a weight tensor's finite sum cannot overflow float32.
        if not bool(torch.isfinite(tensor.sum(dtype=torch.float32))):
            raise CheckpointError(f"{self._path_of[name]}: {name} holds NaN or infinite values")
        return tensor


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _shards(tensors: Iterable[tuple[str, Tensor]], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        tensor = tensor.contiguous()
        if shard and size + tensor.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        # A copy of its own: safetensors refuses tensors that share memory, as rows of a fused weight do.
        shard[name] = tensor.clone()
        size += tensor.nbytes
    yield shard


def write_shards(tensors: Iterable[tuple[str, Tensor]], folder: Path, max_bytes: int) -> None:
    """Write tensors as one file, or as shards with an index when they exceed ``max_bytes``.

    Everything is written aside first and renamed only when complete: a failure leaves what was there.
    """
    with ExitStack() as stack:
        asides: list[Path] = []
        weight_map: dict[str, int] = {}
        total = 0
        for number, shard in enumerate(_shards(tensors, max_bytes)):
            aside = folder / f".{SINGLE_FILE}.{number}.partial"
            stack.callback(aside.unlink, missing_ok=True)
            try:
                save_file(shard, aside, metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(f"{folder}: weights cannot be written ({error})") from error
            aside.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read
            asides.append(aside)
            weight_map.update(dict.fromkeys(shard, number))
            total += sum(tensor.nbytes for tensor in shard.values())
        _rename_shards(asides, weight_map, total, folder)


def _rename_shards(asides: list[Path], weight_map: dict[str, int], total: int, folder: Path) -> None:
    old = {path for path in [folder / SINGLE_FILE, folder / INDEX_FILE, *folder.glob(_SHARD_PATTERN)] if path.exists()}
    if len(asides) == 1:
        new = {folder / SINGLE_FILE}
        asides[0].replace(folder / SINGLE_FILE)
        (folder / INDEX_FILE).unlink(missing_ok=True)
    else:
        names = [f"model-{number + 1:05d}-of-{len(asides):05d}.safetensors" for number in range(len(asides))]
        for aside, name in zip(asides, names, strict=True):
            aside.replace(folder / name)
        index = {
            "metadata": {"total_size": total},
            "weight_map": {name: names[number] for name, number in sorted(weight_map.items())},
        }
        with write_aside(folder / INDEX_FILE) as aside:
            aside.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        new = {folder / INDEX_FILE, *(folder / name for name in names)}
    for path in old - new:
        path.unlink(missing_ok=True)
