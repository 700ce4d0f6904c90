"""Cases of the head and the choice of tokens: ours, the composed torch ops, and torch.compile of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from llada_moe_ops import ops
from torch import Tensor
from torch.nn import functional

from .case import OURS, Case, Geometry, Run
from .rows import COMPILED, COMPOSED, compiled

ROWS = (64, 1024)
BIASED = 32  # tokens of a row
NOISED: dict[str, Any] = {"noised": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "bias": {"biased": True},
    "noise": NOISED,
    "top_k=50": {**NOISED, "top_k": 50},
    "top_p=0.9": {**NOISED, "top_p": 0.9},
    "top_k=50, top_p=0.9": {**NOISED, "top_k": 50, "top_p": 0.9},
}


def ours(biased: bool = False, noised: bool = False, **cuts: Any) -> Run:
    """With a temperature for each row where noise chooses. What is compared, the log-sum-exp, comes first."""

    def run(hidden: Tensor, head: Tensor, temperature: Tensor, bias: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"temperature": temperature, "seed": 0} if noised else {}
        found = ops.token_confidence(hidden, head, bias=bias if biased else None, **options, **cuts)
        return found.logsumexp, *found

    return run


def composed(biased: bool = False, noised: bool = False, top_k: int | None = None, top_p: float | None = None) -> Run:
    """The same from logits in memory; noise of torch's generator."""

    def run(hidden: Tensor, head: Tensor, temperature: Tensor, bias: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        logits = functional.linear(hidden, head).float()
        if biased:
            logits = logits.scatter_add(1, *bias)
        logsumexp = logits.logsumexp(-1)
        logprobs = logits - logsumexp[:, None]
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        best = logits.topk(2).indices
        token = best[:, 0]
        if noised:
            shares = kept_shares(logits / temperature[:, None], top_k, top_p)
            token = (shares / torch.empty_like(shares).exponential_()).argmax(-1)
        return logsumexp, token, logprobs.gather(1, token[:, None]), best, logprobs.gather(1, best), entropy

    return run


def kept_shares(scores: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """The softmax of scores [R, V], without those that top_k and top_p leave out."""
    if top_k is not None:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is None:
        return scores.softmax(-1)
    shares, tokens = scores.softmax(-1).sort(-1, descending=True)
    shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0.0)
    return torch.zeros_like(shares).scatter(-1, tokens, shares)


def cases(geometry: Geometry) -> Iterator[Case]:
    """Each choice of options at each number of rows."""
    hidden, vocabulary, device = geometry.hidden, geometry.vocabulary, geometry.device
    for rows in ROWS:

        def inputs(rows: int = rows) -> tuple[Any, ...]:
            bias = torch.randint(vocabulary, (rows, BIASED), device=device), torch.randn(rows, BIASED, device=device)
            head = geometry.random(vocabulary, hidden, scale=3 * hidden**-0.5)
            return geometry.random(rows, hidden), head, torch.linspace(0.5, 1.5, rows, device=device), bias

        for name, options in OPTIONS.items():
            peer = composed(**options)
            yield Case(
                "token_confidence",
                f"R={rows}, {name}",
                inputs,
                {OURS: ours(**options), COMPOSED: peer, COMPILED: compiled(peer)},
                COMPOSED,
                bytes_moved=(rows + vocabulary) * hidden * geometry.dtype.itemsize,
                flops=2.0 * rows * vocabulary * hidden,
            )
