"""Expert weights in bytes for GPUs: half the bytes of a decode step. Activations keep their dtype.

weight = byte · the scale of its row, symmetric, scale = largest magnitude / 127: as in the int8 format of
:mod:`.packing`, whose panels are in the order of the CPU's kernels. Here a row keeps its place, and of each 16 k-values
the bytes 4 t … 4 t + 3 are k = 2 t, 2 t + 1, 2 t + 8 and 2 t + 9: what a thread of a tensor core's product needs at a
time. K is padded with zeros to a multiple of 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import _check
from ._library import native

GROUP = 16
# k of each byte of a group, and where each k's byte is.
ORDER = tuple(2 * t + k for t in range(4) for k in (0, 1, 8, 9))
PLACE = tuple(ORDER.index(k) for k in range(GROUP))


@dataclass(frozen=True)
class Int8Experts:
    """The experts of one layer in bytes; see :func:`quantize_experts`."""

    gate_up: Tensor
    """int8 [E, 2I, H padded], gate rows first."""
    gate_up_scale: Tensor
    """float32 [E, 2I]."""
    down: Tensor
    """int8 [E, H, I padded]."""
    down_scale: Tensor
    """float32 [E, H]."""
    hidden_size: int
    intermediate_size: int

    @property
    def num_experts(self) -> int:
        """E."""
        return self.gate_up.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in (self.gate_up, self.gate_up_scale, self.down, self.down_scale))

    def unpack(self) -> tuple[Tensor, Tensor]:
        """(gate_up_proj [E, 2I, H], down_proj [E, H, I]) in float32: what the bytes stand for."""
        return (
            _weights_of(self.gate_up, self.gate_up_scale, self.hidden_size),
            _weights_of(self.down, self.down_scale, self.intermediate_size),
        )


@torch.no_grad()
def quantize_experts(gate_up_proj: Tensor, down_proj: Tensor) -> Int8Experts:
    """Quantise the experts of one layer to bytes, for :func:`moe_mlp` on a GPU.

    Args:
        gate_up_proj: [E, 2I, H] float32 or bfloat16, on a GPU also float16, gate rows first.
        down_proj: [E, H, I] of the same dtype and device.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: a wrong shape or device.
    """
    op = "quantize_experts"
    _check.tensor(op, "gate_up_proj", gate_up_proj, dtypes=_check.FLOATING, shape=("E", "2I", "H"))
    experts, rows, hidden = gate_up_proj.shape
    _check.require(op, "gate_up_proj", rows % 2 == 0, "of an even second size", list(gate_up_proj.shape))
    like: dict[str, Any] = {"dtypes": (gate_up_proj.dtype,), "device": gate_up_proj.device}
    _check.tensor(op, "down_proj", down_proj, shape=(experts, hidden, rows // 2), **like)
    return Int8Experts(*_bytes_of(gate_up_proj), *_bytes_of(down_proj), hidden, rows // 2)


def _bytes_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(bytes [E, N, K padded], scales [E, N]), expert by expert: a copy in float32 of all would not fit."""
    experts, rows, k = weight.shape
    padded = -(-k // GROUP) * GROUP
    digits = torch.empty(experts, rows, padded, dtype=torch.int8, device=weight.device)
    scales = torch.empty(experts, rows, dtype=torch.float32, device=weight.device)
    order = torch.tensor(ORDER, device=weight.device)
    for expert in range(experts):
        values = functional.pad(weight[expert].float(), (0, padded - k))
        largest = functional.pad(values, (0, 1)).abs().amax(-1)
        scales[expert] = largest / 127.0
        inverse = torch.where(largest > 2.0**-120, 127.0 / largest, 0.0)
        rounded = (values * inverse.unsqueeze(-1)).round().to(torch.int8)
        digits[expert] = rounded.unflatten(-1, (-1, GROUP))[..., order].flatten(-2)
    return digits, scales


def _weights_of(digits: Tensor, scales: Tensor, k: int) -> Tensor:
    place = torch.tensor(PLACE, device=digits.device)
    return digits.unflatten(-1, (-1, GROUP))[..., place].flatten(-2)[..., :k].float() * scales.unsqueeze(-1)


if native():

    @torch.library.register_fake("llada_moe::moe_mlp_int8")
    def _moe_mlp_int8_fake(
        x: Tensor,
        weights: Tensor,
        experts: Tensor,
        gate_up: Tensor,
        gate_up_scale: Tensor,
        down: Tensor,
        down_scale: Tensor,
    ) -> Tensor:
        return x.new_empty(x.shape)
