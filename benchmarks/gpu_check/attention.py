"""Cases of attention: ours, torch's own with its flash and its cuDNN backend, and FlexAttention."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from llada_moe_ops import ops
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .case import OURS, Case, Geometry

LENGTHS = ((64, 1024), (64, 4096), (2048, 2048), (4096, 4096), (1024, 1024), (8192, 8192), (512, 512), (256, 256))
BACKENDS = {"SDPA, flash": SDPBackend.FLASH_ATTENTION, "SDPA, cuDNN": SDPBackend.CUDNN_ATTENTION}


def sdpa(backend: SDPBackend) -> Callable[..., Tensor]:
    """torch's attention of [B, S, heads, D], by one backend."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(*(value.transpose(1, 2) for value in (q, k, v))).transpose(1, 2)

    return run


def flex() -> Callable[..., Tensor]:
    """FlexAttention, compiled as it is meant to be."""
    from torch.nn.attention.flex_attention import flex_attention

    call = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: call(*(value.transpose(1, 2) for value in (q, k, v))).transpose(1, 2)


def cases(geometry: Geometry) -> Iterator[Case]:
    """A block against cached keys, then whole sequences."""
    heads, depth, size = geometry.heads, geometry.head_size, geometry.dtype.itemsize
    peers = {name: sdpa(backend) for name, backend in BACKENDS.items()}
    for queries, keys in LENGTHS:

        def inputs(queries: int = queries, keys: int = keys) -> tuple[Tensor, ...]:
            return tuple(geometry.random(1, length, heads, depth) for length in (queries, keys, keys))

        yield Case(
            "attention",
            f"{queries} x {keys}",
            inputs,
            {OURS: ops.attention, **peers, "FlexAttention": flex()},
            next(iter(peers)),
            bytes_moved=2.0 * (queries + keys) * heads * depth * size,
            flops=4.0 * queries * keys * heads * depth,
        )
