"""Cache policies: which positions of the canvas a step recomputes; the others keep their keys and values.

LLaDA-MoE attends in both directions, so every policy but "none" is an approximation: what a token that is not
recomputed would now say to the others is known from an earlier step only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ._names import choose


@dataclass(frozen=True)
class Window:
    """A run of ``size`` positions in each row, from ``start`` int64 [A]; those past a row's end are padding."""

    start: Tensor
    size: int


class CachePolicy(Protocol):
    """Says what a step recomputes, for each row from its own block and length alone.

    Without one, every position is recomputed at every step and no keys and values are kept: exact.

    One with an attribute ``capturable`` that is true takes its tensors on the CPU as well, whatever the model's
    device: on a GPU, steps become CUDA graphs, and no step waits for the one before.
    """

    def window(self, index: int, block: Tensor, lengths: Tensor) -> Window | None:
        """What step ``index`` of a block recomputes; it must hold the block. None: everything, refreshing the cache.

        Args:
            index: steps of this block before this one. At 0 everything is recomputed, whatever the answer.
            block: int64 [A, W], the block's positions.
            lengths: int64 [A], each row's positions.
        """
        ...


class PrefixCache:
    """Keeps what comes before the block (Fast-dLLM, arXiv 2505.22618): recomputes from the block's start to the end."""

    capturable = True

    def window(self, index: int, block: Tensor, lengths: Tensor) -> Window | None:
        start = block[:, 0]
        return Window(start, max(int((lengths - start).max()), block.shape[1]))


class DualCache:
    """Keeps what comes before and after the block (Fast-dLLM, arXiv 2505.22618): recomputes the block."""

    capturable = True

    def window(self, index: int, block: Tensor, lengths: Tensor) -> Window | None:
        return Window(block[:, 0], block.shape[1])


class VicinityCache:
    """Recomputes the block and its neighbours; the first steps of a block are whole (dInfer, arXiv 2510.08666)."""

    capturable = True

    def __init__(self, neighbours: int = 16, whole_steps: int = 4) -> None:
        if neighbours < 0:
            raise ValueError(f"neighbours must be at least 0, got {neighbours}")
        if whole_steps < 1:
            raise ValueError(f"whole_steps must be at least 1, got {whole_steps}")
        self.neighbours, self.whole_steps = neighbours, whole_steps

    def window(self, index: int, block: Tensor, lengths: Tensor) -> Window | None:
        if index < self.whole_steps:
            return None
        return Window((block[:, 0] - self.neighbours).clamp(min=0), block.shape[1] + 2 * self.neighbours)


CACHES: dict[str, Callable[[], CachePolicy | None]] = {
    "none": lambda: None,
    "prefix": PrefixCache,
    "dual": DualCache,
    "vicinity": VicinityCache,
}
PLANNED = ("interval", "block_causal")


def build_cache(cache: str | CachePolicy) -> CachePolicy | None:
    """A policy by its name in ``CACHES``, or the object itself; None for "none".

    Raises:
        ValueError: unknown name, or one of a policy that this version does not have yet.
    """
    if not isinstance(cache, str):
        return cache
    if cache in PLANNED:
        raise ValueError(f"cache {cache!r} is coming in a later version; this one has {', '.join(map(repr, CACHES))}")
    return choose("cache", cache, CACHES)()
