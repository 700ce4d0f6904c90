"""Weights in the order in which the CPU kernels read them: packed once, in the formats of :mod:`._panels`.

One layout serves every instruction set. fp32 and bf16 lose nothing. int8 and int4 weights are multiplied in integers,
with activations quantised row by row to int8 (symmetric, scale = largest magnitude / 127), whatever their dtype.
"""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _check
from ._library import native, runs_natively
from ._panels import (
    FORMATS,
    PANEL_COLUMNS,
    QUANTIZED,
    format_of,
    pack_panels_reference,
    panel_shape,
    rounded_rows,
    unpack_panels,
)

LARGE_PAGE_FROM = 1 << 22  # bytes: two large pages
WORD_BYTES = 4  # kernels read panels in such words whatever the dtype


@dataclass(frozen=True)
class PackedWeight:
    """A weight [.., out_features, in_features] in panels."""

    panels: Tensor
    out_features: int
    in_features: int
    format: str
    """"fp32", "bf16", "int8" or "int4"."""

    def __post_init__(self) -> None:
        _check_aligned(type(self).__name__, "panels", self.panels)

    @property
    def quantized(self) -> bool:
        """Whether the weight is in integers; then activations of either dtype are taken."""
        return self.format in QUANTIZED

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.panels.nbytes

    def unpack(self) -> Tensor:
        """The weight [.., out_features, in_features]: bit for bit, or in float32 what the quantised one stands for."""
        return unpack_panels(self.panels, self.out_features, self.in_features, self.format)[0].contiguous()

    def check_input(self, op: str, name: str, x: Tensor) -> None:
        """Raise TypeError or ValueError unless x [.., in_features] can be multiplied with this weight."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"{op}: {name} must be [.., {self.in_features}], got {list(x.shape)}")
        check_format(op, name, x, self.format, self.panels)


@dataclass(frozen=True)
class PackedLinear(PackedWeight):
    """A weight [out_features, in_features] in panels; see :func:`pack_linear`."""

    def reference(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x weightᵀ + bias in plain PyTorch, in x's dtype."""
        rows = rounded_rows(x) if self.quantized else x
        bias = bias.to(rows.dtype) if bias is not None else None
        return torch.nn.functional.linear(rows, self.unpack(), bias).to(x.dtype)


@dataclass(frozen=True)
class PackedGroups(PackedWeight):
    """Weights [E, out_features, in_features] in panels; see :func:`pack_grouped`.

    ``PackedGroups(experts.down, experts.hidden_size, experts.intermediate_size, experts.format)`` is the down
    projection of :class:`PackedExperts`, in the same memory.
    """

    @property
    def num_groups(self) -> int:
        """E."""
        return self.panels.shape[0]


def check_format(op: str, name: str, x: Tensor, format: str, panels: Tensor) -> None:
    """Raise TypeError or ValueError unless x may meet panels of that format."""
    if panels.device != x.device:
        raise ValueError(f"{op}: packed weights must be on {x.device}, got {panels.device}")
    if format not in QUANTIZED and panels.dtype != x.dtype:
        expected, got = (str(dtype).removeprefix("torch.") for dtype in (panels.dtype, x.dtype))
        raise TypeError(f"{op}: {name} must be {expected}, the dtype of the packed weights, got {got}")


def _check_aligned(op: str, name: str, panels: Tensor) -> None:
    past = panels.data_ptr() % WORD_BYTES if _check.has_values(panels) else 0
    _check.require(op, name, past == 0, f"aligned to {WORD_BYTES} bytes", f"an address {past} past that")


