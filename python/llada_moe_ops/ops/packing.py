"""Weights in the order in which the CPU kernels read them.

A panel holds 32 output columns (weight rows) cut along K into 32-bit lanes: one fp32, or two bf16. A packed weight is
[panels, lanes, 32, values per lane]; columns and K are padded with zeros. The experts' gate and up projections share
panels, 16 columns each. One layout serves every instruction set, and unpacking gives back every bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from . import _check
from ._library import native, runs_natively

PANEL_COLUMNS = 32
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
LATER_FORMATS = ("int8", "int4")


def _lane_values(dtype: torch.dtype) -> int:
    return 2 if dtype == torch.bfloat16 else 1


def _panel_shape(columns: int, k: int, dtype: torch.dtype, panel_columns: int = PANEL_COLUMNS) -> tuple[int, ...]:
    values = _lane_values(dtype)
    return (-(-columns // panel_columns), -(-k // values), PANEL_COLUMNS, values)


def pack_panels_reference(weights: list[Tensor]) -> Tensor:
    """The specification of packing: weights [N, K] that share each panel equally (one, or gate and up)."""
    share = PANEL_COLUMNS // len(weights)
    columns, k = weights[0].shape
    values = _lane_values(weights[0].dtype)
    padded = [functional.pad(weight, (0, -k % values, 0, -columns % share)) for weight in weights]
    panels = torch.cat([weight.unflatten(0, (-1, share)) for weight in padded], dim=1)
    return panels.unflatten(2, (-1, values)).transpose(1, 2).contiguous()


def unpack_panels(panels: Tensor, columns: int, k: int, parts: int = 1) -> list[Tensor]:
    """The inverse of :func:`pack_panels_reference`; leading dimensions are kept."""
    rows = panels.transpose(-3, -2).flatten(-2)[..., :k]
    share = PANEL_COLUMNS // parts
    return [part.flatten(-3, -2)[..., :columns, :] for part in rows.split(share, dim=-2)]


@dataclass(frozen=True)
class PackedLinear:
    """A weight [out_features, in_features] in panels; see :func:`pack_linear`."""

    panels: Tensor
    out_features: int
    in_features: int

    @property
    def dtype(self) -> torch.dtype:
        """float32 or bfloat16."""
        return self.panels.dtype

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.panels.nbytes

    def unpack(self) -> Tensor:
        """The weight [out_features, in_features], bit for bit."""
        return unpack_panels(self.panels, self.out_features, self.in_features)[0].contiguous()


@dataclass(frozen=True)
class PackedExperts:
    """The experts of one layer in panels: built whole by :func:`pack_experts`, or expert by expert."""

    gate_up: Tensor
    """[E, panels, lanes, 32, values per lane], 16 gate and 16 up columns a panel."""
    down: Tensor
    """[E, panels, lanes, 32, values per lane]."""
    hidden_size: int
    intermediate_size: int

    @classmethod
    def empty(
        cls,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> PackedExperts:
        """Room for E experts, to be filled by :meth:`set_expert`.

        Raises:
            TypeError: dtype is neither float32 nor bfloat16.
            ValueError: a negative size.
        """
        if dtype not in _check.FLOATING:
            raise TypeError(f"PackedExperts: dtype must be float32 or bfloat16, got {dtype}")
        sizes = (num_experts, hidden_size, intermediate_size)
        _check.require("PackedExperts", "sizes", min(sizes) >= 0, "not negative", sizes)
        gate_up = _panel_shape(intermediate_size, hidden_size, dtype, PANEL_COLUMNS // 2)
        down = _panel_shape(hidden_size, intermediate_size, dtype)
        return cls(
            torch.empty(num_experts, *gate_up, dtype=dtype, device=device),
            torch.empty(num_experts, *down, dtype=dtype, device=device),
            hidden_size,
            intermediate_size,
        )

    @property
    def num_experts(self) -> int:
        """E."""
        return self.gate_up.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """float32 or bfloat16."""
        return self.gate_up.dtype

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.gate_up.nbytes + self.down.nbytes

    @torch.no_grad()
    def set_expert(self, expert: int, gate: Tensor, up: Tensor, down: Tensor) -> None:
        """Pack one expert: gate and up [I, H], down [H, I], of this object's dtype.

        Raises:
            TypeError: an argument is no tensor or has another dtype.
            ValueError: a wrong shape, or an expert out of range.
        """
        _check.require(
            "set_expert", "expert", 0 <= expert < self.num_experts, f"in 0 .. {self.num_experts - 1}", expert
        )
        shape = (self.intermediate_size, self.hidden_size)
        for name, value, wanted in (("gate", gate, shape), ("up", up, shape), ("down", down, shape[::-1])):
            _check.tensor(
                "set_expert",
                name,
                value,
                dtypes=(self.dtype,),
                shape=wanted,
                device=self.down.device,
                rows_contiguous=True,
            )
        if runs_natively(down):
            torch.ops.llada_moe.pack_expert(gate, up, down, self.gate_up[expert], self.down[expert])
        else:
            self.gate_up[expert].copy_(pack_panels_reference([gate, up]))
            self.down[expert].copy_(pack_panels_reference([down]))

    def unpack(self) -> tuple[Tensor, Tensor]:
        """(gate_up_proj [E, 2I, H], down_proj [E, H, I]), bit for bit."""
        gate, up = unpack_panels(self.gate_up, self.intermediate_size, self.hidden_size, parts=2)
        down = unpack_panels(self.down, self.hidden_size, self.intermediate_size)[0]
        return torch.cat([gate, up], dim=1), down.contiguous()


@torch.no_grad()
def pack_linear(weight: Tensor, format: str | None = None) -> PackedLinear:
    """Pack a weight [N, K] once, so that :func:`linear` streams it.

    Args:
        weight: [N, K] float32 or bfloat16, last dimension contiguous.
        format: "fp32" or "bf16" (converted when it differs); None keeps the weight's dtype.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: a wrong shape or layout, or a format that this version does not have.
    """
    _check.tensor("pack_linear", "weight", weight, dtypes=_check.FLOATING, shape=("N", "K"), rows_contiguous=True)
    weight = weight.to(_format_dtype("pack_linear", format, weight.dtype))
    columns, k = weight.shape
    if not runs_natively(weight):
        return PackedLinear(pack_panels_reference([weight]), columns, k)
    packed = PackedLinear(weight.new_empty(_panel_shape(columns, k, weight.dtype)), columns, k)
    torch.ops.llada_moe.pack_linear(weight, packed.panels)
    return packed


@torch.no_grad()
def pack_experts(gate_up_proj: Tensor, down_proj: Tensor, format: str | None = None) -> PackedExperts:
    """Pack the experts of one layer once, so that :func:`moe_mlp` streams them.

    Args:
        gate_up_proj: [E, 2I, H] float32 or bfloat16, gate rows first (the layout of transformers 5).
        down_proj: [E, H, I] of the same dtype.
        format: "fp32" or "bf16" (converted when it differs); None keeps the weights' dtype.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: a wrong shape or layout, or a format that this version does not have.
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
    dtype = _format_dtype(op, format, gate_up_proj.dtype)
    packed = PackedExperts.empty(experts, hidden, rows // 2, dtype, gate_up_proj.device)
    for expert in range(experts):
        gate, up = gate_up_proj[expert].to(dtype).chunk(2)
        packed.set_expert(expert, gate, up, down_proj[expert].to(dtype))
    return packed


def _format_dtype(op: str, name: str | None, default: torch.dtype) -> torch.dtype:
    if name is None:
        return default
    if name in LATER_FORMATS:
        raise ValueError(f"{op}: format {name!r} is not supported yet by this version; use 'bf16' or 'fp32'")
    _check.require(op, "format", name in FORMATS, " or ".join(map(repr, FORMATS)), repr(name))
    return FORMATS[name]


if native():

    @torch.library.register_fake("llada_moe::pack_linear")
    def _pack_linear_fake(weight: Tensor, packed: Tensor) -> None:
        return None

    @torch.library.register_fake("llada_moe::pack_expert")
    def _pack_expert_fake(gate: Tensor, up: Tensor, down: Tensor, gate_up_packed: Tensor, down_packed: Tensor) -> None:
        return None
