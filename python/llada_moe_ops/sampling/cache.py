"""Cache policies: which positions of the canvas a step recomputes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ._names import choose

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


class CachePolicy(Protocol):
    """Runs the model over a step's canvases, recomputing what the policy says and keeping the rest."""

    def hidden(self, model: LLaDAMoEModel, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Final hidden states [B, L, H] of ``tokens`` [B, L]; ``attention_mask`` [B, L] is 1 at real tokens."""
        ...


class NoCache:
    """Recomputes every position at every step: exact."""

    def hidden(self, model: LLaDAMoEModel, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        return model.hidden(tokens, attention_mask)


CACHES: dict[str, Callable[[], CachePolicy]] = {"none": NoCache}
PLANNED = ("prefix", "dual", "vicinity", "interval", "block-causal")


def build_cache(cache: str | CachePolicy) -> CachePolicy:
    """A policy by its name in ``CACHES``, or the object itself.

    Raises:
        ValueError: unknown name, or one of a policy that this version does not have yet.
    """
    if not isinstance(cache, str):
        return cache
    if cache in PLANNED:
        raise ValueError(f"cache {cache!r} is coming in a later version; this one has {', '.join(map(repr, CACHES))}")
    return choose("cache", cache, CACHES)()
