"""The head and what a sampler asks of it: token, log-probability, runner-up, entropy, without the [R, V] logits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import _check
from ._library import native, overload, runs_natively
from .confidence_of_logits import TokenConfidence, confidence_of_logits
from .guidance import guide, guided
from .gumbel_noise import wrap_to_int64
from .linear import linear, linear_reference
from .packing import PackedLinear

_GPU_TOP_K = 256  # the largest that the kernels of a GPU take
_ROWS_AT_ONCE = 16  # whose logits exist together where top_k is larger


def token_confidence_reference(
    hidden: Tensor,
    lm_head: Tensor | PackedLinear,
    *,
    temperature: float | Tensor = 0.0,
    seed: int | None = None,
    noise_keys: Tensor | None = None,
    forbidden: Tensor | Sequence[int] | None = None,
    mask_token_id: int | None = None,
    bias: tuple[Tensor, Tensor] | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: tuple[Tensor, float] | None = None,
) -> TokenConfidence:
    """The specification of :func:`token_confidence` in plain PyTorch."""
    if guidance is not None:
        hidden = guide(hidden, *guidance)
    return confidence_of_logits(
        linear_reference(hidden, lm_head),
        temperature=temperature,
        seed=seed,
        noise_keys=noise_keys,
        forbidden=forbidden,
        mask_token_id=mask_token_id,
        bias=bias,
        top_k=top_k,
        top_p=top_p,
    )


def token_confidence(
    hidden: Tensor,
    lm_head: Tensor | PackedLinear,
    *,
    temperature: float | Tensor = 0.0,
    seed: int | None = None,
    noise_keys: Tensor | None = None,
    forbidden: Tensor | Sequence[int] | None = None,
    mask_token_id: int | None = None,
    bias: tuple[Tensor, Tensor] | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: tuple[Tensor, float] | None = None,
) -> TokenConfidence:
    """Per row of hidden states, the token the head chooses and how sure it is; streams over the vocabulary once.

    Logits are summed in fp32 and rounded to hidden's dtype, as the model's head gives them; everything after is fp32 or
    wider. Equal logits are ordered by lower token. At temperature T > 0 the token is the argmax of l + T · g with the
    noise g of :func:`gumbel_noise` (the Gumbel-max trick: a sample of softmax(l / T)). Not differentiable.

    Which tokens noise may choose, ``top_k`` and ``top_p`` say; the statistics stay those of the plain distribution, and
    at temperature 0 they change nothing. Memory is O(R · top_k). On the CPU ``top_p`` alone takes a further pass over
    the head for rows whose nucleus has more than 256 tokens; on a GPU either takes one where it may change the choice,
    and with a ``top_k`` above 256 that is not the whole vocabulary the logits exist, of 16 rows at a time.

    Args:
        hidden: [R, H] float32 or bfloat16, or float16 on a GPU, last dimension contiguous.
        lm_head: [V, H] of hidden's dtype, last dimension contiguous, or packed by :func:`pack_linear`.
        temperature: finite, at least 0: one for all rows, or float32 or float64 [R]. Those in a GPU's tensor are not
            checked: one out of range is 0.
        seed: of the noise; needed when temperature > 0 or a tensor.
        noise_keys: int64 [R], each row's own stream of noise; default 0, 1, 2, ...
        forbidden: token ids that are never chosen and are absent from the distribution. Those in a GPU's tensor are not
            checked: those out of range forbid nothing.
        mask_token_id: a token that is never chosen but stays in the distribution.
        bias: tokens int64 [R, S] and what is added to their logits in fp32, float32 [R, S]; a token that stands twice
            gets both, in order. A GPU's are not checked: those out of range get nothing.
        top_k: noise chooses among the k most probable tokens, of equal ones the lower; at least 1, None: among all.
        top_p: of those, among the fewest most probable ones whose share of their mass at the row's temperature reaches
            p (the nucleus); above 0 and at most 1, None: among all.
        guidance: hidden states u [R, H] without the condition, of hidden's dtype, and the scale w of classifier-free
            guidance: all is of the logits u + (w + 1)(l − u). They are those of the hidden states so combined, in fp32
            and rounded to their dtype, since the head is linear: O(R · H) more work.

    Returns:
        A :class:`TokenConfidence`. A row whose distribution is not finite (NaN or infinite logits) has token -1,
        and so has, where a GPU's tensor forbids them all, a row with no token left.

    Raises:
        TypeError: an argument is no tensor or number or has another dtype.
        ValueError: a wrong shape, device, layout or range; no token left to choose; temperature without seed.
    """
    vocabulary, ids = _check_arguments(hidden, lm_head, temperature, seed, noise_keys, forbidden, mask_token_id)
    if bias is not None:
        _check_bias(bias, hidden, vocabulary)
    if guidance is not None:
        hidden = guided("token_confidence", hidden, guidance)
    _check_cuts(top_k, top_p)
    packed = isinstance(lm_head, PackedLinear)
    natively = runs_natively(hidden, "" if packed else "token_confidence")
    beyond_the_kernels = hidden.is_cuda and top_k is not None and _GPU_TOP_K < top_k < vocabulary
    if not natively or beyond_the_kernels:
        run = _of_logits_in_memory if natively else token_confidence_reference
        return run(
            hidden,
            lm_head,
            temperature=temperature,
            seed=seed,
            noise_keys=noise_keys,
            forbidden=ids,
            mask_token_id=mask_token_id,
            bias=bias,
            top_k=top_k,
            top_p=top_p,
        )
    several = isinstance(temperature, Tensor)
    result = overload("token_confidence")(
        hidden.detach(),
        lm_head.panels if isinstance(lm_head, PackedLinear) else lm_head.detach(),
        packed,
        vocabulary,
        0.0 if several else temperature,
        wrap_to_int64(seed or 0),
        noise_keys,
        ids,
        -1 if mask_token_id is None else mask_token_id,
        temperature if several else None,
        None if bias is None else bias[0],
        None if bias is None else bias[1].detach(),
        0 if top_k is None else top_k,
        1.0 if top_p is None else top_p,
    )
    return TokenConfidence(*result)


def _of_logits_in_memory(
    hidden: Tensor,
    lm_head: Tensor | PackedLinear,
    *,
    temperature: float | Tensor,
    noise_keys: Tensor | None,
    bias: tuple[Tensor, Tensor] | None,
    **options: Any,
) -> TokenConfidence:
    """By the head's product and the reference, for a few rows at a time."""
    index = torch.arange(hidden.shape[0], device=hidden.device)
    keys = index if noise_keys is None else noise_keys
    parts = [
        confidence_of_logits(
            linear(hidden[rows].detach(), lm_head),
            temperature=temperature[rows] if isinstance(temperature, Tensor) else temperature,
            noise_keys=keys[rows],
            bias=None if bias is None else (bias[0][rows], bias[1][rows]),
            **options,
        )
        for rows in index.split(_ROWS_AT_ONCE)
    ]
    return TokenConfidence(*map(torch.cat, zip(*parts, strict=True)))