@dataclass(frozen=True)
class PackedExperts:
    """The experts of one layer in panels: built whole by :func:`pack_experts`, or expert by expert."""

    gate_up: Tensor
    """[E, panels, ..], 16 gate and 16 up columns a panel."""
    down: Tensor
    """[E, panels, ..]."""
    hidden_size: int
    intermediate_size: int
    format: str
    """"fp32", "bf16", "int8" or "int4"."""

    def __post_init__(self) -> None:
        _check_aligned("PackedExperts", "gate_up", self.gate_up)
        _check_aligned("PackedExperts", "down", self.down)

    @staticmethod
    def panel_shapes(
        num_experts: int, hidden_size: int, intermediate_size: int, format: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of ``gate_up`` and ``down``."""
        gate_up = panel_shape(intermediate_size, hidden_size, format, PANEL_COLUMNS // 2)
        return (num_experts, *gate_up), (num_experts, *panel_shape(hidden_size, intermediate_size, format))

    @classmethod
    def empty(
        cls,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        format: str,
        device: torch.device | str = "cpu",
    ) -> PackedExperts:
        """Room for E experts, to be filled by :meth:`set_expert`.

        Raises:
            ValueError: an unknown format, or a negative size.
        """
        _check_format_name("PackedExperts", format)
        sizes = (num_experts, hidden_size, intermediate_size)
        _check.require("PackedExperts", "sizes", min(sizes) >= 0, "not negative", sizes)
        gate_up, down = cls.panel_shapes(*sizes, format)
        return cls(
            _room(gate_up, format, device),
            _room(down, format, device),
            hidden_size,
            intermediate_size,
            format,
        )

    @property
    def num_experts(self) -> int:
        """E."""
        return self.gate_up.shape[0]

    @property
    def quantized(self) -> bool:
        """Whether the weights are in integers; then activations of either dtype are taken."""
        return self.format in QUANTIZED

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.gate_up.nbytes + self.down.nbytes

    @torch.no_grad()
    def set_expert(self, expert: int, gate: Tensor, up: Tensor, down: Tensor) -> None:
        """Pack one expert: gate and up [I, H], down [H, I], of this object's dtype (quantised: either one).

        Raises:
            TypeError: an argument is no tensor or has another dtype.
            ValueError: a wrong shape, or an expert out of range.
        """
        _check.require(
            "set_expert", "expert", 0 <= expert < self.num_experts, f"in 0 .. {self.num_experts - 1}", expert
        )
        shape = (self.intermediate_size, self.hidden_size)
        dtypes = _check.FLOATING if self.quantized else (self.down.dtype,)
        for name, value, wanted in (("gate", gate, shape), ("up", up, shape), ("down", down, shape[::-1])):
            _check.tensor(
                "set_expert",
                name,
                value,
                dtypes=dtypes,
                shape=wanted,
                device=self.down.device,
                rows_contiguous=True,
            )
        if runs_natively(down):
            torch.ops.llada_moe.pack_expert(gate, up, down, self.gate_up[expert], self.down[expert])
        else:
            self.gate_up[expert].copy_(pack_panels_reference([gate, up], self.format))
            self.down[expert].copy_(pack_panels_reference([down], self.format))

    def unpack(self) -> tuple[Tensor, Tensor]:
        """(gate_up_proj [E, 2I, H], down_proj [E, H, I]): bit for bit, or in float32 what quantised ones stand for."""
        gate, up = unpack_panels(self.gate_up, self.intermediate_size, self.hidden_size, self.format, parts=2)
        down = unpack_panels(self.down, self.hidden_size, self.intermediate_size, self.format)[0]
        return torch.cat([gate, up], dim=1), down.contiguous()


@torch.no_grad()
def pack_linear(weight: Tensor, format: str | None = None) -> PackedLinear:
    """Pack a weight [N, K] once, so that :func:`linear` streams it.

    Args:
        weight: [N, K] float32 or bfloat16, last dimension contiguous.
        format: "fp32" or "bf16" (converted when it differs), "int8" or "int4" (quantised); None keeps the dtype.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: a wrong shape or layout, or an unknown format.
    """
    _check.tensor("pack_linear", "weight", weight, dtypes=_check.FLOATING, shape=("N", "K"), rows_contiguous=True)
    format, weight = _in_format("pack_linear", format, weight)
    columns, k = weight.shape
    if not runs_natively(weight):
        return PackedLinear(pack_panels_reference([weight], format), columns, k, format)
    panels = _room(panel_shape(columns, k, format), format, weight.device)
    torch.ops.llada_moe.pack_linear(weight, panels)
    return PackedLinear(panels, columns, k, format)


@torch.no_grad()
def pack_grouped(weight: Tensor, format: str | None = None) -> PackedGroups:
    """Pack the weights [E, N, K] of E groups once, so that :func:`grouped_gemm` streams them.

    Args:
        weight: [E, N, K] float32 or bfloat16, last dimension contiguous.
        format: as for :func:`pack_linear`.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: a wrong shape or layout, or an unknown format.
    """
    op = "pack_grouped"
    _check.tensor(op, "weight", weight, dtypes=_check.FLOATING, shape=("E", "N", "K"), rows_contiguous=True)
    format = _in_format(op, format, weight[:0])[0]
    groups, columns, k = weight.shape
    panels = _room((groups, *panel_shape(columns, k, format)), format, weight.device)
    for group in range(groups):
        matrix = _in_format(op, format, weight[group])[1]
        if runs_natively(weight):
            torch.ops.llada_moe.pack_linear(matrix, panels[group])
        else:
            panels[group].copy_(pack_panels_reference([matrix], format))
    return PackedGroups(panels, columns, k, format)


@torch.no_grad()
def pack_experts(gate_up_proj: Tensor, down_proj: Tensor, format: str | None = None) -> PackedExperts:
    """Pack the experts of one layer once, so that :func:`moe_mlp` streams them.

    Args:
        gate_up_proj: [E, 2I, H] float32 or bfloat16, gate rows first (the layout of transformers 5).
        down_proj: [E, H, I] of the same dtype.
        format: "fp32" or "bf16" (converted when it differs), "int8" or "int4" (quantised); None keeps the dtype.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: a wrong shape or layout, or an unknown format.
    """
    op = "pack_experts"
    _check.tensor(
        op, "gate_up_proj", gate_up_proj, dtypes=_check.FLOATING, shape=("E", "2I", "H"), rows_contiguous=True
    )
    experts, rows, hidden = gate_up_proj.shape
    _check.require(op, "gate_up_proj", rows % 2 == 0, "of an even second size", list(gate_up_proj.shape))
    _check.tensor(
        op,
        "down_proj",
        down_proj,
        dtypes=(gate_up_proj.dtype,),
        shape=(experts, hidden, rows // 2),
        device=gate_up_proj.device,
        rows_contiguous=True,
    )
    format = _in_format(op, format, gate_up_proj[:0])[0]
    packed = PackedExperts.empty(experts, hidden, rows // 2, format, gate_up_proj.device)
    for expert in range(experts):
        gate, up = _in_format(op, format, gate_up_proj[expert])[1].chunk(2)
        packed.set_expert(expert, gate, up, _in_format(op, format, down_proj[expert])[1])
    return packed


def _room(shape: tuple[int, ...], format: str, device: torch.device | str) -> Tensor:
    """Uninitialised panels; in large pages where the system has them, since a stream of weights crosses many pages."""
    dtype = FORMATS[format]
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or size < LARGE_PAGE_FROM or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _check_format_name(op: str, name: str) -> None:
    _check.require(op, "format", name in FORMATS, " or ".join(map(repr, FORMATS)), repr(name))


def _in_format(op: str, name: str | None, weight: Tensor) -> tuple[str, Tensor]:
    """The format, and the weight in the dtype that it is packed from."""
    name = format_of(weight.dtype) if name is None else name
    _check_format_name(op, name)
    return name, weight if name in QUANTIZED else weight.to(FORMATS[name])


if native():

    @torch.library.register_fake("llada_moe::pack_linear")
    def _pack_linear_fake(weight: Tensor, packed: Tensor) -> None:
        return None

    @torch.library.register_fake("llada_moe::pack_expert")
    def _pack_expert_fake(gate: Tensor, up: Tensor, down: Tensor, gate_up_packed: Tensor, down_packed: Tensor) -> None:
        return None
