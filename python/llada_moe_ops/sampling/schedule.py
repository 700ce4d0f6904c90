"""How many tokens each step of a block commits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Schedule:
    """Spreads a block's masked positions evenly over its steps, the remainder over the first ones.

    The published rule (sampling of arXiv 2502.09992): n positions in s steps commit floor(n/s) a step, plus one in
    the first n mod s. ``steps``, of all rows or one per row, None gives one token a step, so as many steps as the row
    has positions.
    """

    def __init__(self, steps: int | Sequence[int | None] | None) -> None:
        self.steps = steps

    def counts(self, masked: Tensor) -> Tensor:
        """Tokens to commit, int64 [B, steps], for rows with ``masked`` [B] positions at the block's start.

        A row's counts depend on that row alone; rows with fewer positions or steps than others end in zeros.
        """
        steps = self._own(masked)
        index = torch.arange(int(steps.max()) if len(steps) else 0, device=masked.device)
        return self._count(masked, steps, index) * (index < steps[:, None])

    def quota(self, masked: Tensor, index: int) -> Tensor:
        """Each row's count at step ``index``, int64 [B], where a rule may take more steps than planned: at least 1."""
        return self._count(masked, self._own(masked), torch.full_like(masked[:1], index)).squeeze(1).clamp(min=1)

    def _own(self, masked: Tensor) -> Tensor:
        given = self.steps if isinstance(self.steps, Sequence) else [self.steps] * len(masked)
        steps = torch.tensor([0 if one is None else one for one in given], dtype=torch.int64, device=masked.device)
        return torch.where(steps == 0, masked.clamp(min=1), steps)

    @staticmethod
    def _count(masked: Tensor, steps: Tensor, index: Tensor) -> Tensor:
        return (masked // steps)[:, None] + (index < (masked % steps)[:, None]).long()
