"""Products of rows grouped by expert with that expert's own weight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def grouped_gemm_reference(x_sorted: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """The specification of :func:`grouped_gemm` in plain PyTorch."""
    sizes = offsets.diff().tolist()
    groups = x_sorted.split([*sizes, x_sorted.shape[0] - sum(sizes)])[: len(sizes)]
    return torch.cat([functional.linear(rows, weight[e]) for e, rows in enumerate(groups)])


def grouped_swiglu_reference(x_sorted: Tensor, gate_up_proj: Tensor, offsets: Tensor) -> Tensor:
    """The specification of :func:`grouped_swiglu` in plain PyTorch."""
    gate, up = grouped_gemm_reference(x_sorted, gate_up_proj, offsets).chunk(2, dim=-1)
    return functional.silu(gate) * up
