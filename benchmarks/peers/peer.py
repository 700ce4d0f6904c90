"""What a peer is: a name, the formats it has, why it may be missing, and how it runs one expert layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

Run = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [T, H], routing weights f32 [T, k], experts int64 [T, k]) -> [T, H]."""
Build = Callable[[Tensor, Tensor, str], Run]
"""(gate_up_proj [E, 2I, H], down_proj [E, H, I], format) -> Run; the weights are in the format's activation dtype."""

FORMATS = ("bf16", "fp32", "int8", "int4")
ACTIVATIONS = {"bf16": torch.bfloat16, "fp32": torch.float32, "int8": torch.bfloat16, "int4": torch.bfloat16}
# Relative error against the reference in fp32. The quantised formats' is nearly all rounding of Gaussian weights: int8
# per channel with int8 activations measures 0.026, int4 in groups of 128 measures 0.21 and per channel 0.27.
TOLERANCE = {"bf16": 0.01, "fp32": 1e-5, "int8": 0.04, "int4": 0.32}
INT4_GROUP = 128


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Peer:
    """One implementation of the expert layer."""

    name: str
    formats: tuple[str, ...]
    available: Callable[[], str | None]
    build: Build
    max_tokens: int = 1 << 30
    # Its threads spin for a while after a call and would slow whoever comes next.
    spins: bool = False
    # Called when the weights of every layer built so far are gone.
    release: Callable[[], None] = _nothing


def importable(module: str) -> str | None:
    """None, or why the module cannot be imported."""
    if find_spec(module) is None:
        return f"{module} is not installed"
    try:
        import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        return f"import {module}: {str(error).splitlines()[0]}"
    return None


def package_folder(package: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def int8_per_channel(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[E, N, K] -> (int8 [E, N, K], f32 scales [E, N]), symmetric."""
    quantised, scales = torch.empty_like(weight, dtype=torch.int8), torch.empty(weight.shape[:-1])
    for expert, rows in enumerate(weight.unbind()):
        wide = rows.float()
        scale = wide.abs().amax(-1) / 127
        quantised[expert] = (wide / scale.unsqueeze(-1)).round_().clamp_(-127, 127).to(torch.int8)
        scales[expert] = scale
    return quantised, scales


def int4_per_group(weight: Tensor, group: int = INT4_GROUP) -> tuple[Tensor, Tensor]:
    """[E, N, K] -> (int8 [E, N, K] in -8 .. 7, f32 scales [E, N, K / group]), symmetric."""
    experts, rows, depth = weight.shape
    quantised = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(experts, rows, depth // group)
    for expert in range(experts):
        groups = weight[expert].float().view(rows, -1, group)
        scales[expert] = groups.abs().amax(-1) / 7
        quantised[expert] = (
            (groups / scales[expert].unsqueeze(-1)).round_().clamp_(-8, 7).to(torch.int8).view(rows, depth)
        )
    return quantised, scales


def nibbles(values: Tensor) -> Tensor:
    """[..., K] integers -> int32 [..., K / 8] of their low four bits, the first value lowest."""
    packed = torch.zeros(*values.shape[:-1], values.shape[-1] // 8, dtype=torch.int32)
    for place in range(8):
        packed |= (values[..., place::8].to(torch.int32) & 15) << (4 * place)
    return packed


def expert_loop(linears: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]) -> Run:
    """A layer from each expert's two products, for peers that have no fused experts: gather, product, scatter."""

    def run(x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        slots = experts.shape[1]
        order = experts.flatten().argsort()
        counts = experts.flatten().bincount(minlength=len(linears)).tolist()
        rows = torch.empty(order.shape[0], x.shape[1], dtype=x.dtype)
        gathered = x[order // slots]
        start = 0
        for (gate_up, down), count in zip(linears, counts, strict=True):
            if count:
                gate, up = gate_up(gathered[start : start + count]).chunk(2, -1)
                rows[start : start + count] = down(torch.nn.functional.silu(gate) * up)
                start += count
        per_slot = torch.empty_like(rows)
        per_slot[order] = rows
        return torch.bmm(weights.to(x.dtype).unsqueeze(1), per_slot.view(x.shape[0], slots, -1)).squeeze(1)

    return run
