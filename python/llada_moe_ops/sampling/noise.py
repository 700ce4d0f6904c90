"""Where the sampler's random numbers come from.

Noise is a function of (seed, request, step, position, token) and of nothing else, so a request's tokens do not depend
on the batch it runs in, on padding, or on the number of threads.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .. import ops
from ..ops import PackedLinear, TokenConfidence
from ..ops.confidence_of_logits import may_be_drawn
from ..ops.gumbel_noise import mix, shift_right

# The increment of splitmix64, as a signed 64-bit integer.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_CONFIDENCE_STREAM = 0x2545F4914F6CDD1D


@dataclass(frozen=True)
class Draw:
    """What a step's noise is for: ``rows`` [R] of the batch and their ``positions`` [R], counted without padding.

    ``step`` counts the batch's steps, ``row_steps`` [R] those in which the row took part: under a rule that decides
    its count, rows wait for each other at a block's end, and only the second does not depend on the others. Within a
    CUDA graph, which is the same at every step, ``step`` is −1.
    """

    step: int
    rows: Tensor
    positions: Tensor
    row_steps: Tensor

    def only(self, index: Tensor) -> Draw:
        """For some of the R, int64 [R']."""
        return Draw(self.step, self.rows[index], self.positions[index], self.row_steps[index])


class NoiseSource(Protocol):
    """Chooses tokens under noise, and draws the confidences of random remasking.

    One with an attribute ``capturable`` that is true needs no ``Draw.step``, and makes neither sizes nor decisions on
    the host depend on what tensors hold: on a GPU, steps become CUDA graphs.
    """

    def choose(
        self,
        hidden: Tensor,
        lm_head: Tensor | PackedLinear,
        draw: Draw,
        *,
        temperature: float | Tensor,
        forbidden: Sequence[int],
        mask_token_id: int,
        bias: tuple[Tensor, Tensor] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> TokenConfidence:
        """Tokens and statistics of hidden states [R, H], one row per entry of ``draw``.

        ``temperature`` is that of all rows, or float64 [R] where requests have their own. The options are those of
        :func:`~llada_moe_ops.ops.token_confidence`.
        """
        ...

    def uniform(self, draw: Draw) -> Tensor:
        """Uniform numbers in [0, 1), float32 [R]."""
        ...


class CounterNoise:
    """Counter-based noise; ``requests`` int64 [B] are the keys of the batch's rows (see :func:`request_keys`)."""

    capturable = True

    def __init__(self, requests: Tensor) -> None:
        self.requests = requests

    def keys(self, draw: Draw) -> Tensor:
        """A 64-bit key per row of the draw, int64 [R]."""
        stepped = mix(self.requests[draw.rows] + draw.row_steps * _GOLDEN)
        return mix(stepped + draw.positions * _GOLDEN)

    def choose(
        self,
        hidden: Tensor,
        lm_head: Tensor | PackedLinear,
        draw: Draw,
        *,
        temperature: float | Tensor,
        forbidden: Sequence[int],
        mask_token_id: int,
        bias: tuple[Tensor, Tensor] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> TokenConfidence:
        return ops.token_confidence(
            hidden,
            lm_head,
            temperature=temperature,
            seed=0,
            noise_keys=self.keys(draw),
            forbidden=forbidden,
            mask_token_id=mask_token_id,
            bias=bias,
            top_k=top_k,
            top_p=top_p,
        )

    def uniform(self, draw: Draw) -> Tensor:
        bits = shift_right(mix(self.keys(draw) ^ _CONFIDENCE_STREAM), 40)
        return bits.to(torch.float32) / (1 << 24)


class RecordedNoise:
    """Replays uniform numbers that another sampler drew, to compare with it token for token.

    Args:
        tokens: float64 [steps, B, L, V], the uniforms of the token choice; None where the temperature is 0.
        confidence: float32 [steps, B, L], the confidences of random remasking; None where it is not used.
    """

    def __init__(self, tokens: Tensor | None = None, confidence: Tensor | None = None) -> None:
        self.tokens = tokens
        self.confidence = confidence

    def choose(
        self,
        hidden: Tensor,
        lm_head: Tensor | PackedLinear,
        draw: Draw,
        *,
        temperature: float | Tensor,
        forbidden: Sequence[int],
        mask_token_id: int,
        bias: tuple[Tensor, Tensor] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> TokenConfidence:
        best = ops.token_confidence(hidden, lm_head, forbidden=forbidden, mask_token_id=mask_token_id, bias=bias)
        if not isinstance(temperature, Tensor) and temperature == 0:
            return best
        if self.tokens is None:
            raise ValueError("noise must hold the uniforms of the token choice when temperature is above 0, got none")
        logits = ops.linear(hidden, lm_head).float()
        if bias is not None:
            logits.scatter_add_(1, *bias)
        choosable = logits.clone()
        choosable[:, [*forbidden, mask_token_id]] = -torch.inf
        scale = temperature[:, None] if isinstance(temperature, Tensor) else temperature
        noised = gumbel_noise(choosable, self.tokens[draw.step, draw.rows, draw.positions], scale)
        token = noised.masked_fill(~may_be_drawn(choosable, temperature, top_k, top_p), -torch.inf).argmax(-1)
        logprob = logits.gather(-1, token[:, None]).squeeze(-1) - best.logsumexp
        return best._replace(token=token.to(best.token.dtype), logprob=logprob)

    def uniform(self, draw: Draw) -> Tensor:
        if self.confidence is None:
            raise ValueError("noise must hold the confidences when remasking is 'random', got none")
        return self.confidence[draw.step, draw.rows, draw.positions]


def gumbel_noise(logits: Tensor, uniform: Tensor, temperature: float | Tensor) -> Tensor:
    """Noised logits in float64, l − T·log(−log U): same order as the published exp(l) / (−log U)^T."""
    return logits.double() - temperature * (-uniform.double().log()).log()


def request_keys(
    tokens: Tensor, given: Tensor, lengths: Sequence[int], seeds: Sequence[int], *, copies_differ: bool = True
) -> Tensor:
    """A key per row of the batch, int64 [B]: from its seed, its given tokens, and how many such rows came before.

    So a request draws the same noise alone and in any batch, and copies of one prompt still differ.

    Args:
        tokens: int64 [B, L], real tokens first; given: bool [B, L], false where the row is to be filled.
        lengths: real tokens of each row; seeds: one per row.
        copies_differ: false where each row brings a seed of its own, so that even copies depend on nothing else.
    """
    keys: list[int] = []
    copies: Counter[bytes] = Counter()
    contents = torch.where(given, tokens, -1).cpu()
    for row, (length, seed) in enumerate(zip(lengths, seeds, strict=True)):
        content = repr((seed, contents[row, :length].tolist())).encode()
        digest = hashlib.blake2b(content + str(copies[content]).encode(), digest_size=8).digest()
        keys.append(int.from_bytes(digest, "little", signed=True))
        copies[content] += copies_differ
    return torch.tensor(keys, dtype=torch.int64, device=tokens.device)
