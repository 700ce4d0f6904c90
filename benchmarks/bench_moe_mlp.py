"""moe_mlp, packed and plain, against the PyTorch expert loop.

Two layers take turns, so that no weight of the 7B's is still in the cache from the call before, as in a model.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest
import torch
from llada_moe_ops import ops

from .compare import DTYPES, TOKENS, compare, title

# (E, k, H, I): the 7B's layer with half its experts, to fit small machines, and the embedded model's
GEOMETRIES = ((32, 8, 2048, 1024), (16, 2, 128, 64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_moe_mlp(benchmark: Any, geometry: tuple[int, int, int, int], tokens: int, dtype: torch.dtype) -> None:
    experts, k, hidden, intermediate = geometry
    plain = []
    for _ in range(2):
        gate_up_proj = torch.randn(experts, 2 * intermediate, hidden).mul_(hidden**-0.5).to(dtype)
        plain.append((gate_up_proj, torch.randn(experts, hidden, intermediate).mul_(intermediate**-0.5).to(dtype)))
    packed = [ops.pack_experts(*layer) for layer in plain]
    x, weights = torch.randn(tokens, hidden).to(dtype), torch.rand(tokens, k)
    chosen = torch.rand(tokens, experts).topk(k).indices
    turns = {name: cycle(layers) for name, layers in (("ours", packed), ("loop", plain), ("plain", plain))}
    peers = {
        "expert loop": lambda: ops.moe_mlp_reference(x, weights, chosen, *next(turns["loop"])),
        "plain weights": lambda: ops.moe_mlp(x, weights, chosen, *next(turns["plain"])),
    }
    name = title("moe_mlp", dtype, T=tokens, E=experts, k=k, H=hidden, I=intermediate)
    used = len(chosen.unique())
    compare(
        benchmark,
        name,
        lambda: ops.moe_mlp(x, weights, chosen, next(turns["ours"])),
        peers,
        dtype=dtype,
        bytes_moved=2.0 * x.nbytes + used * sum(weight[0].nbytes for weight in plain[0]),
        flops=6.0 * tokens * k * hidden * intermediate,
        cold=(experts, k, hidden, intermediate) == GEOMETRIES[0],
    )
