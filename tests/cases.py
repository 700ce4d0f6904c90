"""Shapes that break kernels, in one place: sizes one below and above a tile edge, empty and lopsided expert choices."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows per tile are 12, columns per panel 32 (16 for gate and up), k-values per lane 1 or 2, lanes per block 256.
ROWS = (0, 1, 11, 12, 13, 25)
LINEAR = tuple(  # (rows, K, N)
    [(rows, 40, 33) for rows in ROWS]
    + [(5, k, n) for k, n in ((1, 1), (7, 31), (64, 32), (33, 65), (513, 16), (1100, 48))]
)
EXPERT_CHOICES = ("random", "first", "last", "none_on_first", "not_mine", "all_not_mine")
EXPERT_LAYERS = (  # (tokens, k, E, H, I)
    (0, 2, 4, 16, 8),
    (1, 1, 1, 1, 1),
    (1, 2, 3, 8, 17),
    (13, 2, 4, 33, 16),
    (40, 3, 5, 64, 31),
    (30, 8, 8, 520, 48),
)


def random(*shape: int, dtype: torch.dtype, seed: int, scale: float = 1.0) -> Tensor:
    """Normal values from a seed of their own."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def choose_experts(choice: str, tokens: int, k: int, experts: int) -> Tensor:
    """[tokens, k] int32: which experts each token goes to."""
    make = torch.Generator().manual_seed(7)
    chosen = torch.randint(0, experts, (tokens, k), generator=make, dtype=torch.int32)
    if choice == "first":
        chosen.fill_(0)
    elif choice == "last":
        chosen.fill_(experts - 1)
    elif choice == "none_on_first":
        chosen.clamp_(min=min(1, experts - 1))
    elif choice == "not_mine":
        chosen[torch.rand(tokens, k, generator=make) < 0.4] = experts
    elif choice == "all_not_mine":
        chosen.fill_(experts)
    return chosen


def expert_layer(shape: tuple[int, ...], choice: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """(x, weights, experts, gate_up_proj, down_proj) of a shape of EXPERT_LAYERS."""
    tokens, k, experts, hidden, intermediate = shape
    return (
        random(tokens, hidden, dtype=dtype, seed=1),
        random(tokens, k, dtype=torch.float32, seed=2).abs(),
        choose_experts(choice, tokens, k, experts),
        random(experts, 2 * intermediate, hidden, dtype=dtype, seed=3, scale=hidden**-0.5),
        random(experts, hidden, intermediate, dtype=dtype, seed=4, scale=intermediate**-0.5),
    )
