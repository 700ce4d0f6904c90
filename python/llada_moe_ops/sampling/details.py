"""What a commit rule can ask for beyond a step's statistics; nothing of it is computed unless asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from ..ops import PackedLinear

if TYPE_CHECKING:
    from .predictor import Statistics

_POSITIONS_AT_ONCE = 16  # whose logits exist together


@dataclass(frozen=True)
class Distributions:
    """The whole distributions of a step's R predicted positions, kept as hidden states: O(R · H), not O(R · V).

    Attributes:
        hidden: [R, H], final hidden states.
        logsumexp: float32 [R], of their logits.
        lm_head: the model's head.
        forbidden: tokens that are absent from the distributions.
        rows: int64 [B], rising, which canvases these are.
        row, slot: int64 [R], where in ``rows`` and its block each position is.
        width: W, positions of a block.
    """

    hidden: Tensor
    logsumexp: Tensor
    lm_head: Tensor | PackedLinear
    forbidden: Sequence[int]
    rows: Tensor
    row: Tensor
    slot: Tensor
    width: int

    def only(self, rows: Tensor) -> tuple[Distributions, Tensor]:
        """Of ``rows`` int64 [B'], rising indices of this batch; and which of the R positions these are, int64 [R']."""
        number = torch.full_like(self.rows, -1)
        number[rows] = torch.arange(len(rows), device=rows.device)
        (index,) = (number[self.row] >= 0).nonzero(as_tuple=True)
        row, slot = number[self.row[index]], self.slot[index]
        hidden, logsumexp = self.hidden[index], self.logsumexp[index]
        part = replace(self, hidden=hidden, logsumexp=logsumexp, rows=self.rows[rows], row=row, slot=slot)
        return part, index

    def places(self, rows: Tensor) -> Tensor:
        """Where in R the positions of these rows' block are, int64 [B', W]; −1 where this step predicted nothing."""
        places = self.row.new_full((len(self.rows) + 1, self.width), -1)
        places[self.row, self.slot] = torch.arange(len(self.row), device=places.device)
        found = torch.searchsorted(self.rows, rows).clamp(max=len(self.rows) - 1)
        return places[found.masked_fill(self.rows[found] != rows, len(self.rows))]

    def expected(self, index: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """``embed`` [M, H] of the probabilities [M, V] of ``index`` int64 [M], in R; some rows of them at a time."""
        parts = []
        for mine in index.split(_POSITIONS_AT_ONCE):
            probabilities = self._logprobs(mine).exp()
            probabilities[:, list(self.forbidden)] = 0
            parts.append(embed(probabilities.to(self.hidden.dtype)))
        return torch.cat(parts) if parts else self.hidden[:0]

    def divergence(self, earlier: Distributions) -> Tensor:
        """KL(this ‖ earlier) in nats, float32 [B, W]; infinite where either step did not predict the position."""
        place = earlier.places(self.rows)[self.row, self.slot]
        (known,) = (place >= 0).nonzero(as_tuple=True)
        grid = torch.full((len(self.rows), self.width), torch.inf, device=self.hidden.device)
        for mine in known.split(_POSITIONS_AT_ONCE):
            # Twice where it is one: torch splits the sum of a single row over its threads, which changes its bits.
            both = mine if len(mine) > 1 else mine.repeat(2)
            now, then = self._logprobs(both), earlier._logprobs(place[both])
            terms = now.exp() * (now - then)
            terms[:, list(self.forbidden)] = 0
            grid[self.row[mine], self.slot[mine]] = terms.sum(-1).clamp(min=0)[: len(mine)]
        return grid

    def _logprobs(self, index: Tensor) -> Tensor:
        return ops.linear(self.hidden[index], self.lm_head).float() - self.logsumexp[index, None]


@dataclass(frozen=True)
class Details:
    """Of one step and the B rows of its statistics.

    Attributes:
        rows: int64 [B], rising: the rows' numbers in the batch. A rule that keeps state between steps finds by them
            what it kept, since rows that have finished are left out.
        index: steps of this block before this one. What a rule keeps is forgotten at 0.
        steps: int64 [B], those that each row has taken before, over the whole generation.
        tokens: int64 [B, W], what stands in the block.
        predicted: bool [B, W], where there are statistics: what is masked, and for a rule that revises what the sampler
            has written.
        uniform: gives uniform numbers in [0, 1), float32 [B, W], drawn from each row's own stream.
        distributions: the whole distributions, to be compared with those of another step.
        biased: gives the statistics with numbers [B, W, S] added to the logits of tokens [B, W, S] (int64).
        only: gives the statistics of some rows, int64 [B'], rising indices of this batch.
    """

    rows: Tensor
    index: int
    steps: Tensor
    tokens: Tensor
    predicted: Tensor
    uniform: Callable[[], Tensor]
    distributions: Distributions
    biased: Callable[[Tensor, Tensor], Statistics]
    only: Callable[[Tensor], Statistics]
