"""linear against oneDNN and whatever else PyTorch has for a product with fixed weights, in every format.

The model's projections, with activations of 1 to 512 tokens. Large weights are cold: copies of them take turns, so
many that none is in a cache from its turn before. Weights are packed beforehand, oneDNN's and ours, as in a model that
is loaded once; "torch" is what an nn.Linear does, "plain weights" our op on the same tensor.

PyTorch's other int4 product, _dyn_quant_matmul_4bit, is absent: without KleidiAI (Arm) it is a scalar loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import cycle
from typing import Any

import pytest
import torch
from llada_moe_ops import ops
from llada_moe_ops.machine import extension
from torch import Tensor
from torch.nn import functional

from .compare import assert_close, compare, title

Product = Callable[[Tensor], Tensor]

HEAD = (2048, 157184)
# (K, N): output projection; queries, keys and values in one; head; router; the embedded model
SIZES = ((2048, 2048), (2048, 6144), HEAD, (2048, 64), (128, 128))
TOKENS = (1, 8, 32, 128, 512)
HEAD_TOKENS = (1, 32)
# PyTorch's quantised product takes fp32 activations alone, its int4 one bf16.
ACTIVATIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32, "int4": torch.bfloat16}
# Error relative to the product of the unrounded weights.
TOLERANCE = {"fp32": 1e-5, "bf16": 0.01, "int8": 0.03, "int4": 0.15}
INT4_GROUP = 32


def packed(format: str) -> Callable[[Tensor], Product]:
    """Our op on packed weights."""

    def build(weight: Tensor) -> Product:
        panels = ops.pack_linear(weight, format)
        return lambda x: ops.linear(x, panels)

    return build


def plain(weight: Tensor) -> Product:
    """Our op on the weights as they are."""
    return lambda x: ops.linear(x, weight)


def torch_linear(weight: Tensor) -> Product:
    """What nn.Linear calls: MKL in fp32, oneDNN in bf16."""
    return lambda x: functional.linear(x, weight)


def onednn(weight: Tensor, tokens: int) -> Product:
    """oneDNN with weights in the layout that it asks for at so many tokens."""
    reordered = torch.ops.mkldnn._reorder_linear_weight(weight, tokens)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, reordered, None, "none", [], "")


def int8_dynamic(weight: Tensor, engine: str) -> Product:
    """One scale for a row of weights, one for all the activations of a call, found in the call."""
    scales = weight.float().abs().amax(1) / 127
    values = torch.round(weight / scales[:, None]).to(torch.int8)
    quantized = torch._make_per_channel_quantized_tensor(values, scales, torch.zeros(len(scales)).long(), 0)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    prepacked = torch.ops.quantized.linear_prepack(quantized, None)
    torch.backends.quantized.engine = before
    return lambda x: torch.ops.quantized.linear_dynamic(x, prepacked)


def int4_weight_only(weight: Tensor) -> Product:
    """A scale and a zero point for a group along K, products in bf16."""
    groups = weight.float().unflatten(1, (-1, INT4_GROUP))
    low = groups.amin(2)
    scales = (groups.amax(2) - low) / 15
    values = torch.round((groups - low[..., None]) / scales[..., None]).clamp_(0, 15).int().flatten(1)
    tiles = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
    scales_and_zeros = torch.stack([scales, low + 8 * scales], -1).transpose(0, 1).contiguous().bfloat16()
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, tiles, INT4_GROUP, scales_and_zeros)


def builders(format: str, tokens: int) -> dict[str, Callable[[Tensor], Product]]:
    """Ours and its peers, each from a weight."""
    ours = {"ours": packed(format)}
    if format == "int8":
        engines = {"oneDNN": "onednn", "FBGEMM": "x86"}
        return ours | {name: lambda weight, e=engine: int8_dynamic(weight, e) for name, engine in engines.items()}
    if format == "int4":
        return ours | {"torch int4": int4_weight_only, "our int8": packed("int8")}
    return ours | {"oneDNN": lambda weight: onednn(weight, tokens), "torch": torch_linear, "plain weights": plain}


@lru_cache(maxsize=1)
def random_weight(k: int, n: int) -> Tensor:
    """[N, K] Gaussian, of such a size that products keep the activations'."""
    return torch.empty(n, k).normal_(0, k**-0.5)


def in_turn(build: Callable[[Tensor], Product], weight: Tensor, copies: int) -> Product:
    """Each call is made with the next of so many copies of the weight."""
    turns = cycle([build(weight if copies == 1 else weight.clone()) for _ in range(copies)])
    return lambda x: next(turns)(x)


@pytest.mark.parametrize("format", ACTIVATIONS)
@pytest.mark.parametrize(
    ("k", "n", "tokens"), [(*size, t) for size in SIZES for t in (HEAD_TOKENS if size == HEAD else TOKENS)]
)
def test_linear(benchmark: Any, k: int, n: int, tokens: int, format: str) -> None:
    dtype = ACTIVATIONS[format]
    x, weight = torch.randn(tokens, k).to(dtype), random_weight(k, n).to(dtype)
    expected = functional.linear(x.float(), weight.float())
    weight_bytes, l3 = ops.pack_linear(weight, format).nbytes, extension().cache_sizes()["l3"]
    cold = k * n >= 2048 * 2048
    copies = math.ceil(2 * l3 / weight_bytes) if cold else 1
    products = {name: in_turn(build, weight, copies) for name, build in builders(format, tokens).items()}
    for product in products.values():
        assert_close(product(x), expected, TOLERANCE[format])
    runs = {name: lambda product=product: product(x) for name, product in products.items()}
    compare(
        benchmark,
        title("linear", format, T=tokens, K=k, N=n),
        runs.pop("ours"),
        runs,
        dtype=format if format.startswith("int") else dtype,
        bytes_moved=x.nbytes + weight_bytes + tokens * n * dtype.itemsize,
        flops=2.0 * tokens * k * n,
        cold=cold,
        tolerance=TOLERANCE[format],
    )
