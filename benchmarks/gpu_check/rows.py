"""Cases of routing and permutation: ours, the composed torch ops, and torch.compile of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from llada_moe_ops import ops
from torch import Tensor
from torch.nn import functional

from .case import OURS, Case, Geometry, Run
from .experts import choose, sort_by_expert

TOKENS = (64, 2048, 8192)
COMPOSED, COMPILED = "composed torch ops", "torch.compile of them"


def composed_router(x: Tensor, gate: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Product, softmax in fp32, the k largest."""
    weights, experts = functional.linear(x, gate).float().softmax(-1).topk(k)
    return weights, experts.int()


def composed_router_and_order(x: Tensor, gate: Tensor, k: int) -> tuple[Tensor, ...]:
    """The router, then assignments by expert."""
    weights, experts = composed_router(x, gate, k)
    return weights, experts, *sort_by_expert(experts, len(gate))


def router_and_order(x: Tensor, gate: Tensor, k: int) -> tuple[Tensor, ...]:
    """Ours."""
    weights, experts = ops.router(x, gate, k)
    return weights, experts, *ops.expert_order(experts, len(gate))


def composed_permute(x: Tensor, order: Tensor, k: int) -> Tensor:
    """Rows by expert."""
    return x[order // k]


def composed_unpermute(y: Tensor, order: Tensor, weights: Tensor) -> Tensor:
    """Rows back in the order of the tokens, weighted and summed."""
    back = torch.empty_like(y).index_copy_(0, order.long(), y).view(*weights.shape, -1)
    return (back.float() * weights.unsqueeze(-1)).sum(1).to(y.dtype)


def cases(geometry: Geometry) -> Iterator[Case]:
    """Router with order, permute and unpermute at each number of tokens."""
    hidden, size, k = geometry.hidden, geometry.dtype.itemsize, geometry.slots
    for tokens in TOKENS:
        yield Case(
            "router and order",
            f"T={tokens}",
            lambda tokens=tokens: (
                geometry.random(tokens, hidden),
                geometry.random(geometry.experts, hidden, scale=hidden**-0.5),
                k,
            ),
            runs(router_and_order, composed_router_and_order),
            COMPOSED,
            bytes_moved=(tokens + geometry.experts) * hidden * size + tokens * k * 12,
            flops=2.0 * tokens * geometry.experts * hidden,
        )
        yield Case(
            "permute",
            f"T={tokens}",
            lambda tokens=tokens: (geometry.random(tokens, hidden), _order(geometry, tokens), k),
            runs(ops.permute, composed_permute),
            COMPOSED,
            bytes_moved=tokens * hidden * size * (1 + k),
        )
        yield Case(
            "unpermute",
            f"T={tokens}",
            lambda tokens=tokens: (
                geometry.random(tokens * k, hidden),
                _order(geometry, tokens),
                torch.rand(tokens, k, device=geometry.device),
            ),
            runs(ops.unpermute, composed_unpermute),
            COMPOSED,
            bytes_moved=tokens * hidden * size * (1 + k),
        )


def runs(ours: Run, composed: Run) -> dict[str, Run]:
    """Ours and its peers."""
    return {OURS: ours, COMPOSED: composed, COMPILED: compiled(composed)}


def compiled(function: Run) -> Run:
    """By inductor, for one shape."""
    return torch.compile(function, dynamic=False)


def _order(geometry: Geometry, tokens: int) -> Tensor:
    return sort_by_expert(choose(geometry, tokens), geometry.experts)[0].int()
