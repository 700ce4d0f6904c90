"""How many tokens each step of a block commits."""

from __future__ import annotations

import torch
from torch import Tensor


class Schedule:
    """Spreads a block's masked positions evenly over its steps, the remainder over the first ones.

    The published rule (sampling of arXiv 2502.09992): n positions in s steps commit floor(n/s) a step, plus one in
    the first n mod s. ``steps`` None gives every row one token a step, so as many steps as it has positions.
    """

    def __init__(self, steps: int | None) -> None:
        self.steps = steps

    def counts(self, masked: Tensor) -> Tensor:
        """Tokens to commit, int64 [B, steps], for rows with ``masked`` [B] positions at the block's start.

        A row's counts depend on that row alone; rows with fewer positions than steps end in zeros.
        """
        steps = self.steps if self.steps is not None else max(masked.tolist(), default=0)
        index = torch.arange(steps, device=masked.device)
        if self.steps is None:
            return (index < masked[:, None]).long()
        return (masked // steps)[:, None] + (index < (masked % steps)[:, None]).long()
