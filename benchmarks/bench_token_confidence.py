"""token_confidence against the plain product by the same head, at the 7B's vocabulary: 157184 x 2048.

Logits of standard deviation 8 have a small nucleus; ``flat`` ones have one larger than the 256 tokens that are kept,
which takes a second pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from torch import Tensor
from torch.nn import functional

from .compare import compare, title

HIDDEN, VOCABULARY = 2048, 157184
FORMATS = ("bf16", "int8", "fp32")
FLAT, PEAKED = 1.0, 8.0


def options(rows: int) -> dict[str, dict[str, Any]]:
    """What is asked of the op, by name."""
    noise: dict[str, Any] = {"temperature": 1.0, "seed": 3}
    return {
        "T=0": {},
        "noise": noise,
        "bias": {"bias": (torch.randint(VOCABULARY, (rows, 8)), torch.randn(rows, 8))},
        "temperatures": {"temperature": torch.linspace(0, 1, rows), "seed": 3},
        "top_k=50": {**noise, "top_k": 50},
        "top_p=0.95": {**noise, "top_p": 0.95},
    }


@pytest.mark.parametrize("rows", [1, 8, 32, 128])
@pytest.mark.parametrize("format", FORMATS)
def test_token_confidence(benchmark: Any, format: str, rows: int) -> None:
    dtype = torch.float32 if format == "fp32" else torch.bfloat16
    hidden = torch.randn(rows, HIDDEN).to(dtype)
    head = torch.randn(VOCABULARY, HIDDEN, dtype=dtype).mul_(PEAKED / HIDDEN**0.5)
    packed = ops.pack_linear(head, format)

    def run(hidden: Tensor, **asked: Any) -> Callable[[], Any]:
        return lambda: ops.token_confidence(hidden, packed, **asked)

    asked = options(rows)
    peers: dict[str, Callable[[], Any]] = {
        "eager": lambda: ops.linear(hidden, packed).float().argmax(-1, keepdim=True).int().unbind(1),
        "linear": lambda: ops.linear(hidden, packed),
        **{name: run(hidden, **more) for name, more in asked.items() if more},
        "flat top_p=0.95": run(hidden * (FLAT / PEAKED), **asked["top_p=0.95"]),
    }
    if format != "int8":
        peers["F.linear"] = lambda: functional.linear(hidden, head)
    compare(
        benchmark,
        title("token_confidence", format, R=rows, V=VOCABULARY),
        run(hidden),
        peers,
        dtype=dtype if format != "int8" else "int8",
        bytes_moved=hidden.nbytes + packed.panels.nbytes,
        flops=2.0 * rows * HIDDEN * VOCABULARY,
        seconds=max(3.0, rows / 5),  # eight turns of 128 rows
    )