def _check_cuts(top_k: int | None, top_p: float | None) -> None:
    op = "token_confidence"
    for name, value, kind in (("top_k", top_k, int), ("top_p", top_p, (int, float))):
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            expected = "an int" if kind is int else "a number"
            raise TypeError(f"{op}: {name} must be {expected} or None, got {type(value).__name__}")
    _check.require(op, "top_k", top_k is None or top_k >= 1, "at least 1", top_k)
    _check.require(op, "top_p", top_p is None or 0 < top_p <= 1, "above 0 and at most 1", top_p)


def _check_bias(bias: tuple[Tensor, Tensor], hidden: Tensor, vocabulary: int) -> None:
    op, (tokens, values) = "token_confidence", bias
    rows = hidden.shape[0]
    _check.tensor(op, "bias[0]", tokens, dtypes=(torch.int64,), shape=(rows, "S"), device=hidden.device)
    shape = (rows, tokens.shape[1])
    _check.tensor(op, "bias[1]", values, dtypes=(torch.float32,), shape=shape, device=hidden.device)
    if _check.has_values(tokens) and tokens.device.type == "cpu":
        _check.index_range(op, "bias[0]", tokens, vocabulary - 1)


def _check_arguments(
    hidden: Tensor,
    lm_head: Tensor | PackedLinear,
    temperature: float | Tensor,
    seed: int | None,
    noise_keys: Tensor | None,
    forbidden: Tensor | Sequence[int] | None,
    mask_token_id: int | None,
) -> tuple[int, Tensor | None]:
    """Checks all; returns V and the forbidden ids as a tensor."""
    op = "token_confidence"
    _check.tensor(op, "hidden", hidden, dtypes=_check.FLOATING, shape=("R", "H"), rows_contiguous=True)
    if isinstance(lm_head, PackedLinear):
        lm_head.check_input(op, "hidden", hidden)
        vocabulary = lm_head.out_features
    else:
        shape = ("V", hidden.shape[1])
        _check.tensor(
            op, "lm_head", lm_head, dtypes=(hidden.dtype,), shape=shape, device=hidden.device, rows_contiguous=True
        )
        vocabulary = lm_head.shape[0]
    _check.require(op, "lm_head", vocabulary >= 1 and hidden.shape[1] >= 1, "not empty", [vocabulary, hidden.shape[1]])
    _check_temperature(temperature, seed, hidden)
    if noise_keys is not None:
        _check.tensor(
            op, "noise_keys", noise_keys, dtypes=(torch.int64,), shape=(hidden.shape[0],), device=hidden.device
        )
    good = mask_token_id is None or 0 <= mask_token_id < vocabulary
    _check.require(op, "mask_token_id", good, f"within 0 and {vocabulary - 1}", mask_token_id)
    return vocabulary, _forbidden_ids(forbidden, vocabulary, mask_token_id, hidden.device)


