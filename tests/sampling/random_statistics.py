"""Statistics that no model made: random ones with ties, equal ones, one masked position, all masked."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from llada_moe_ops.sampling import Statistics
from torch import Tensor


def statistics(rows: int, width: int, seed: int, levels: int) -> Statistics:
    """Random statistics [rows, width]; ``levels`` different confidences, so few make ties and 1 makes all equal."""
    generator = torch.Generator().manual_seed(seed)

    def grid(steps: int) -> Tensor:
        return torch.randint(steps, (rows, width), generator=generator).float()

    # Multiples of 1/32 up to 1, so that a sum or difference is the same in every precision.
    confidence = 1 - grid(levels) / 32
    second = torch.minimum(1 - confidence, grid(levels) / 32)
    uniform = grid(levels) / 32
    return Statistics(
        token=torch.randint(100, (rows, width), generator=generator),
        confidence=confidence,
        logprob=confidence.log(),
        runner_up=torch.randint(100, (rows, width), generator=generator),
        runner_up_logprob=second.log(),
        entropy=grid(levels) / 32,
        uniform=lambda: uniform,
    )


def take(whole: Statistics, rows: Tensor) -> Statistics:
    """The statistics of some of the rows."""
    uniform = whole.uniform()[rows]
    fields = ("token", "confidence", "logprob", "runner_up", "runner_up_logprob", "entropy")
    return replace(whole, uniform=lambda: uniform, **{name: getattr(whole, name)[rows] for name in fields})


@st.composite
def cases(draw: st.DrawFn) -> tuple[Statistics, Tensor, Tensor]:
    """Statistics, masked positions (at least one a row) and quotas (at least one, at most the masked ones)."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    found = statistics(rows, width, draw(st.integers(0, 10_000)), draw(st.sampled_from([1, 2, 5, 33])))
    bits = st.lists(st.booleans(), min_size=width, max_size=width)
    one = st.integers(0, width - 1).map(lambda place: [column == place for column in range(width)])
    row = st.one_of(bits.filter(any), one, st.just([True] * width))
    masked = torch.tensor([draw(row) for _ in range(rows)])
    quota = torch.tensor([draw(st.integers(1, int(count))) for count in masked.sum(1)])
    return found, masked, quota
