"""The layout of packed weights, in plain PyTorch: the specification of what the kernels stream.

A panel holds 32 output columns (weight rows) cut along K into 32-bit lanes; columns and K are padded with zeros.

* fp32, bf16: a lane is one fp32 or two bf16. [panels, lanes, 32, values per lane]. Unpacking gives back every bit.
* int8: a lane is four bytes, weight = (byte - 128) · scale, the byte taken as unsigned. [panels, bytes] in an int8
  tensor: the lanes, then 32 fp32 column scales.
* int4: weight = (nibble - 8) · multiplier · scale, with a multiplier of 1 .. 16 for 32 k-values of a column and an fp32
  scale for the column: 4.25 bits a weight. [panels, bytes] in a uint8 tensor: blocks of 64 k-values, each with [2, 32]
  multiplier bytes and eight lanes of eight nibbles (byte j of a lane: k = j in its low half, k = j + 4 in its high
  half); then the scales. The scale is such that the largest multiplier just reaches the column's extremes; a group's
  multiplier is the one of least squared error.

The experts' gate and up projections share panels, 16 columns each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PANEL_COLUMNS = 32
INT4_GROUP = 32
LARGEST_MULTIPLIER = 16
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8, "int4": torch.uint8}
QUANTIZED = ("int8", "int4")


def format_of(dtype: torch.dtype) -> str:
    """The format that keeps a floating dtype as it is."""
    return "bf16" if dtype == torch.bfloat16 else "fp32"


def panel_shape(columns: int, k: int, format: str, panel_columns: int = PANEL_COLUMNS) -> tuple[int, ...]:
    """The sizes of a packed weight of so many columns and k-values."""
    panels = -(-columns // panel_columns)
    if format == "int8":
        return (panels, (-(-k // 4) * 4 + 4) * PANEL_COLUMNS)
    if format == "int4":
        return (panels, -(-k // (2 * INT4_GROUP)) * (2 + INT4_GROUP) * PANEL_COLUMNS + 4 * PANEL_COLUMNS)
    values = 2 if format == "bf16" else 1
    return (panels, -(-k // values), PANEL_COLUMNS, values)


def pack_panels_reference(weights: list[Tensor], format: str) -> Tensor:
    """The specification of packing: weights [N, K] that share each panel equally (one, or gate and up)."""
    share = PANEL_COLUMNS // len(weights)
    step = {"fp32": 1, "bf16": 2, "int8": 4, "int4": 2 * INT4_GROUP}[format]
    padded = [functional.pad(weight, (0, -weight.shape[1] % step, 0, -weight.shape[0] % share)) for weight in weights]
    columns = torch.cat([weight.unflatten(0, (-1, share)) for weight in padded], dim=1)  # [panels, 32, K]
    if format == "int8":
        return _int8_panels(columns.float())
    if format == "int4":
        return _int4_panels(columns.float())
    return columns.unflatten(2, (-1, step)).transpose(1, 2).contiguous()


def unpack_panels(panels: Tensor, columns: int, k: int, format: str, parts: int = 1) -> list[Tensor]:
    """The weights [.., N, K] of packed panels; leading dimensions are kept. Quantised ones come out as float32."""
    rows = {"int8": _int8_columns, "int4": _int4_columns}.get(format, _plain_columns)(panels)[..., :k]
    share = PANEL_COLUMNS // parts
    return [part.flatten(-3, -2)[..., :columns, :] for part in rows.split(share, dim=-2)]


def quantize_rows_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """How activations meet quantised weights: (bytes int8 [.., K], scales float32 [.., 1]), x ≈ bytes · scale.

    The scale is the row's largest magnitude / 127. A row with an infinity or a NaN gets zeros and a scale of NaN.
    """
    values = x.float()
    largest = values.abs().amax(-1, keepdim=True) if values.shape[-1] else values.new_zeros(*values.shape[:-1], 1)
    finite = largest < torch.inf
    inverse = torch.where(finite & (largest > 2.0**-120), 127.0 / largest, 0.0)
    digits = torch.where(finite, values * inverse, 0.0).round().to(torch.int8)
    return digits, torch.where(finite, largest / 127.0, torch.nan)


def rounded_rows(x: Tensor) -> Tensor:
    """Activations as a product with quantised weights sees them, float32 [.., K]."""
    digits, scales = quantize_rows_reference(x)
    return digits.float() * scales


def _plain_columns(panels: Tensor) -> Tensor:
    return panels.transpose(-3, -2).flatten(-2)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale > 2.0**-120, 1.0 / scale, 0.0)


def _scales(panels: Tensor) -> Tensor:
    return panels[..., -4 * PANEL_COLUMNS :].contiguous().view(torch.float32).unsqueeze(-1)


def _int8_panels(columns: Tensor) -> Tensor:
    scale = columns.abs().amax(2) / 127.0 if columns.shape[2] else columns.new_zeros(columns.shape[:2])
    digits = (columns * _inverse(scale).unsqueeze(-1)).round().clamp(-127, 127) + 128
    lanes = digits.to(torch.uint8).unflatten(2, (-1, 4)).transpose(1, 2)
    return torch.cat([lanes.flatten(1), scale.contiguous().view(torch.uint8)], dim=1).view(torch.int8)


def _int8_columns(panels: Tensor) -> Tensor:
    lanes = panels.view(torch.uint8)[..., : -4 * PANEL_COLUMNS].unflatten(-1, (-1, PANEL_COLUMNS, 4))
    return (_plain_columns(lanes).float() - 128.0) * _scales(panels)


def _int4_panels(columns: Tensor) -> Tensor:
    groups = columns.unflatten(2, (-1, INT4_GROUP))  # [panels, 32, groups, 32]
    values = functional.pad(columns, (0, 1))  # a zero, so that there is a value even where K is 0
    scale = torch.maximum(values.amin(2) / -8.0, values.amax(2) / 7.0) / LARGEST_MULTIPLIER
    steps = scale[..., None] * torch.arange(1, LARGEST_MULTIPLIER + 1, device=columns.device)  # [panels, 32, 16]
    inverse = _inverse(scale)[..., None] / torch.arange(1, LARGEST_MULTIPLIER + 1, device=columns.device)
    # Errors are squared in units near the scale: those of very small or large weights would not fit a float.
    per_unit = torch.ldexp(torch.ones_like(scale), -torch.frexp(scale).exponent)[..., None, None]
    best, least = torch.ones_like(groups[..., 0]), torch.full_like(groups[..., 0], torch.inf)
    for index in range(LARGEST_MULTIPLIER):
        step, over = steps[..., index, None, None], inverse[..., index, None, None]
        error = ((groups - (groups * over).round().clamp(-8, 7) * step) * per_unit).square().sum(-1)
        best = torch.where(error < least, index + 1.0, best)
        least = torch.minimum(error, least)
    digits = (groups * (_inverse(scale)[..., None] / best)[..., None]).round().clamp(-8, 7) + 8
    lanes = digits.to(torch.uint8).flatten(2).unflatten(2, (-1, 8, 2, 4))  # [panels, 32, blocks, lanes, halves, bytes]
    nibbles = lanes[..., 0, :] | lanes[..., 1, :] << 4
    multipliers = best.to(torch.uint8).unflatten(2, (-1, 2)).permute(0, 2, 3, 1).flatten(2)  # [panels, blocks, 64]
    blocks = torch.cat([multipliers, nibbles.permute(0, 2, 3, 1, 4).flatten(2)], dim=2)
    return torch.cat([blocks.flatten(1), scale.contiguous().view(torch.uint8)], dim=1)


def _int4_columns(panels: Tensor) -> Tensor:
    block_bytes = (2 + INT4_GROUP) * PANEL_COLUMNS
    blocks = panels[..., : -4 * PANEL_COLUMNS].unflatten(-1, (-1, block_bytes))
    multipliers = blocks[..., : 2 * PANEL_COLUMNS].unflatten(-1, (2, PANEL_COLUMNS))  # [.., blocks, groups, 32]
    nibbles = blocks[..., 2 * PANEL_COLUMNS :].unflatten(-1, (8, PANEL_COLUMNS, 4))  # [.., blocks, lanes, 32, bytes]
    digits = torch.stack([nibbles & 15, nibbles >> 4], dim=-2).float() - 8.0  # [.., blocks, lanes, 32, halves, bytes]
    rows = digits.transpose(-4, -3).flatten(-3)  # [.., blocks, 32, 64]
    scaled = rows.unflatten(-1, (2, INT4_GROUP)) * multipliers.transpose(-1, -2).unsqueeze(-1)
    return scaled.flatten(-2).movedim(-2, -3).flatten(-2) * _scales(panels)
