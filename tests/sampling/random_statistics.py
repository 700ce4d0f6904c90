"""Statistics that no model made: random ones with ties, equal ones, one masked position, all masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from llada_moe_ops import ops
from llada_moe_ops.ops import TokenConfidence
from llada_moe_ops.sampling import Details, Distributions, Statistics
from torch import Tensor

TIES = ["", "", "positions", "all", "tokens"]


def no_model(*_: Any) -> Any:
    raise AssertionError("these statistics have no distributions behind them")


def details(uniform: Callable[[], Tensor]) -> Details:
    """Of a first step, with nothing but the uniform numbers."""
    rows = torch.arange(len(uniform()))
    empty = torch.empty(0, dtype=torch.int64)
    nothing = Distributions(torch.empty(0, 0), torch.empty(0), torch.empty(0, 0), [], rows, empty, empty, 0)
    tokens = torch.zeros_like(uniform(), dtype=torch.int64)
    return Details(rows, 0, torch.zeros_like(rows), tokens, tokens == 0, uniform, nothing, no_model, no_model)


def of_logits(
    logits: Tensor,
    masked: Tensor,
    rows: Tensor,
    index: int,
    tokens: Tensor | None = None,
    uniform: Callable[[], Tensor] = no_model,
) -> Statistics:
    """Statistics of logits [B, W, V] where ``masked``, the head being the identity; the rest as in ``Details``."""
    row, slot = masked.nonzero(as_tuple=True)
    hidden, head = logits[row, slot].contiguous(), torch.eye(logits.shape[-1])

    def made(best: TokenConfidence) -> Statistics:
        def dense(values: Tensor) -> Tensor:
            return torch.zeros(masked.shape, dtype=values.dtype).index_put((row, slot), values)

        columns = (best.token.long(), best.logprob.exp(), best.logprob, best.runner_up.long(), best.runner_up_logprob)
        return Statistics(*map(dense, (*columns, best.entropy)), details=behind)

    def biased(tokens: Tensor, values: Tensor) -> Statistics:
        return made(ops.token_confidence(hidden, head, bias=(tokens[row, slot], values[row, slot])))

    best = ops.token_confidence(hidden, head)
    kept = Distributions(hidden, best.logsumexp, head, [], rows, row, slot, masked.shape[1])
    stands = torch.zeros_like(masked) if tokens is None else tokens
    behind = Details(rows, index, torch.full_like(rows, index), stands, masked, uniform, kept, biased, no_model)
    return made(best)


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
        details=details(lambda: uniform),
    )


def take(whole: Statistics, rows: Tensor) -> Statistics:
    """The statistics of some of the rows."""
    uniform = whole.details.uniform()[rows]
    fields = ("token", "confidence", "logprob", "runner_up", "runner_up_logprob", "entropy")
    return replace(whole, details=details(lambda: uniform), **{name: getattr(whole, name)[rows] for name in fields})


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


def walk(steps: int, rows: int, width: int, vocabulary: int, seed: int) -> Tensor:
    """Logits [steps, rows, width, vocabulary] that drift, each position at its own pace and sharpness."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    pace = 10 ** (normal(rows, width, 1) - 0.8)
    moves = normal(steps, rows, width, vocabulary) * pace
    return normal(rows, width, vocabulary) * normal(rows, width, 1).exp() + moves.cumsum(0)


def with_ties(logits: Tensor, ties: str) -> Tensor:
    """ "positions": every other position is a copy of the first, "all": all are; "tokens": logits in coarse steps."""
    if ties == "tokens":
        return (logits / 0.37).round() * 0.37  # whose mean gaps are no rule's parameter
    step = {"": logits.shape[2], "positions": 2, "all": 1}[ties]
    copied = logits.clone()
    copied[:, :, ::step] = logits[:, :, :1]
    return copied


def told_apart(logits: Tensor) -> bool:
    """Whether no two positions of a row and step are so nearly as sure that rounding decides which is surer.

    Copies are the same to the bit, and the lower position comes first. The same logits in another order need not be,
    as their sum is rounded.
    """
    surest = logits.double().softmax(-1).amax(-1)
    near = (surest[..., None] - surest[..., None, :]).abs() <= 1e-6
    copies = (logits[..., None, :] == logits[..., None, :, :]).all(-1)
    return bool((copies | ~near).all())
