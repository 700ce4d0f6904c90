"""Cache policies: which positions of the canvas a step recomputes; the others keep their keys and values.

LLaDA-MoE attends in both directions, so every policy but "none" is an approximation: what a token that is not
recomputed would now say to the others is known from an earlier step only. Models trained block-causally have an exact
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from . import _arguments as arguments
from ._specification import build_part

if TYPE_CHECKING:
    from .unmaskers import Unmasker


@dataclass(frozen=True)
class Window:
    """A run of ``size`` positions in each row, from ``start`` int64 [A]; those past a row's end are padding."""

    start: Tensor
    size: int

    def positions(self) -> Tensor:
        """int64 [A, size]."""
        return self.start[:, None] + torch.arange(self.size, device=self.start.device)


class CachePolicy(Protocol):
    """Says what a step recomputes, for each row from its own block and length alone.

    Without one, every position is recomputed at every step and no keys and values are kept: exact.

    One with an attribute ``capturable`` that is true takes its tensors on the CPU as well, whatever the model's
    device: on a GPU, steps become CUDA graphs, and no step waits for the one before.

    One with an attribute ``block_causal`` that is true is for models that attend so: its window is the block, and no
    step recomputes everything.
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


@dataclass(frozen=True)
class VicinityCache:
    """Recomputes the block and its neighbours; the first steps of a block are whole (dInfer, arXiv 2510.08666).

    Args:
        neighbours: positions to either side, at least 0.
        whole_steps: at least 1.
    """

    capturable = True
    neighbours: int = 16
    whole_steps: int = 4

    def __post_init__(self) -> None:
        arguments.integer("neighbours", self.neighbours, 0)
        arguments.integer("whole_steps", self.whole_steps, 1)

    def window(self, index: int, block: Tensor, lengths: Tensor) -> Window | None:
        if index < self.whole_steps:
            return None
        return Window((block[:, 0] - self.neighbours).clamp(min=0), block.shape[1] + 2 * self.neighbours)


class BlockCausalCache:
    """Keeps all blocks before the current one, which no later token changes (LLaDA2, arXiv 2512.15745): exact.

    For models trained block-causally: a position attends to its own block and to earlier ones. Blocks are counted from
    a row's first token, so the first block to be filled begins with the prompt's end. Later blocks aren't computed.
    """

    block_causal = True

    def window(self, index: int, block: Tensor, lengths: Tensor) -> Window:
        return Window(block[:, 0], block.shape[1])


@dataclass(frozen=True)
class IntervalCache:
    """Recomputes prompt and response at intervals, in between what has changed most (dLLM-Cache, arXiv 2506.06295).

    At the other steps, in every layer but the first, the ``share`` of a row's response tokens whose value vectors have
    turned furthest (lowest cosine with the kept ones) is recomputed; the others keep their keys, and what attention and
    experts made of them. Steps are a row's own, counted over the whole generation. The response is what was to be
    filled at the start.

    Args:
        prompt_interval: steps, at least 1.
        response_interval: steps, at least 1.
        share: from 0 to 1.
    """

    prompt_interval: int = 100
    response_interval: int = 7
    share: float = 0.25

    def __post_init__(self) -> None:
        arguments.integer("prompt_interval", self.prompt_interval, 1)
        arguments.integer("response_interval", self.response_interval, 1)
        arguments.fraction("share", self.share)

    @property
    def repeats(self) -> bool:
        """Whether predictions of a step may be those of an earlier one."""
        return self.share < 1 and self.response_interval > 1


Cache = CachePolicy | IntervalCache
CACHES: dict[str, Callable[..., Cache | None]] = {
    "none": lambda: None,
    "prefix": PrefixCache,
    "dual": DualCache,
    "vicinity": VicinityCache,
    "interval": IntervalCache,
    "block_causal": BlockCausalCache,
}


def build_cache(cache: str | Cache) -> Cache | None:
    """A policy by its name in ``CACHES`` with its parameters, as in "vicinity:8", or the object; None for "none".

    Raises:
        TypeError: neither a string nor a policy, or a parameter of the wrong type.
        ValueError: unknown name or parameter, the message lists the known ones; or a value out of range.
    """
    if isinstance(cache, str):
        return build_part("cache", cache, CACHES)
    if isinstance(cache, type):
        raise TypeError(f"cache must be a name or an object with window(), got the class {cache.__name__}")
    if not isinstance(cache, IntervalCache) and not callable(getattr(cache, "window", None)):
        raise TypeError(f"cache must be a name or an object with window(), got {type(cache).__name__}")
    return cache


def check_pair(unmasker: Unmasker, cache: Cache | None) -> None:
    """Refuse a rule that compares steps where a step may repeat what an earlier one has predicted.

    Credit would be given again for the same prediction, and what is not recomputed would pass for stable.

    Raises:
        ValueError
    """
    rule: object = unmasker
    while rule is not None:
        if isinstance(cache, IntervalCache) and cache.repeats and getattr(rule, "compares_steps", False):
            raise ValueError(
                f"unmasker {type(rule).__name__} compares a step's predictions with earlier ones, but cache 'interval' "
                f"repeats those of the tokens that it does not recompute; take another cache, or share=1"
            )
        rule = getattr(rule, "rule", None)
