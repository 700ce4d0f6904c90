"""A file of packed tensors that is mapped, not read.

It is a safetensors file: 8 bytes of header length, a JSON header, the tensors one after another. The header is padded
with spaces, and tensors that do not fill whole cache lines are followed by one of padding, so that every tensor begins
at a multiple of 64 bytes, which a kernel's loads and the mapping's pages ask for. The header's ``__metadata__`` says
what the tensors are. A mapped file is never written to: a new one is written aside and takes its name.
"""

from __future__ import annotations

import json
import math
import mmap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import CheckpointError, write_aside

ALIGNMENT = 64
FORMAT = "llada_moe_ops packed"
VERSION = "2"  # raised when the layout of panels (ops/_panels.py), the names or their shapes change
AGAIN = "write it again with `llada-moe pack`"
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I8": torch.int8, "U8": torch.uint8}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PADDING = "padding."


@dataclass(frozen=True)
class PackedFile:
    """The tensors of a mapped file, views of its pages, and its metadata."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Remove and return a tensor.

        Raises:
            CheckpointError: it is not there, or of another shape or dtype.
        """
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            raise CheckpointError(f"{self.path}: missing tensor {name} (does config.json belong to it?); {AGAIN}")
        if (tuple(tensor.shape), tensor.dtype) != (shape, dtype):
            wanted, got = (
                f"{str(kind).removeprefix('torch.')} {list(sizes)}"
                for kind, sizes in ((dtype, shape), (tensor.dtype, tensor.shape))
            )
            raise CheckpointError(
                f"{self.path}: {name} must be {wanted}, got {got} (does config.json belong to it?); {AGAIN}"
            )
        return tensor


def write_packed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous CPU tensors; an older file is whole until the new one is, and stays mapped where it is.

    Raises:
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "version": VERSION, **metadata}}
    parts: list[Tensor] = []
    end = 0

    def append(name: str, tensor: Tensor) -> None:
        nonlocal end
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        parts.append(tensor)

    for name, tensor in tensors.items():
        append(name, tensor)
        if end % ALIGNMENT:
            append(f"{_PADDING}{len(parts)}", torch.zeros(-end % ALIGNMENT, dtype=torch.uint8))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    try:
        with write_aside(path) as aside, aside.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in parts:
                file.write(tensor.detach().view(-1).view(torch.uint8).numpy().data)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error


def map_packed(path: Path) -> PackedFile:
    """Map a file written by :func:`write_packed`; nothing is read but its header.

    Raises:
        CheckpointError: it cannot be read, is cut short, not such a file, or of another version.
    """
    try:
        with path.open("rb") as file:
            # Private and writable, as torch wants its memory; nobody writes.
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {AGAIN}") from error
    start = 8 + int.from_bytes(mapping[:8], "little")
    header = _header(path, mapping, start)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: holds no packed weights; {AGAIN}")
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: is of version {metadata.get('version')} of the packed format (by llada-moe-ops "
            f"{metadata.get('package')}), this package reads version {VERSION}; {AGAIN}"
        )
    try:
        tensors = {name: _view(mapping, start, entry) for name, entry in header.items()}
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged or cut short ({error}); {AGAIN}") from error
    if max((start + entry["data_offsets"][1] for entry in header.values()), default=start) != len(mapping):
        raise CheckpointError(f"{path}: damaged, longer than its tensors; {AGAIN}")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_PADDING)}
    return PackedFile(path, _aligned(path, kept), {str(key): str(value) for key, value in metadata.items()})


def _header(path: Path, mapping: mmap.mmap, start: int) -> dict[str, Any]:
    try:
        if start > len(mapping):
            raise ValueError(f"{len(mapping)} bytes")
        header = json.loads(mapping[8:start])
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged or cut short ({error}); {AGAIN}") from error
    return header


def _view(mapping: mmap.mmap, start: int, entry: dict[str, Any]) -> Tensor:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if end - begin != math.prod(shape) * dtype.itemsize or begin < 0:
        raise ValueError(f"{end - begin} bytes of {entry['dtype']} {list(shape)}")
    if start + end > len(mapping):
        raise ValueError(f"{len(mapping)} bytes instead of {start + end}")
    data = torch.frombuffer(mapping, dtype=torch.uint8, count=end - begin, offset=start + begin)
    return (data if data.data_ptr() % dtype.itemsize == 0 else data.clone()).view(dtype).view(shape)


def _aligned(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors that do not begin at a multiple of 64 bytes, as after another program wrote the file."""
    crooked = {name: tensor for name, tensor in tensors.items() if tensor.data_ptr() % ALIGNMENT}
    if crooked:
        warnings.warn(
            f"{path}: {len(crooked)} tensors are not aligned to {ALIGNMENT} bytes and are copied, which takes time and "
            f"memory; {AGAIN}",
            RuntimeWarning,
            stacklevel=2,
        )
    return tensors | {name: tensor.clone() for name, tensor in crooked.items()}
