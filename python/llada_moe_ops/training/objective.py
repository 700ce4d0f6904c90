"""The masked-diffusion objective and the router's auxiliary losses (arXiv 2509.24389 section 2; 2502.09992)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST_MASK_RATIO = 1e-3


def mask_ratios(count: int, generator: torch.Generator) -> Tensor:
    """Mask probabilities p = (1 − ε)·t + ε, one per sequence, with t uniform on (0, 1].

    The draws are stratified (one per equal slice of (0, 1], in random order), which keeps each t uniform and takes
    most of the variance of a batch's loss away.
    """
    t = (torch.randperm(count, generator=generator) + 1 - torch.rand(count, generator=generator)) / count
    return (1 - SMALLEST_MASK_RATIO) * t + SMALLEST_MASK_RATIO


def mask_tokens(
    input_ids: Tensor, maskable: Tensor, mask_token_id: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask each maskable token of [B, L] with its sequence's probability.

    Returns:
        the noisy ids [B, L], which of them are masked [B, L], and the probabilities [B, 1].
    """
    ratios = mask_ratios(input_ids.shape[0], generator).unsqueeze(1)
    masked = (torch.rand(input_ids.shape, generator=generator) < ratios) & maskable
    return torch.where(masked, mask_token_id, input_ids), masked, ratios


def diffusion_loss(logits: Tensor, targets: Tensor, masked: Tensor, ratios: Tensor, lengths: Tensor) -> Tensor:
    """Mean over sequences of Σ over masked of cross-entropy / p / (number of maskable tokens).

    For pre-training data every token is maskable and this is the paper's Σ CE / p / (B·L); for instruction data
    only the answer is, end-of-text padding included.

    Args:
        logits: [M, V] at the masked positions, in row-major order.
        targets: [B, L] the clean ids; masked: bool [B, L]; ratios: [B, 1]; lengths: [B] maskable tokens.
    """
    losses = functional.cross_entropy(logits.float(), targets[masked], reduction="none")
    weights = (1.0 / (ratios * lengths.clamp(min=1).unsqueeze(1))).expand_as(masked)[masked]
    return (losses * weights).sum() / targets.shape[0]


def load_balancing_loss(router_logits: list[Tensor], k: int) -> Tensor:
    """E · Σ over experts of (share of assignments) · (mean probability), averaged over layers; 1 when balanced."""
    total = torch.zeros(())
    for logits in router_logits:
        experts = logits.shape[-1]
        probabilities = logits.float().softmax(-1)
        chosen = probabilities.topk(k, dim=-1).indices
        share = torch.bincount(chosen.flatten(), minlength=experts) / max(chosen.numel(), 1)
        total = total + experts * (share * probabilities.mean(0)).sum()
    return total / max(len(router_logits), 1)


def router_z_loss(router_logits: list[Tensor]) -> Tensor:
    """Mean of logsumexp² of the router's logits, averaged over layers: keeps them small."""
    total = torch.zeros(())
    for logits in router_logits:
        total = total + logits.float().logsumexp(-1).square().mean()
    return total / max(len(router_logits), 1)