def _check_temperature(temperature: float | Tensor, seed: int | None, hidden: Tensor) -> None:
    op = "token_confidence"
    bounds: tuple[float, ...] = ()
    if isinstance(temperature, Tensor):
        shape = (hidden.shape[0],)
        dtypes = (torch.float32, torch.float64)
        _check.tensor(op, "temperature", temperature, dtypes=dtypes, shape=shape, device=hidden.device)
        if _check.has_values(temperature) and temperature.device.type == "cpu":
            bounds = tuple(float(bound) for bound in torch.aminmax(temperature))
    else:
        bounds = (temperature,)
    for bound in bounds:
        _check.require(op, "temperature", 0 <= bound <= 1e30, "finite and at least 0", bound)
    given = seed is not None or (not isinstance(temperature, Tensor) and temperature == 0)
    _check.require(op, "seed", given, "given when temperature is above 0 or a tensor", seed)


def _forbidden_ids(
    forbidden: Tensor | Sequence[int] | None, vocabulary: int, mask_token_id: int | None, device: torch.device
) -> Tensor | None:
    op = "token_confidence"
    excluded = set() if mask_token_id is None else {mask_token_id}
    ids = None
    if isinstance(forbidden, Tensor):
        ids = forbidden
        _check.tensor(op, "forbidden", ids, dtypes=_check.INDEX, shape=("F",), device=device)
        if _check.has_values(ids) and ids.device.type == "cpu":  # a GPU's are not waited for
            _check.index_range(op, "forbidden", ids, vocabulary - 1)
            excluded |= set(ids.tolist())
    elif forbidden is not None:
        given = tuple(forbidden)
        outside = next((token for token in given if not 0 <= token < vocabulary), None)
        _check.require(op, "forbidden", outside is None, f"in 0 .. {vocabulary - 1}", outside)
        excluded |= set(given)
        make = torch.tensor if device.type == "cpu" else _copied_once
        ids = make(given, dtype=torch.int64, device=device)
    _check.require(op, "forbidden", len(excluded) < vocabulary, "such that a token is left to choose", "every token")
    return ids


# A copy to a GPU makes the host wait, and cannot be captured in a graph.
_copied_once = lru_cache(maxsize=64)(torch.tensor)


if native():

    @torch.library.register_fake("llada_moe::token_confidence")
    def _token_confidence_fake(
        hidden: Tensor, weight: Tensor, packed: bool, vocabulary: int, *options: Any, **named: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        def new(dtype: torch.dtype) -> Tensor:
            return hidden.new_empty(hidden.shape[0], dtype=dtype)

        integer, real = torch.int32, torch.float32
        return new(integer), new(real), new(integer), new(real), new(real), new(real)
