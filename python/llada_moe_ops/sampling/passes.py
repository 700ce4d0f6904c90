"""Which forward passes a cache policy takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from .block_causal import BlockCausalForward
from .cache import Cache, IntervalCache
from .canvas import Canvas
from .forward import Canvases, Forward
from .interval import IntervalForward

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


class Passes(Protocol):
    """The forward passes of one generation."""

    @property
    def policy(self) -> Cache | None:
        """Under which they are made; None recomputes everything."""
        ...

    def __call__(self, canvases: Canvases, row: Tensor, position: Tensor) -> Tensor:
        """Final hidden states [R, H] of position[r] in canvas row[r], int64 [R] each: an index of ``canvases``."""
        ...


def build_forward(model: LLaDAMoEModel, policy: Cache | None, canvas: Canvas, passes: int) -> Passes:
    """The passes of one generation, in each step so many of each row of ``canvas``."""
    batch = passes * len(canvas.tokens)
    if isinstance(policy, IntervalCache):
        return IntervalForward(model, policy, batch, max(canvas.filled.sum(1).tolist(), default=0))
    if policy is not None and getattr(policy, "block_causal", False):
        return BlockCausalForward(model, policy, batch)
    return Forward(model, policy)
