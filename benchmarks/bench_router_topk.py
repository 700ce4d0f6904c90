"""router_topk and router against PyTorch: 64 experts, 8 per token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import ops

from .compare import DTYPES, compare, title

EXPERTS, CHOSEN, HIDDEN = 64, 8, 2048
CHOICE_BYTES = 8  # a weight and an expert


@pytest.mark.parametrize("dtype", DTYPES)
def test_router_topk(benchmark: Any, tokens: int, dtype: torch.dtype) -> None:
    logits = torch.randn(tokens, EXPERTS).to(dtype)
    peers = {
        "reference": lambda: ops.router_topk_reference(logits, CHOSEN),
        "softmax+topk": lambda: logits.float().softmax(-1).topk(CHOSEN),
    }
    name = title("router_topk", dtype, T=tokens)
    compare(
        benchmark,
        name,
        lambda: ops.router_topk(logits, CHOSEN),
        peers,
        dtype=dtype,
        bytes_moved=logits.nbytes + tokens * CHOSEN * CHOICE_BYTES,
        flops=3.0 * logits.numel(),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_router(benchmark: Any, tokens: int, dtype: torch.dtype) -> None:
    x, gate = torch.randn(tokens, HIDDEN).to(dtype), torch.randn(EXPERTS, HIDDEN).to(dtype) / HIDDEN**0.5
    peers = {"reference": lambda: ops.router_reference(x, gate, CHOSEN)}
    compare(
        benchmark,
        title("router", dtype, T=tokens),
        lambda: ops.router(x, gate, CHOSEN),
        peers,
        dtype=dtype,
        bytes_moved=x.nbytes + gate.nbytes + tokens * CHOSEN * CHOICE_BYTES,
        flops=2.0 * tokens * EXPERTS * HIDDEN,
    )
