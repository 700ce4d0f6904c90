"""Passes of models that attend block-causally: what earlier blocks have said stands, so each is computed but once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.key_value_cache import KeyValueCache
from .cache import CachePolicy, Window
from .forward import Canvases, Forward

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


class BlockCausalForward(Forward):
    """Final hidden states of the current block; later blocks are not computed.

        canvas    | prompt    prompt    prompt+masks | masks ...
        step 0    | ------- one pass, block mask --- |
        step 1 …  |   kept      kept      the block  |
        step 0 of the next block:         the block and the next, block mask

    The first pass of a block so stores the keys and values of the tokens that the last step of the block before has
    committed: no pass serves that alone.
    """

    def __init__(self, model: LLaDAMoEModel, policy: CachePolicy, batch: int) -> None:
        """``batch``: canvases there are."""
        super().__init__(model, policy)
        self._batch = batch
        self._store: KeyValueCache | None = None
        self._final: Tensor  # int64 [batch], the positions before which a row's keys and values in the store stay

    @torch.inference_mode()
    def __call__(self, canvases: Canvases, row: Tensor, position: Tensor) -> Tensor:
        if canvases.index == 0:
            return self._begin(canvases, row, position)
        kept = self._keep(canvases.rows)
        assert kept, "rows only leave a block"
        assert self.policy is not None
        window = self.policy.window(canvases.index, canvases.block, canvases.lengths)
        assert window is not None
        index = torch.arange(canvases.tokens.shape[1], device=row.device)
        seen = index < torch.minimum(canvases.block[:, -1] + 1, canvases.lengths)[:, None]
        return self._recompute(canvases, seen, window, row, position)

    def _begin(self, canvases: Canvases, row: Tensor, position: Tensor) -> Tensor:
        """A pass over all that is not final up to the block's end."""
        rows, tokens, width = canvases.rows, canvases.tokens, canvases.block.shape[1]
        if self._store is None or self._store.length != tokens.shape[1]:
            self._store = KeyValueCache(self.model, self._batch, tokens.shape[1])
            self._final = tokens.new_zeros(self._batch)
        everyone = len(rows) == self._batch
        cache = self._store if everyone else self._store.select(rows)
        final, ends = self._final[rows], canvases.block[:, 0] + width
        size = int((ends - final).max())
        start = (ends - size).clamp(min=0)
        if bool(start.any()):
            window = Window(start, size).positions()
        else:
            size, window = min(size, tokens.shape[1]), None
        positions = torch.arange(size, device=tokens.device) if window is None else window
        inside = positions.expand(len(rows), -1).clamp(max=tokens.shape[1] - 1)
        wanted = row * size + position - start[row]
        hidden = self.model.hidden(
            tokens.gather(1, inside), canvases.mask, window, cache, block_size=width, wanted=wanted
        )
        if not everyone:
            self._store.put(rows, cache)
        self._final[rows] = canvases.block[:, 0]
        if cache is not self._cache:
            self._graphs.clear()
        self._cache, self._rows = cache, rows
        return hidden
