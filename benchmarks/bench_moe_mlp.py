"""moe_mlp on packed weights in every format, against the PyTorch expert loop and against our own other ways.

Two layers take turns, so that no weight of the 7B's is still in the cache from the call before, as in a model. The
quantised formats are checked against the loop on the bf16 weights that they were rounded from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import cycle
from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from torch import Tensor

from .compare import compare, title

LARGE = (32, 8, 2048, 1024)  # (E, k, H, I): the 7B's layer with half its experts, to fit small machines
GEOMETRIES = (LARGE, (16, 2, 128, 64))  # and the embedded model's
# How far from the first peer, relative to the result's root mean square.
TOLERANCE = {"bf16": 0.02, "fp32": 0.02, "int8": 0.05, "int4": 0.25}
LOOP = "expert loop"

Layer = tuple[Tensor, Tensor] | tuple[ops.PackedExperts]


@lru_cache(maxsize=1)
def two_layers(experts: int, hidden: int, intermediate: int, format: str) -> dict[str, list[Layer]]:
    """Two layers' weights as each contender takes them."""
    plain: list[tuple[Tensor, Tensor]] = []
    for _ in range(2):
        gate_up_proj = torch.empty(experts, 2 * intermediate, hidden).normal_(0, hidden**-0.5)
        down_proj = torch.empty(experts, hidden, intermediate).normal_(0, intermediate**-0.5)
        dtype = torch.float32 if format == "fp32" else torch.bfloat16
        plain.append((gate_up_proj.to(dtype), down_proj.to(dtype)))
    contenders: dict[str, list[Layer]] = {"ours": [(ops.pack_experts(*layer, format),) for layer in plain]}
    contenders[LOOP] = [*plain]
    if format in ("int8", "int4"):
        return contenders | {"our bf16": [(ops.pack_experts(*layer),) for layer in plain]}
    return contenders | {"plain weights": [*plain]}


@pytest.mark.parametrize("format", TOLERANCE)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_moe_mlp(benchmark: Any, geometry: tuple[int, int, int, int], format: str, tokens: int) -> None:
    experts, k, hidden, intermediate = geometry
    layers = two_layers(experts, hidden, intermediate, format)
    dtype = torch.float32 if format == "fp32" else torch.bfloat16
    x, weights = torch.randn(tokens, hidden).to(dtype), torch.rand(tokens, k)
    chosen = torch.rand(tokens, experts).topk(k).indices
    turns = {name: cycle(contender) for name, contender in layers.items()}

    def run(name: str) -> Callable[[], Tensor]:
        op = ops.moe_mlp_reference if name == LOOP else ops.moe_mlp
        return lambda: op(x, weights, chosen, *next(turns[name]))

    runs = {name: run(name) for name in layers}
    used = len(chosen.unique()) / experts
    compare(
        benchmark,
        title("moe_mlp", format, T=tokens, E=experts, k=k, H=hidden, I=intermediate),
        runs.pop("ours"),
        runs,
        dtype=format if format.startswith("int") else dtype,
        bytes_moved=2.0 * x.nbytes + used * sum(weight.nbytes for weight in layers["ours"][0]),
        flops=6.0 * tokens * k * hidden * intermediate,
        cold=geometry == LARGE,
        tolerance=TOLERANCE[format],
    )
