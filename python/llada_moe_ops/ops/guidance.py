"""Classifier-free guidance on hidden states: the head is linear, so theirs are the guided logits."""

from __future__ import annotations

import math

from torch import Tensor

from . import _check


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """u + (w + 1)(l − u) in fp32, rounded to the inputs' dtype (the sampler of LLaDA, arXiv 2502.09992).

    Guided logits as published are head(u) + (w + 1)(head(l) − head(u)): two products with the head, each rounded. One
    product with the guided hidden states is the same up to rounding, and half the work.
    """
    difference = conditional.float() - unconditional.float()
    return (unconditional.float() + (scale + 1) * difference).to(conditional.dtype)


def guided(op: str, hidden: Tensor, guidance: tuple[Tensor, float]) -> Tensor:
    """:func:`guide` with the arguments of an op checked."""
    unconditional, scale = guidance
    name = "guidance[0]"
    _check.tensor(op, name, unconditional, dtypes=(hidden.dtype,), shape=tuple(hidden.shape), device=hidden.device)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"{op}: guidance[1] must be a number, got {type(scale).__name__}")
    _check.require(op, "guidance[1]", math.isfinite(scale), "finite", scale)
    return guide(hidden, unconditional, scale)
