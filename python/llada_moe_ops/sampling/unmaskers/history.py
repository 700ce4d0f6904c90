"""Rules that look back at a block's earlier steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import _arguments as arguments
from ..details import Distributions
from ..predictor import Statistics
from .confident import ThresholdUnmasker
from .unmasker import Decision, ranks


class RowHistory:
    """A tensor [B, ...] kept from one step of a block to the next, found again by the rows' numbers."""

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self._values: Tensor | None = None

    def recall(self, statistics: Statistics) -> Tensor | None:
        """What was kept for these rows; None at a block's first step."""
        if statistics.details.index == 0:
            self._rows = self._values = None
        if self._rows is None or self._values is None:
            return None
        return self._values[torch.searchsorted(self._rows, statistics.details.rows)]

    def keep(self, statistics: Statistics, values: Tensor) -> None:
        """Keep ``values`` for these rows, and forget the others."""
        self._rows, self._values = statistics.details.rows, values


@dataclass
class CreditUnmasker:
    """A threshold on distributions that remember what they used to predict (CreditDecoding, dInfer 2510.08666).

    Each masked position holds credit M per token. At every step M ← decay · M, the likeliest token gains its
    probability ^ boost, and weight · log(1 + M) is added to the logits; then the rule is that of ``threshold``. A token
    predicted again and again so passes sooner, and the tokens committed are those of the changed logits.

    Args:
        threshold: from 0 to 1.
        weight: α, not negative.
        decay: β, from 0 to 1.
        boost: γ, not negative.
    """

    threshold: float = 0.9
    weight: float = 0.7
    decay: float = 0.8
    boost: float = 0.2
    adaptive = True
    compares_steps = True
    _tokens: RowHistory = field(default_factory=RowHistory, init=False, repr=False, compare=False)
    _credit: RowHistory = field(default_factory=RowHistory, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._rule = ThresholdUnmasker(self.threshold)
        arguments.non_negative("weight", self.weight)
        arguments.fraction("decay", self.decay)
        arguments.non_negative("boost", self.boost)

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Decision:
        ahead = statistics.logprob >= statistics.runner_up_logprob  # not so where noise chose another token
        likeliest = torch.where(ahead, statistics.token, statistics.runner_up)[..., None]
        # Not as a power: torch's differs in its last bit from place to place in a tensor, so from batch to batch.
        gain = (self.boost * torch.maximum(statistics.logprob, statistics.runner_up_logprob)).exp()
        gain = gain.masked_fill(~masked, 0)[..., None]
        tokens, credit = self._tokens.recall(statistics), self._credit.recall(statistics)
        if tokens is None or credit is None:
            tokens, credit = likeliest, gain
        else:
            same = (tokens == likeliest) & (credit > 0)
            new = gain.masked_fill(same.any(-1, keepdim=True), 0)
            tokens = torch.cat([tokens, likeliest], -1)
            credit = torch.cat([credit * self.decay + gain * same, new], -1)
        self._tokens.keep(statistics, tokens)
        self._credit.keep(statistics, credit)
        biased = statistics.details.biased(tokens, self.weight * credit.log1p())
        return Decision.of(self._rule.select(biased, masked, quota), biased)


@dataclass
class KlassUnmasker:
    """Every position that is sure and has stopped changing its mind (KLASS, arXiv 2511.05664).

    Commits confidence ≥ ``confidence`` where KL(p_t ‖ p_{t−1}) ≤ ``divergence`` at each of the last ``history`` steps;
    rows with no such position commit the schedule's count, as ``fixed``. Each step runs the head twice more.

    Args:
        confidence: from 0 to 1; the paper takes 0.9 for HumanEval, 0.6 for GSM8K.
        divergence: in nats, not negative; 0.01 and 0.015.
        history: steps, at least 1.
    """

    confidence: float = 0.9
    divergence: float = 0.01
    history: int = 2
    adaptive = True
    compares_steps = True
    _stable: RowHistory = field(default_factory=RowHistory, init=False, repr=False, compare=False)
    _earlier: Distributions | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        arguments.fraction("confidence", self.confidence)
        arguments.non_negative("divergence", self.divergence)
        arguments.integer("history", self.history, 1)

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        stable, now = self._stable.recall(statistics), statistics.details.distributions
        if stable is None or self._earlier is None:
            stable = torch.zeros_like(statistics.token)
        else:
            stable = (stable + 1) * (now.divergence(self._earlier) <= self.divergence)
        self._stable.keep(statistics, stable)
        self._earlier = now
        ready = masked & (stable >= self.history) & (statistics.confidence >= self.confidence)
        fixed = masked & (ranks(statistics.confidence, masked) < quota[:, None])
        return torch.where(ready.any(1, keepdim=True), ready, fixed)


@dataclass
class ProphetUnmasker:
    """Commits all that is left as soon as it is clear enough, else as ``fixed`` (Prophet, arXiv 2508.19982).

    Clear means that the gap between the logits of token and second-best, averaged over a row's masked positions,
    reaches ``early``, ``middle`` or ``late``: before a third, before two thirds of the block's positions are filled, or
    after.

    Args:
        early, middle, late: not negative.
    """

    early: float = 7.5
    middle: float = 5.0
    late: float = 2.5
    adaptive = True
    _total: RowHistory = field(default_factory=RowHistory, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("early", "middle", "late"):
            arguments.non_negative(name, getattr(self, name))

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Tensor:
        left, total = masked.sum(1), self._total.recall(statistics)
        total = left if total is None else total
        self._total.keep(statistics, total)
        filled = 3 * (total - left)
        needed = torch.full_like(statistics.logprob[:, 0], self.late).masked_fill(filled < 2 * total, self.middle)
        needed = needed.masked_fill(filled < total, self.early)
        gap = (statistics.logprob - statistics.runner_up_logprob).masked_fill(~masked, 0)
        # In double, where such a sum does not depend on its order.
        clear = gap.double().sum(1) >= needed * left
        return masked & (clear[:, None] | (ranks(statistics.confidence, masked) < quota[:, None]))
