"""Backward passes through a reference: recompute it and differentiate that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def reference_gradients(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of ``function(*inputs)`` with respect to the inputs that are ``needed``, None for the others."""
    with torch.enable_grad():
        leaves = [
            None if value is None else value.detach().requires_grad_(need)
            for value, need in zip(inputs, needed, strict=True)
        ]
        outputs = function(*leaves)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    wanted = [leaf for leaf, need in zip(leaves, needed, strict=True) if leaf is not None and need]
    used = [(out, grad) for out, grad in zip(outputs, gradients, strict=True) if grad is not None and out.requires_grad]
    if not wanted or not used:
        return [None] * len(needed)
    found = iter(torch.autograd.grad([o for o, _ in used], wanted, [g for _, g in used], allow_unused=True))
    return [next(found) if leaf is not None and need else None for leaf, need in zip(leaves, needed, strict=True)]
