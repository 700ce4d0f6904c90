"""A record of every step, from which every state of the canvas can be rebuilt."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


def repeat(values: Tensor, rows: Tensor, columns: Tensor, more: int) -> Tensor:
    """Values [B, L] with that at (rows, columns) ``more`` times more behind it; what passes a row's end is lost.

    Args:
        rows, columns: int64 [N], at most one column in a row.
    """
    index = torch.arange(values.shape[1], device=values.device)
    at = torch.full_like(values[:, 0], values.shape[1], dtype=torch.int64)
    at[rows] = columns
    behind = torch.maximum(at[:, None], index - more)
    return values.gather(1, torch.where(index > at[:, None], behind, index).clamp(max=values.shape[1] - 1))


@dataclass(frozen=True)
class Widened:
    """Masks that became several at a step's end: those at ``rows``, ``positions`` int64 [N] have ``more`` behind them.

    What lay behind moves on.
    """

    rows: Tensor
    positions: Tensor
    more: int

    def of(self, values: Tensor) -> Tensor:
        """Values [B, L] of the positions before, at those after."""
        return repeat(values, self.rows, self.positions, self.more)


@dataclass(frozen=True)
class TraceStep:
    """What one step committed; M tokens, none where a block had more steps than positions.

    Attributes:
        step: counted over the whole generation, from 0.
        block: counted from 0.
        rows, positions: int64 [M], where, in the caller's layout (padding counted).
        tokens: int64 [M]; the mask token where the position was masked again.
        probabilities: float32 [M], the model's probability of each token, before any noise; of the token it would now
            choose where the position was masked again. End-of-text that fills a row after its end carries 1: nothing is
            predicted there.
        widened: what was inserted afterwards; None where nothing was.
    """

    step: int
    block: int
    rows: Tensor
    positions: Tensor
    tokens: Tensor
    probabilities: Tensor
    widened: Widened | None = None

    def to_dict(self) -> dict[str, Any]:
        """The step in plain numbers."""
        values = {
            "step": self.step,
            "block": self.block,
            "rows": self.rows.tolist(),
            "positions": self.positions.tolist(),
            "tokens": self.tokens.tolist(),
            "probabilities": self.probabilities.tolist(),
        }
        if self.widened is not None:
            rows, positions = self.widened.rows.tolist(), self.widened.positions.tolist()
            values["widened"] = {"rows": rows, "positions": positions, "more": self.widened.more}
        return values

    def then(self, values: Tensor, written: Tensor | int) -> Tensor:
        """Values [B, L] with what the step wrote [M], and moved by what it inserted."""
        values = values.clone()
        values[self.rows, self.positions] = written
        return values if self.widened is None else self.widened.of(values)


class NonFiniteLogitsError(ValueError):
    """The model produced NaN or infinite logits.

    Attributes:
        step: the step at which it happened.
        trace: every step before it.
        layer: the first whose output is not finite; None where it is the embedding, the final norm or the head, as the
            message tells.
    """

    def __init__(self, step: int, trace: Trace, layer: int | None, where: str) -> None:
        super().__init__(
            f"the model's logits are not finite at step {step}, first behind {where}; are the weights damaged?"
        )
        self.step = step
        self.trace = trace
        self.layer = layer


@dataclass
class Trace:
    """The canvas at the start, int64 [B, L], as wide as at the end, and every step."""

    initial: Tensor
    steps: list[TraceStep] = field(default_factory=list)

    def states(self) -> Tensor:
        """The canvas before each step and at the end, int64 [steps + 1, B, L]."""
        states = [self.initial]
        for step in self.steps:
            states.append(step.then(states[-1], step.tokens))
        return torch.stack(states)

    def commit_steps(self) -> Tensor:
        """The step that committed each token, int64 [B, L]; −1 for given ones."""
        steps = torch.full_like(self.initial, -1)
        for step in self.steps:
            steps = step.then(steps, step.step)
        return steps

    def probabilities(self) -> Tensor:
        """The probability with which each token was committed, float32 [B, L]; 1 for given ones."""
        probabilities = torch.ones_like(self.initial, dtype=torch.float32)
        for step in self.steps:
            probabilities = step.then(probabilities, step.probabilities)
        return probabilities

    def to_dict(self) -> dict[str, Any]:
        """The trace in plain numbers: ``initial`` and ``steps``."""
        return {"initial": self.initial.tolist(), "steps": [step.to_dict() for step in self.steps]}

    def to_json(self) -> str:
        """The trace as JSON."""
        return json.dumps(self.to_dict())
