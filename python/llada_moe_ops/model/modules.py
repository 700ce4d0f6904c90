"""The small parts of the model: a projection, a normalisation and a dense SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import ops
from ..ops import PackedLinear


class Linear(nn.Module):
    """A projection whose weight is either a trainable parameter [N, K] or packed for inference."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.shape = (out_features, in_features)
        self.weight: nn.Parameter | PackedLinear = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)

    def pack(self) -> None:
        """Replace the parameter by its packed form."""
        if isinstance(self.weight, Tensor):
            self.set_packed(ops.pack_linear(self.weight.detach()))

    def set_packed(self, weight: PackedLinear) -> None:
        """Hold the weight in packed form."""
        del self.weight
        self.weight = weight


class RMSNorm(nn.Module):
    """Weight of a root-mean-square normalisation."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, update: Tensor | None, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(normalised sum, sum) of the residual stream and what a layer adds to it; None adds nothing."""
        if update is None:
            return self(residual), residual
        return ops.add_rms_norm(update, residual, self.weight, self.eps)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)): a dense layer, or the shared expert."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, intermediate)
        self.up_proj = Linear(hidden, intermediate)
        self.down_proj = Linear(intermediate, hidden)

    def forward(self, x: Tensor, router_logits: list[Tensor] | None = None) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
