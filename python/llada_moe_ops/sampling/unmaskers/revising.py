"""Rules that change what is already written, each around another rule that commits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import _arguments as arguments
from .._names import choose
from ..predictor import Statistics
from .confident import HierarchicalUnmasker, ThresholdUnmasker
from .history import RowHistory
from .unmasker import Decision, Unmasker, decide, ranks


def _new_default_rule() -> Unmasker:
    return ThresholdUnmasker(0.7)


@dataclass
class EditingUnmasker:
    """Another rule, and tokens of this block are replaced where the model has come to prefer another (LLaDA2.1).

    A committed token is replaced when the prediction in its place differs and has probability > ``threshold``. Once
    nothing of a row is masked it takes further steps, until one replaces nothing, at most ``further_steps``. For models
    trained to correct what they see, as LLaDA2.1 is; others predict nothing useful where no mask stands.

    Args:
        threshold: from 0 to 1; LLaDA2.1's quality mode takes 0.5.
        further_steps: at least 0.
        rule: what commits; "threshold:0.7" as in that mode.
    """

    threshold: float = 0.5
    further_steps: int = 16
    rule: Unmasker = field(default_factory=_new_default_rule)
    adaptive = True
    revises = True
    _taken: RowHistory = field(default_factory=RowHistory, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        arguments.fraction("threshold", self.threshold)
        arguments.integer("further_steps", self.further_steps, 0)

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Decision:
        inner = decide(self.rule, statistics, masked, quota)
        details, found = statistics.details, inner.statistics
        differs = (found.token != details.tokens) & (found.logprob.exp() > self.threshold)
        edits = details.predicted & ~masked & ~inner.remask & differs
        left = ((masked & ~inner.commit) | inner.remask).any(1)
        further = ~masked.any(1)
        taken = self._taken.recall(statistics)
        taken = further.long() if taken is None else taken + further
        self._taken.keep(statistics, taken)
        again = ~left & (~further | edits.any(1)) & (taken < self.further_steps)
        return Decision(inner.commit | edits, found, inner.remask, inner.unfinished | again)


_AMOUNTS: Mapping[str, float] = {"below": 0.4, "cap": 0.02, "rescale": 0.05, "confidence": 1.0}


def _new_hierarchical() -> Unmasker:
    return HierarchicalUnmasker()


@dataclass
class RemaskUnmasker:
    """Another rule, and tokens of this block are masked again, to be filled anew (ReMDM, 2503.00307; dInfer).

    "below" (dInfer): where the prediction in a committed token's place has probability < ``amount``. The position is
    decided at once like the masked ones; if it isn't committed it is masked again.

    "cap", "rescale", "confidence" (ReMDM): at random with probability σ, at step i of n being min(``amount``, σ_max),
    ``amount`` · σ_max, or that shared out by softmax(−probability when committed), with σ_max = min(1, (n − i − 1) / i)
    and n the steps of the schedule.

    Each step commits more than it masks again (below), or the schedule's count more as long as there are masks.

    Args:
        how: "below", "cap", "rescale" or "confidence".
        amount: from 0 to 1; None takes 0.4, 0.02, 0.05 or 1.
        rule: what commits; "hierarchical" as in dInfer.
    """

    how: str = "below"
    amount: float | None = None
    rule: Unmasker = field(default_factory=_new_hierarchical)
    adaptive = True
    revises = True
    _steps: RowHistory = field(default_factory=RowHistory, init=False, repr=False, compare=False)
    _written: RowHistory = field(default_factory=RowHistory, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        default = choose("how", self.how, _AMOUNTS)
        self._amount = arguments.fraction("amount", default if self.amount is None else self.amount)

    def select(self, statistics: Statistics, masked: Tensor, quota: Tensor) -> Decision:
        written = statistics.details.predicted & ~masked & masked.any(1, keepdim=True)
        if self.how == "below":
            remask = written & (statistics.logprob.exp() < self._amount)
            candidates, least = masked | remask, remask.sum(1) + 1
        else:
            probability = self._probability(statistics, written, masked, quota)
            remask = written & (statistics.details.uniform() < probability)
            candidates, least = masked, remask.sum(1) + quota
        inner = decide(self.rule, statistics, candidates, least)
        lacking = least - (inner.commit & candidates).sum(1)
        rest = candidates & ~inner.commit & ~inner.remask
        more = rest & (ranks(inner.statistics.confidence, rest) < lacking[:, None])
        commit = inner.commit | more
        if self.how == "below":
            remask = remask & ~commit
        else:
            commit = commit & ~remask  # of the inner rule's edits
            self._note(statistics, commit, inner.statistics.logprob.exp())
        return Decision(commit, inner.statistics, remask | inner.remask, inner.unfinished)

    def _probability(self, statistics: Statistics, written: Tensor, masked: Tensor, quota: Tensor) -> Tensor:
        """σ of ReMDM for each position [B, W], with α = i / n."""
        steps = self._steps.recall(statistics)
        if steps is None:
            steps = -(-masked.sum(1) // quota)
        self._steps.keep(statistics, steps)
        index = statistics.details.index
        most = ((steps - index - 1).clamp(min=0).double() / max(index, 1)).clamp(max=1)
        sigma = most.clamp(max=self._amount) if self.how == "cap" else most * self._amount
        if self.how != "confidence":
            return sigma[:, None].expand(masked.shape)
        earlier = self._written.recall(statistics)
        # Doubles of fp32 numbers, whose sum does not depend on the width of the block that they lie in.
        unsure = (-(masked.double() if earlier is None else earlier)).exp().float().double().masked_fill(~written, 0)
        return sigma[:, None] * unsure / unsure.sum(1, keepdim=True).clamp(min=torch.finfo(unsure.dtype).tiny)

    def _note(self, statistics: Statistics, commit: Tensor, probability: Tensor) -> None:
        """Keep the probabilities with which tokens were committed."""
        earlier = self._written.recall(statistics)
        now = probability.double()
        self._written.keep(statistics, torch.where(commit, now, torch.zeros_like(now) if earlier is None else earlier))
