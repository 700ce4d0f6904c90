"""expert_order, permute and unpermute against PyTorch: 64 experts, 8 per token, rows of 2048."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import ops

from .compare import DTYPES, compare, title

EXPERTS, CHOSEN, HIDDEN = 64, 8, 2048


def routed(tokens: int) -> torch.Tensor:
    return torch.rand(tokens, EXPERTS).argsort(-1)[:, :CHOSEN].int().contiguous()


def test_expert_order(benchmark: Any, tokens: int) -> None:
    experts = routed(tokens)
    peers = {"reference": lambda: ops.expert_order_reference(experts, EXPERTS)}
    name = title("expert_order", experts.dtype, T=tokens)
    compare(
        benchmark,
        name,
        lambda: ops.expert_order(experts, EXPERTS),
        peers,
        dtype=experts.dtype,
        bytes_moved=2.0 * experts.nbytes,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_permute(benchmark: Any, tokens: int, dtype: torch.dtype) -> None:
    order, _ = ops.expert_order(routed(tokens), EXPERTS)
    x = torch.randn(tokens, HIDDEN).to(dtype)
    peers = {"reference": lambda: ops.permute_reference(x, order, CHOSEN)}
    name = title("permute", dtype, T=tokens)
    compare(
        benchmark,
        name,
        lambda: ops.permute(x, order, CHOSEN),
        peers,
        dtype=dtype,
        bytes_moved=(1.0 + CHOSEN) * x.nbytes,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_unpermute(benchmark: Any, tokens: int, dtype: torch.dtype) -> None:
    order, _ = ops.expert_order(routed(tokens), EXPERTS)
    y, weights = torch.randn(tokens * CHOSEN, HIDDEN).to(dtype), torch.rand(tokens, CHOSEN)
    peers = {"reference": lambda: ops.unpermute_reference(y, order, weights)}
    name = title("unpermute", dtype, T=tokens)
    compare(
        benchmark,
        name,
        lambda: ops.unpermute(y, order, weights),
        peers,
        dtype=dtype,
        bytes_moved=y.nbytes * (1 + 1 / CHOSEN),
        flops=2.0 * y.numel(),
    )
