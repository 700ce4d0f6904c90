"""The forward pass of a step: of the whole canvas, or of a window with the other positions' keys and values kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.key_value_cache import KeyValueCache
from .cache import CachePolicy, Window

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


class Forward:
    """Final hidden states under a cache policy, or of whole passes without one.

    Keys and values are those of the rows of the latest pass.
    """

    def __init__(self, model: LLaDAMoEModel, policy: CachePolicy | None) -> None:
        self.model = model
        self.policy = policy
        self._cache: KeyValueCache | None = None
        self._rows: Tensor | None = None

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
        if self.policy is None:
            return self.model.hidden(tokens, mask)[row, position]
        window = self.policy.window(index, block, lengths) if index else None
        if window is None or not self._keep(rows):
            return self._refresh(rows, tokens, mask)[row, position]
        return self._recompute(tokens, mask, window)[row, position - window.start[row]]

    def _refresh(self, rows: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        batch, length = tokens.shape
        if self._cache is None or (self._cache.batch, self._cache.length) != (batch, length):
            self._cache = KeyValueCache(self.model, batch, length)
        self._rows = rows
        return self.model.hidden(tokens, mask, cache=self._cache)

    def _recompute(self, tokens: Tensor, mask: Tensor | None, window: Window) -> Tensor:
        positions = window.start[:, None] + torch.arange(window.size, device=tokens.device)
        inside = positions.clamp(max=tokens.shape[1] - 1)
        return self.model.hidden(tokens.gather(1, inside), mask, positions, self._cache)

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
        self._rows = rows
        return True
