"""What is chosen from logits [R, V] and how sure the model is: the specification of token_confidence's second half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .gumbel_noise import gumbel_noise


class TokenConfidence(NamedTuple):
    """Per row: the chosen token and how sure the model is. See :func:`token_confidence`."""

    token: Tensor
    """int32 [R]; -1 where the row's distribution is not finite."""
    logprob: Tensor
    """float32 [R]: log-softmax of the plain logits (no noise, no temperature) at the token; NaN where it is -1."""
    runner_up: Tensor
    """int32 [R]: of the other tokens that may be chosen, that of the largest plain logit; -1 without one."""
    runner_up_logprob: Tensor
    """float32 [R]; minus infinity without a runner-up."""
    entropy: Tensor
    """float32 [R], in nats."""
    logsumexp: Tensor
    """float32 [R], of the plain logits."""


def confidence_of_logits(
    logits: Tensor,
    *,
    temperature: float | Tensor = 0.0,
    seed: int | None = None,
    noise_keys: Tensor | None = None,
    forbidden: Tensor | Sequence[int] | None = None,
    mask_token_id: int | None = None,
    bias: tuple[Tensor, Tensor] | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> TokenConfidence:
    """The specification of :func:`token_confidence` for logits [R, V] that exist, which takes the same options."""
    logits = logits.float().clone() if bias is None else logits.float().scatter_add(1, *bias)
    if forbidden is not None:
        logits[:, torch.as_tensor(forbidden, dtype=torch.int64, device=logits.device)] = -torch.inf
    logsumexp = logits.logsumexp(-1)
    logprobs = logits - logsumexp[:, None]
    entropy = -(logprobs.exp() * logprobs.masked_fill(logits == -torch.inf, 0.0)).sum(-1)
    choosable = logits
    if mask_token_id is not None:
        choosable = logits.clone()
        choosable[:, mask_token_id] = -torch.inf
    scores = choosable.double()
    if isinstance(temperature, Tensor) or temperature > 0:
        keys = torch.arange(len(logits), device=logits.device) if noise_keys is None else noise_keys
        scores = scores + _per_row(temperature, logits) * gumbel_noise(seed or 0, keys, logits.shape[1])
        scores = scores.masked_fill(~may_be_drawn(choosable, temperature, top_k, top_p), -torch.inf)
    token = _first_maximum(scores)
    others = choosable.scatter(-1, token[:, None], -torch.inf)
    runner_up = _first_maximum(others)

    def at(index: Tensor) -> Tensor:
        return logprobs.gather(-1, index[:, None]).squeeze(-1)

    bad = ~logsumexp.isfinite() | (choosable.gather(-1, token[:, None]).squeeze(-1) == -torch.inf)
    alone = others.gather(-1, runner_up[:, None]).squeeze(-1) == -torch.inf
    return TokenConfidence(
        token.masked_fill(bad, -1).int(),
        at(token).masked_fill(bad, torch.nan),
        runner_up.masked_fill(bad | alone, -1).int(),
        at(runner_up).masked_fill(alone, -torch.inf).masked_fill(bad, torch.nan),
        entropy.masked_fill(bad, torch.nan),
        logsumexp.masked_fill(bad, torch.nan),
    )


def may_be_drawn(logits: Tensor, temperature: float | Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """What top_k and top_p of :func:`token_confidence` leave of logits [R, V]: bool [R, V], the likeliest always."""
    if top_k is None and top_p is None:
        return torch.ones_like(logits, dtype=torch.bool)
    values, tokens = logits.double().sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[1], device=logits.device)
    kept = (rank < (logits.shape[1] if top_k is None else top_k)).expand_as(values)
    if top_p is not None and top_p < 1:
        scale = _per_row(temperature, logits)
        mass = ((values - values[:, :1]) / scale.masked_fill(scale == 0, 1.0)).exp() * kept
        reached = mass.cumsum(-1)
        before = torch.cat([torch.zeros_like(reached[:, :1]), reached[:, :-1]], dim=1)
        kept = kept & (before < top_p * reached[:, -1:])
    return torch.zeros_like(kept).scatter(-1, tokens, kept)


def _per_row(temperature: float | Tensor, logits: Tensor) -> Tensor:
    """Temperatures as float64 [R, 1]; 0 where one is out of range."""
    if not isinstance(temperature, Tensor):
        return torch.full_like(logits[:, :1], temperature, dtype=torch.float64)
    return torch.where((temperature > 0) & (temperature <= 1e30), temperature.double(), 0.0)[:, None]


def _first_maximum(values: Tensor) -> Tensor:
    """The lowest index of the maximum of each row; 0 where there is none (NaN)."""
    index = torch.arange(values.shape[-1], device=values.device)
    last = values.shape[-1]
    first = torch.where(values == values.amax(-1, keepdim=True), index, last).amin(-1)
    return first.masked_fill(first == last, 0)
