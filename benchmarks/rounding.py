"""Ways of rounding weights to few bits, in plain PyTorch: what the choice of the packed formats was measured against.

Each takes a weight [.., N, K] and gives back the float32 weight that the rounded one stands for. Scales of groups are
kept in 16 bits, as other libraries do; a search tries 41 scales between 0.6 and 1 times the one that just reaches the
largest value and keeps the one of least squared error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from llada_moe_ops import ops
from torch import Tensor
from torch.nn import functional

SEARCH = torch.linspace(0.6, 1.0, 41).tolist()


def round_to_grid(values: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """values [.., K] on the grid of step scale [.., 1]; zeros where the scale is zero."""
    inverse = torch.where(scale > 0, 1.0 / scale, 0.0)
    return (values * inverse).round().clamp(lowest, highest) * scale


def best_scale(values: Tensor, reaching: Tensor, lowest: int, highest: int) -> Tensor:
    """Of the searched scales [.., 1] the one of least squared error over the last dimension."""
    best, least = reaching, torch.full_like(reaching, torch.inf)
    for factor in SEARCH:
        scale = reaching * factor
        error = (values - round_to_grid(values, scale, lowest, highest)).square().sum(-1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def int8(weight: Tensor, search: bool) -> Tensor:
    """One scale for each of the N columns, -127 .. 127."""
    values = weight.float()
    scale = values.abs().amax(-1, keepdim=True) / 127
    if search:
        scale = best_scale(values, scale, -127, 127)
    return round_to_grid(values, scale, -127, 127)


def reaching_int4(values: Tensor) -> Tensor:
    """The step at which -8 .. 7 just reach the lowest and highest of values [.., K]: [.., 1]."""
    return torch.maximum(values.amin(-1, keepdim=True) / -8, values.amax(-1, keepdim=True) / 7)


def int4(weight: Tensor, group: int, search: bool) -> Tensor:
    """One scale in 16 bits for each group along K, -8 .. 7."""
    values = functional.pad(weight.float(), (0, -weight.shape[-1] % group)).unflatten(-1, (-1, group))
    scale = reaching_int4(values)
    if search:
        scale = best_scale(values, scale, -8, 7)
    return round_to_grid(values, scale.half().float(), -8, 7).flatten(-2)[..., : weight.shape[-1]]


def int4_multipliers(weight: Tensor, search: bool) -> Tensor:
    """The packed format: groups of 32 share a multiplier 1 .. 16 of the column's scale."""
    if search:
        columns = weight.flatten(0, -2)
        return ops.pack_linear(columns.contiguous(), format="int4").unpack().view(weight.shape)
    values = functional.pad(weight.float(), (0, -weight.shape[-1] % 32)).unflatten(-1, (-1, 32))
    reach = reaching_int4(values)
    scale = reach.amax(-2, keepdim=True) / 16
    step = scale * (reach / scale).nan_to_num(1.0).sub(1e-4).ceil().clamp(1, 16)
    return round_to_grid(values, step, -8, 7).flatten(-2)[..., : weight.shape[-1]]


@dataclass(frozen=True)
class Rounding:
    """A way of rounding, with the bits that it keeps of a weight (of K = 2048)."""

    format: str
    bits: float
    apply: Callable[[Tensor], Tensor]


ROUNDINGS = {
    "int8, largest magnitude (packed format)": Rounding("int8", 8 + 32 / 2048, lambda w: int8(w, False)),
    "int8, searched": Rounding("int8", 8 + 32 / 2048, lambda w: int8(w, True)),
    "int4, groups of 32": Rounding("int4", 4 + 16 / 32, lambda w: int4(w, 32, False)),
    "int4, groups of 32, searched": Rounding("int4", 4 + 16 / 32, lambda w: int4(w, 32, True)),
    "int4, groups of 64": Rounding("int4", 4 + 16 / 64, lambda w: int4(w, 64, False)),
    "int4, groups of 64, searched": Rounding("int4", 4 + 16 / 64, lambda w: int4(w, 64, True)),
    "int4, groups of 128": Rounding("int4", 4 + 16 / 128, lambda w: int4(w, 128, False)),
    "int4, groups of 128, searched": Rounding("int4", 4 + 16 / 128, lambda w: int4(w, 128, True)),
    "int4, groups of 32, 4-bit multipliers": Rounding(
        "int4", 4 + 8 / 32 + 32 / 2048, lambda w: int4_multipliers(w, False)
    ),
    "int4, groups of 32, 4-bit multipliers, searched (packed format)": Rounding(
        "int4", 4 + 8 / 32 + 32 / 2048, lambda w: int4_multipliers(w, True)
    ),
}
