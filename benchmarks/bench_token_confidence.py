"""token_confidence against the logits in memory: hidden 2048, an eighth of the 7B's vocabulary (the work is linear)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from torch.nn import functional

from .compare import DTYPES, compare, title

HIDDEN, VOCABULARY = 2048, 157184 // 8


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 32, 256])
def test_token_confidence(benchmark: Any, rows: int, dtype: torch.dtype, temperature: float) -> None:
    hidden = torch.randn(rows, HIDDEN).to(dtype)
    head = (torch.randn(VOCABULARY, HIDDEN) / HIDDEN**0.5).to(dtype)
    packed = ops.pack_linear(head)

    def eager() -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = functional.linear(hidden, head).float().log_softmax(-1)
        scores = logprobs
        if temperature > 0:
            scores = logprobs.double() + temperature * ops.gumbel_noise(3, torch.arange(rows), VOCABULARY)
        token = scores.argmax(-1)
        return token, logprobs.gather(-1, token[:, None])

    def run(weight: Any) -> Any:
        return ops.token_confidence(hidden, weight, temperature=temperature, seed=3)

    peers = {"eager": eager, "plain weights": lambda: run(head)}
    name = title("token_confidence", dtype, R=rows, V=VOCABULARY) + f" T={temperature}"
    compare(
        benchmark,
        name,
        lambda: run(packed),
        peers,
        dtype=dtype,
        bytes_moved=hidden.nbytes + head.nbytes,
        flops=2.0 * rows * HIDDEN * VOCABULARY,
    )
