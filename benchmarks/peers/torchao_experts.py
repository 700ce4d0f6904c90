"""torchao: each expert's products as quantised linear layers, in a loop over experts."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .peer import INT4_GROUP, Peer, Run, expert_loop, importable


def available() -> str | None:
    """None, or why torchao is missing."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    return importable("torchao") or importable("torchao.quantization")


def _config(kind: str) -> Any:
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

    if kind == "int4":
        return PrototypeInt4WeightOnlyConfig(group_size=INT4_GROUP)
    return Int8DynamicActivationInt8WeightConfig() if kind == "dynamic" else Int8WeightOnlyConfig()


def build(gate_up_proj: Tensor, down_proj: Tensor, format: str, *, kind: str) -> Run:
    """Two quantised linear layers an expert."""
    from torchao.quantization import quantize_

    def linear(weight: Tensor) -> nn.Linear:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
        layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
        quantize_(layer, _config(kind))
        return layer

    layers = [
        (linear(gate_up), linear(down)) for gate_up, down in zip(gate_up_proj.unbind(), down_proj.unbind(), strict=True)
    ]
    loop = expert_loop([(gate_up.forward, down.forward) for gate_up, down in layers])

    def run(x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        with torch.no_grad():
            return loop(x, weights, experts)

    return run


PEERS = (
    Peer("torchao dynamic", ("int8",), available, partial(build, kind="dynamic")),
    Peer("torchao weight-only", ("int8",), available, partial(build, kind="weight-only")),
    Peer("torchao weight-only", ("int4",), available, partial(build, kind="int4")),
)
