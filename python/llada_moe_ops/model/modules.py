"""The small parts of the model: a projection, a normalisation, the mask of padded keys, the input checks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import ops
from ..ops import PackedLinear
from .config import LLaDAMoEConfig


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
            self.set_packed(self.weight.detach())

    def set_packed(self, weight: Tensor, format: str | None = None) -> None:
        """Hold a weight [N, K] in packed form; format None keeps its dtype."""
        del self.weight
        self.weight = ops.pack_linear(weight, format)


class RMSNorm(nn.Module):
    """Weight of a root-mean-square normalisation."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


@dataclass(frozen=True)
class KeyMask:
    """Which keys a batch may attend to: a contiguous range per row, or any set of positions."""

    key_range: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def from_attention_mask(cls, attention_mask: Tensor | None, length: int) -> KeyMask:
        """From [B, L] with 1 (or True) at real tokens; no mask when every token is real."""
        if attention_mask is None:
            return cls()
        real = attention_mask.bool()
        if bool(real.all()):
            return cls()
        counts = real.sum(1)
        start = real.int().argmax(1)
        positions = torch.arange(length, device=real.device)
        end = start + counts
        contiguous = ((positions >= start[:, None]) & (positions < end[:, None])) == real
        if bool(contiguous.all()):
            return cls(key_range=torch.stack([start, end], dim=1).to(torch.int32))
        return cls(mask=real[:, None, None, :].expand(-1, 1, length, -1).contiguous())


def check_inputs(
    config: LLaDAMoEConfig,
    input_ids: object,
    attention_mask: Tensor | None,
    positions: Tensor | None,
    cache: None,
) -> None:
    """Check the arguments of a forward pass.

    Raises:
        TypeError, ValueError: an argument of the wrong dtype, shape or range; the message names it.
    """
    if not isinstance(input_ids, Tensor) or input_ids.dtype not in (torch.int32, torch.int64):
        kind = input_ids.dtype if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise TypeError(f"input_ids must be an integer tensor, got {kind}")
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids must have shape [B, L], got {list(input_ids.shape)}")
    if input_ids.shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"input_ids must have at most max_position_embeddings {config.max_position_embeddings} positions, "
            f"got {input_ids.shape[1]}"
        )
    for name, value in (("attention_mask", attention_mask), ("positions", positions)):
        if value is not None and value.shape != input_ids.shape:
            raise ValueError(f"{name} must have shape {list(input_ids.shape)}, got {list(value.shape)}")
    if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < config.vocab_size:
        raise ValueError(
            f"input_ids must be in [0, {config.vocab_size}), got {int(input_ids.min())} … {int(input_ids.max())}"
        )
    if cache is not None:
        raise ValueError(f"cache must be None in this version, got {type(cache).__name__}")
