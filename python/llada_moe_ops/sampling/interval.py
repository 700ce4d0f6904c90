"""Passes under the interval cache: prompt and response recomputed at intervals, between them what has changed most."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.feature_cache import FeatureCache
from .cache import IntervalCache
from .forward import Canvases

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel


class IntervalForward:
    """Final hidden states of the response: of what was to be filled at the start; the rest is the prompt.

    Each row counts its own steps, so rows that have waited for others may be at different places in their intervals:
    those at the same place make one pass together.
    """

    def __init__(self, model: LLaDAMoEModel, policy: IntervalCache, batch: int, slots: int) -> None:
        """``batch``: canvases there are; ``slots``: the most positions to be filled in one."""
        self.model, self.policy = model, policy
        self._batch, self._slots = batch, slots
        self._cache: FeatureCache | None = None
        self._taken: Tensor  # int64 [batch], steps of each row

    @torch.inference_mode()
    def __call__(self, canvases: Canvases, row: Tensor, position: Tensor) -> Tensor:
        """As :meth:`Forward.__call__`; ``position`` was to be filled at the start."""
        rows, length = canvases.rows, canvases.tokens.shape[1]
        if self._cache is None or self._cache.length != length:
            self._cache = FeatureCache(self.model, self._batch, length, self._slots)
            self._taken = torch.zeros(self._batch, dtype=torch.int64, device=rows.device)
        taken = self._taken[rows]
        self._taken[rows] += 1
        whole = (taken % self.policy.response_interval == 0).long()
        prompt = (taken % self.policy.prompt_interval == 0).long()
        phase = 2 * whole + prompt
        hidden = torch.empty(
            len(rows), self._slots, self.model.config.hidden_size, dtype=self.model.dtype, device=rows.device
        )
        for value in phase.unique().tolist():
            mine = (phase == value).nonzero().squeeze(1)
            hidden[mine] = self._pass(canvases, mine, value // 2 == 1, value % 2 == 1)
        slot = canvases.filled.cumsum(1) - 1
        return hidden[row, slot[row, position]]

    def _pass(self, canvases: Canvases, mine: Tensor, whole: bool, prompt: bool) -> Tensor:
        assert self._cache is not None
        tokens, lengths, filled = canvases.tokens[mine], canvases.lengths[mine], canvases.filled[mine]
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        given = ~filled & (columns < lengths[:, None])
        parts = [_places(filled, self._slots)]
        if prompt:
            parts.insert(0, _places(given, int(given.sum(1).max())))
        positions = torch.cat(parts, 1)
        rows, added = canvases.rows[mine], None
        if canvases.added is not None:
            part = replace(canvases, block=canvases.block[mine], added=canvases.added[mine])
            added = part.added_at(positions)
        counts = None if whole else (filled.sum(1) * self.policy.share).long()
        return self._cache.run(
            None if torch.equal(rows, torch.arange(self._batch, device=rows.device)) else rows,
            tokens.gather(1, positions.clamp(max=tokens.shape[1] - 1)),
            positions,
            torch.stack([torch.zeros_like(lengths), lengths], 1).int(),
            counts,
            added,
        )


def _places(which: Tensor, width: int) -> Tensor:
    """The columns of each row of ``which`` [A, L] by rising position, int64 [A, width]; L where there are fewer."""
    length = which.shape[1]
    places = torch.where(which, torch.arange(length, device=which.device), length).sort(1).values
    return places[:, :width]
