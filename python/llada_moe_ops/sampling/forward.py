"""The forward pass of a step: of the whole canvas, or of a window with the other positions' keys and values kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.captured import CapturedPass, can_capture
from ..model.key_value_cache import KeyValueCache
from .cache import CachePolicy, Window

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


MOST_GRAPHS = 8  # each holds the memory of a pass


@dataclass(frozen=True)
class Canvases:
    """What a step predicts, A rows.

    Attributes:
        rows: int64 [A], the canvases' numbers, by which a cache knows them.
        tokens: int64 [A, L].
        mask: bool [A, L], True at real tokens; None when all are.
        filled: bool [A, L], what was to be filled at the start.
        block, lengths, index: as for :meth:`CachePolicy.window`.
        added: float32 [A, W, H], what is added to the embeddings of the block's tokens; None adds nothing.
    """

    rows: Tensor
    tokens: Tensor
    mask: Tensor | None
    filled: Tensor
    block: Tensor
    lengths: Tensor
    index: int
    added: Tensor | None

    def cut(self, length: int) -> Canvases:
        """Their first ``length`` columns."""
        mask = None if self.mask is None else self.mask[:, :length]
        return replace(self, tokens=self.tokens[:, :length], mask=mask, filled=self.filled[:, :length])

    def added_at(self, positions: Tensor) -> Tensor | None:
        """The same at ``positions`` [A, S] or [S], float32 [A, S, H]."""
        if self.added is None:
            return None
        slots = positions - self.block[:, :1]
        inside = slots.clamp(0, self.block.shape[1] - 1)
        every = torch.arange(len(slots), device=slots.device)[:, None]
        return self.added[every, inside] * (slots == inside)[..., None]


class Forward:
    """Final hidden states under a cache policy, or of whole passes without one.

    Keys and values are those of the rows of the latest pass. On a GPU a pass becomes a CUDA graph the second time its
    sizes come.
    """

    def __init__(self, model: LLaDAMoEModel, policy: CachePolicy | None) -> None:
        self.model = model
        self.policy = policy
        self._cache: KeyValueCache | None = None
        self._rows: Tensor | None = None
        self._capture = can_capture(model)
        self._graphs: dict[tuple[int, int, bool], CapturedPass | None] = {}

    @torch.inference_mode()  # a tenth less time between kernels than without gradients alone
    def __call__(self, canvases: Canvases, row: Tensor, position: Tensor) -> Tensor:
        """Hidden states [R, H] of position[r] in canvas row[r], int64 [R] each: an index of ``canvases``."""
        longest = int(canvases.lengths.max())  # of the rows that go on
        if self.policy is None:
            return self._whole(canvases.cut(longest), None, row, position)
        window = None
        if canvases.index:
            window = self.policy.window(canvases.index, canvases.block, canvases.lengths)
        if window is None or not self._keep(canvases.rows):
            return self._refresh(canvases.cut(longest), row, position)
        assert self._cache is not None
        canvases = canvases.cut(self._cache.length)
        return self._recompute(canvases, canvases.mask, window, row, position)

    def _refresh(self, canvases: Canvases, row: Tensor, position: Tensor) -> Tensor:
        batch, length = canvases.tokens.shape
        if self._cache is None or (self._cache.batch, self._cache.length) != (batch, length):
            self._cache = KeyValueCache(self.model, batch, length)
            self._graphs.clear()
        self._rows = canvases.rows
        return self._whole(canvases, self._cache, row, position)

    def _whole(self, canvases: Canvases, cache: KeyValueCache | None, row: Tensor, position: Tensor) -> Tensor:
        tokens = canvases.tokens
        added = canvases.added_at(torch.arange(tokens.shape[1], device=tokens.device))
        return self._hidden(tokens, canvases.mask, None, cache, added, row * tokens.shape[1] + position)

    def _recompute(
        self, canvases: Canvases, mask: Tensor | None, window: Window, row: Tensor, position: Tensor
    ) -> Tensor:
        positions, tokens = window.positions(), canvases.tokens
        inside = positions.clamp(max=tokens.shape[1] - 1)
        wanted = row * positions.shape[1] + position - window.start[row]
        added = canvases.added_at(positions)
        return self._hidden(tokens.gather(1, inside), mask, positions, self._cache, added, wanted)

    def _hidden(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: KeyValueCache | None,
        added: Tensor | None,
        wanted: Tensor,
    ) -> Tensor:
        """``model.hidden``, or the graph of it where nothing is added: that computes all positions."""
        if added is not None:
            return self.model.hidden(tokens, mask, positions, cache, added=added, wanted=wanted)
        key = (*tokens.shape, mask is not None)
        if self._capture and key not in self._graphs:
            self._graphs[key] = None
        elif self._capture:
            return self._captured(key, tokens, mask, positions, cache).flatten(0, 1)[wanted]
        return self.model.hidden(tokens, mask, positions, cache, wanted=wanted)

    def _captured(
        self,
        key: tuple[int, int, bool],
        tokens: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: KeyValueCache | None,
    ) -> Tensor:
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        key_range = None
        if mask is not None:  # a canvas holds its real tokens first
            ends = mask.sum(1, dtype=torch.int32)
            key_range = torch.stack([torch.zeros_like(ends), ends], dim=1)
        graph = self._graphs.pop(key)
        if graph is None:
            while len(self._graphs) >= MOST_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            graph = CapturedPass(self.model, cache, tokens, positions, key_range)
        self._graphs[key] = graph
        return graph(tokens, positions, key_range)

    def _keep(self, rows: Tensor) -> bool:
        """Drop the cached rows that have left the batch; False if some of ``rows`` are not cached."""
        assert self._cache is not None
        assert self._rows is not None
        if torch.equal(rows, self._rows):
            return True
        where = (rows[:, None] == self._rows).nonzero()
        if len(where) != len(rows):
            return False
        self._cache = self._cache.select(where[:, 1])
        self._graphs.clear()
        self._rows = rows
        return True
