"""Which forward pass a cache policy takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .block_causal import BlockCausalForward
from .cache import CachePolicy
from .forward import Forward

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


def build_forward(model: LLaDAMoEModel, policy: CachePolicy | None, batch: int) -> Forward:
    """The passes of one generation of ``batch`` canvases."""
    if policy is not None and getattr(policy, "block_causal", False):
        return BlockCausalForward(model, policy, batch)
    return Forward(model, policy)
