"""Routing: scores, top-k choice and weights of the experts (arXiv 2509.24389 section 2; LLaDA2's gate as an option)."""

from __future__ import annotations

import torch
from torch import Tensor


def router_topk_reference(
    logits: Tensor,
    k: int,
    *,
    score: str = "softmax",
    bias: Tensor | None = None,
    bias_in_weights: bool = True,
    num_groups: int = 1,
    topk_groups: int = 1,
    renormalize: bool = False,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The specification of :func:`router_topk` in plain PyTorch."""
    scores = logits.float().softmax(-1) if score == "softmax" else logits.float().sigmoid()
    selection = scores if bias is None else scores + bias.float()
    source = selection if bias_in_weights else scores
    if num_groups > 1:
        grouped = selection.unflatten(-1, (num_groups, -1))
        group_scores = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
        kept = _stable_topk(group_scores, topk_groups)
        keep = torch.zeros_like(group_scores, dtype=torch.bool).scatter(-1, kept, True)
        selection = grouped.masked_fill(~keep.unsqueeze(-1), -torch.inf).flatten(-2)
    experts = _stable_topk(selection, k)
    weights = source.gather(-1, experts)
    if renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * scale, experts.to(torch.int32)


def _stable_topk(values: Tensor, k: int) -> Tensor:
    """Indices of the k largest, in falling order, equal values by lower index first (torch.topk promises no order)."""
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :k]
