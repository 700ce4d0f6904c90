"""The forward pass of a step: of the whole canvas, or of a window with the other positions' keys and values kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.captured import CapturedPass, can_capture
from ..model.key_value_cache import KeyValueCache
from .cache import CachePolicy, Window

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


MOST_GRAPHS = 8  # each holds the memory of a pass


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
    def __call__(
        self,
        rows: Tensor,
        tokens: Tensor,
        mask: Tensor | None,
        *,
        block: Tensor,
        lengths: Tensor,
        index: int,
        row: Tensor,
        position: Tensor,
    ) -> Tensor:
        """Hidden states [R, H] of position[r] in canvas row[r].

        Args:
            rows: int64 [A], which canvases these are: the cache knows them by these numbers.
            tokens: int64 [A, L]; ``mask`` [A, L] is True at real tokens, None when all are.
            block, lengths, index: as for :meth:`CachePolicy.window`.
            row, position: int64 [R], within ``tokens`` and its block.
        """
        longest = int(lengths.max())  # of the rows that go on
        if self.policy is None:
            return self._hidden(*_cut(tokens, mask, longest), None, None)[row, position]
        window = self.policy.window(index, block, lengths) if index else None
        if window is None or not self._keep(rows):
            return self._refresh(rows, *_cut(tokens, mask, longest))[row, position]
        assert self._cache is not None
        return self._recompute(*_cut(tokens, mask, self._cache.length), window)[row, position - window.start[row]]

    def _refresh(self, rows: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        batch, length = tokens.shape
        if self._cache is None or (self._cache.batch, self._cache.length) != (batch, length):
            self._cache = KeyValueCache(self.model, batch, length)
            self._graphs.clear()
        self._rows = rows
        return self._hidden(tokens, mask, None, self._cache)

    def _recompute(self, tokens: Tensor, mask: Tensor | None, window: Window) -> Tensor:
        positions = window.start[:, None] + torch.arange(window.size, device=tokens.device)
        inside = positions.clamp(max=tokens.shape[1] - 1)
        return self._hidden(tokens.gather(1, inside), mask, positions, self._cache)

    def _hidden(
        self, tokens: Tensor, mask: Tensor | None, positions: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        """``model.hidden``, or the graph of it."""
        key = (*tokens.shape, mask is not None)
        if self._capture and key not in self._graphs:
            self._graphs[key] = None
        elif self._capture:
            return self._captured(key, tokens, mask, positions, cache)
        return self.model.hidden(tokens, mask, positions, cache)

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
        self._cache.keep(where[:, 1])
        self._graphs.clear()
        self._rows = rows
        return True


def _cut(tokens: Tensor, mask: Tensor | None, length: int) -> tuple[Tensor, Tensor | None]:
    """The first ``length`` columns."""
    return tokens[:, :length], None if mask is None else mask[:, :length]
