"""linear against oneDNN and whatever else PyTorch has for a product with fixed weights, in every format.

The model's projections, with activations of 1 to 512 tokens. Large weights are cold: copies of them take turns, so
many that none is in a cache from its turn before. Weights are packed beforehand, oneDNN's and ours, as in a model that
is loaded once; "torch" is what an nn.Linear does, "plain weights" our op on the same tensor.

PyTorch's other int4 product, _dyn_quant_matmul_4bit, is absent: without KleidiAI (Arm) it is a scalar loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import cycle
from typing import Any, NamedTuple

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
COLD = 2048 * 2048  # weights of so many entries or more come from memory
TOKENS = (1, 8, 32, 128, 512)
# Of the head, whose calls take tenths of a second: no more rows of logits than HEAD_TOKENS, which do not fit small
# machines, and above LONG_TOKENS without these peers, none of which is the fastest there. At 512 rows a call of torch's
# takes 1.8 s in fp32 and 1.1 s in int4 on two cores of a Zen 5.
HEAD_TOKENS, LONG_TOKENS = 512, 128
NOT_AT_LONG = ("torch", "torch int4", "plain weights", "FBGEMM")
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


# Peers of a format, each from a weight; fp32 and bf16 also have oneDNN, which asks for the tokens.
FLOATING: dict[str, Callable[[Tensor], Product]] = {"torch": torch_linear, "plain weights": plain}
PEERS: dict[str, dict[str, Callable[[Tensor], Product]]] = {
    "fp32": FLOATING,
    "bf16": FLOATING,
    "int8": {"oneDNN": partial(int8_dynamic, engine="onednn"), "FBGEMM": partial(int8_dynamic, engine="x86")},
    "int4": {"torch int4": int4_weight_only, "our int8": packed("int8")},
}


@lru_cache(maxsize=1)
def random_weight(k: int, n: int) -> Tensor:
    """[N, K] Gaussian, of such a size that products keep the activations'."""
    return torch.empty(n, k).normal_(0, k**-0.5)


def in_turn(build: Callable[[Tensor], Product], weight: Tensor, copies: int) -> Product:
    """Each call is made with the next of so many copies of the weight."""
    turns = cycle([build(weight if copies == 1 else weight.clone()) for _ in range(copies)])
    return lambda x: next(turns)(x)


class Contenders(NamedTuple):
    """What serves a weight at any number of tokens."""

    weight: Tensor
    packed_bytes: int
    copies: int
    products: dict[str, Product]


@lru_cache(maxsize=1)
def contenders(k: int, n: int, format: str) -> Contenders:
    """Ours and its peers, built once: the head takes seconds."""
    weight = random_weight(k, n).to(ACTIVATIONS[format])
    packed_bytes, l3 = ops.pack_linear(weight, format).nbytes, extension().cache_sizes()["l3"]
    copies = math.ceil(2 * l3 / packed_bytes) if k * n >= COLD else 1
    builders = {"ours": packed(format), **PEERS[format]}
    products = {name: in_turn(build, weight, copies) for name, build in builders.items()}
    return Contenders(weight, packed_bytes, copies, products)


@pytest.mark.parametrize("format", ACTIVATIONS)
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_linear(benchmark: Any, k: int, n: int, format: str, tokens: int) -> None:
    if (k, n) == HEAD and tokens > HEAD_TOKENS:
        pytest.skip(f"the head's logits of more than {HEAD_TOKENS} rows")
    weight, packed_bytes, copies, products = contenders(k, n, format)
    x = torch.randn(tokens, k).to(weight.dtype)
    if format in ("fp32", "bf16"):
        products = {"oneDNN": in_turn(lambda one: onednn(one, tokens), weight, copies), **products}
    if (k, n) == HEAD and tokens > LONG_TOKENS:
        products = {name: product for name, product in products.items() if name not in NOT_AT_LONG}
    expected = functional.linear(x.float(), weight.float())
    for product in products.values():
        assert_close(product(x), expected, TOLERANCE[format])
    runs = {name: lambda product=product: product(x) for name, product in products.items()}
    compare(
        benchmark,
        title("linear", format, T=tokens, K=k, N=n),
        runs.pop("ours"),
        runs,
        dtype=format if format.startswith("int") else weight.dtype,
        bytes_moved=x.nbytes + packed_bytes + tokens * n * weight.dtype.itemsize,
        flops=2.0 * tokens * k * n,
        cold=k * n >= COLD,
        tolerance=TOLERANCE[format],
    )
