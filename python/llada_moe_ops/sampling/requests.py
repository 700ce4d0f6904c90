"""Requests with settings of their own, answered in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import _arguments as arguments
from ._arguments import require
from .cache import Cache, build_cache, check_pair
from .canvas import Canvas
from .growth import Growth, with_masks
from .noise import CounterNoise, request_keys
from .options import SamplerOptions
from .result import GenerationResult
from .sampler import DEFAULT_BLOCK_LENGTH, DEFAULT_GEN_LENGTH, fill, steps_per_block
from .smoothing import IterationSmoothing, build_smoothing
from .stopping import Stopping, StopSequences
from .trace import TraceStep
from .unmaskers import Unmasker, build_unmasker, put_together
from .widening import Widening, check_widening

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel
    from ..model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Request:
    """One prompt and how to continue it; what is not told here is that of :func:`generate`.

    Attributes:
        prompt_ids: at least one token.
        gen_length: tokens to generate, of any number; the last block may be shorter than the others. None takes 128, or
            what ``grow`` finds.
        steps: over all blocks, a multiple of their number; None commits one token a step.
        unmasker: the commit rule, by name or as an object.
        temperature: of the Gumbel noise.
        seed: of the noise; a request with one gives the same tokens always. None draws one from torch's generator.
        stop: what ends the reply in a finished block: sequences of token ids, and strings of its text, which may begin
            and end within a token. The first to be complete counts.
        stop_at_eos: end the reply at an end-of-text in a finished block.

    Raises:
        TypeError, ValueError: a setting of the wrong type or outside its range; the message names it.
    """

    prompt_ids: Sequence[int]
    gen_length: int | None = None
    steps: int | None = None
    unmasker: str | Unmasker = "fixed"
    temperature: float = 0.0
    seed: int | None = None
    stop: Sequence[str | Sequence[int]] = ()
    stop_at_eos: bool = True

    def __post_init__(self) -> None:
        if self.gen_length is not None:
            arguments.integer("gen_length", self.gen_length, 0)
        build_unmasker(self.unmasker)
        arguments.non_negative("temperature", self.temperature)
        if self.seed is not None:
            arguments.integer("seed", self.seed, -(2**63))
        if isinstance(self.stop, (str, bytes)) or not isinstance(self.stop, Sequence):
            raise TypeError(f"stop must be a list of strings and of lists of token ids, got {type(self.stop).__name__}")
        for one in self.stop:
            if not isinstance(one, (str, Sequence)):
                raise TypeError(f"stop must hold strings and lists of token ids, got {type(one).__name__}")
            require(len(one) > 0, "stop", "without empty ones", repr(one))


@dataclass(frozen=True)
class RequestResult:
    """What became of a request.

    Attributes:
        tokens: up to the reply's end: a stop is included, end-of-text is not. All of them under "length".
        text: of ``tokens``, without the stop that ended them and what follows it; None where no tokenizer was given.
        finish_reason: "end" (of text), "stop", or "length": everything was filled.
        steps: those in which the request took part, so those that it would take alone.
        probabilities: of each token when it was committed, before any noise.
        commit_steps: the step that committed each token, from 0, of those that changed the request.
    """

    tokens: list[int]
    text: str | None
    finish_reason: str
    steps: int
    probabilities: list[float]
    commit_steps: list[int]


def generate_requests(
    model: LLaDAMoEModel,
    requests: Sequence[Request],
    *,
    tokenizer: Tokenizer | None = None,
    block_length: int | None = None,
    cache: str | Cache = "none",
    smoothing: str | IterationSmoothing = "none",
    top_k: int | None = None,
    top_p: float | None = None,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_token_id: int | None = None,
    eos_token_id: int | None = None,
    grow: Growth | None = None,
    on_step: Callable[[TraceStep], None] | None = None,
) -> list[RequestResult]:
    """Answer requests in one batch, each under its own settings, by the same loop as :func:`generate`.

    A request's tokens and probabilities are the same bits alone, in any batch and in any order.

    Args:
        model: a loaded model.
        requests: prompts, lengths and settings may all differ.
        tokenizer: gives the results' text; needed for stop strings.
        block_length: None takes 128, or the longest ``gen_length`` when that is less: one block either way.
        grow: finds the length of each request that has no ``gen_length``; None takes 128.
        on_step: called with each :class:`TraceStep`, of a canvas whose rows are padded on the right.

    The other arguments are those of :func:`generate`.

    Returns:
        one result per request, in their order.

    Raises:
        TypeError, ValueError: as :func:`generate`; the message names the request.
        NonFiniteLogitsError: the model broke down; the trace so far is attached.
    """
    if not requests:
        return []
    started = time.perf_counter()
    mask_id = arguments.find_mask_token_id(mask_token_id, model.config)
    named = [(f"requests[{index}]", request) for index, request in enumerate(requests)]
    for name, request in named:
        check_request(
            model,
            request,
            tokenizer=tokenizer,
            block_length=block_length,
            cache=cache,
            smoothing=smoothing,
            grow=grow,
            name=name,
        )
    prompts = [torch.tensor(one.prompt_ids, dtype=torch.int64, device=model.device) for one in requests]
    options = SamplerOptions(
        **_of_rows(requests, tokenizer, model.device),
        cfg_scale=cfg_scale,
        remasking=remasking,
        cache=cache,
        smoothing=smoothing,
        seed=None,
        mask_token_id=mask_token_id,
        eos_token_id=eos_token_id,
        eot_token_id=None,
        suppress_eos=False,
        suppress_eos_confidence=False,
        noise=None,
        on_step=on_step,
        top_k=top_k,
        top_p=top_p,
    )
    seen = (block_length or DEFAULT_BLOCK_LENGTH) if options.aligned_blocks else None
    lengths = _lengths(model, requests, prompts, grow, mask_id, options.end_token(model.config), seen)
    length = block_length
    end, widening, most = options.end_token(model.config), None, lengths
    if grow is not None and grow.widen > 1 and end is not None:
        most = [
            grow.bound(model, len(prompt)) if request.gen_length is None else length
            for prompt, request, length in zip(prompts, requests, lengths, strict=True)
        ]
        widening = Widening(grow, model, torch.tensor(most, device=model.device), mask_id, end)
    if length is None:  # where blocks are aligned or rows grow their number would depend on the longest
        fixed = options.aligned_blocks or widening is not None
        length = DEFAULT_BLOCK_LENGTH if fixed else min(DEFAULT_BLOCK_LENGTH, max(lengths)) or 1
    steps = [steps_per_block(one.steps, -(-total // length)) for one, total in zip(requests, lengths, strict=True)]
    layout, to_fill, real = with_masks(prompts, lengths, mask_id, most)
    first = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    blocks, grows = -(-max(most) // length), widening is not None
    canvas = Canvas.build(layout, to_fill, real, first, blocks, length, aligned=options.aligned_blocks, grows=grows)
    seeds = [arguments.seeds(request.seed, 1)[0] for request in requests]
    keys = request_keys(canvas.tokens, ~canvas.filled, canvas.lengths.tolist(), seeds, copies_differ=False)
    options = replace(options, noise=CounterNoise(keys))
    result = fill(model, canvas, options, steps, 0, started, widening=widening)
    lengths = canvas.filled.sum(1).tolist()
    return _results(result, options.stopping(model.config, canvas), first.tolist(), lengths, tokenizer)


def check_request(
    model: LLaDAMoEModel,
    request: Request,
    *,
    tokenizer: Tokenizer | None = None,
    block_length: int | None = None,
    cache: str | Cache = "none",
    smoothing: str | IterationSmoothing = "none",
    grow: Growth | None = None,
    name: str = "request",
) -> None:
    """Check a request against the model and the arguments of :func:`generate_requests`, before any of a batch is run.

    Raises:
        TypeError, ValueError: it cannot be answered; the message begins with ``name``.
    """
    ids, _ = arguments.token_ids(f"{name}: prompt_ids", [request.prompt_ids], model)
    require(ids.shape[1] > 0, f"{name}: prompt_ids", "at least one token", "an empty prompt")
    grows = grow is not None and request.gen_length is None
    length = 1 if grows else DEFAULT_GEN_LENGTH if request.gen_length is None else request.gen_length
    total, limit = ids.shape[1] + length, model.config.max_position_embeddings
    what = "prompt and gen_length"
    require(total <= limit, f"{name}: {what}", f"at most max_position_embeddings {limit} positions together", total)
    if grows:
        require(request.steps is None, f"{name}: steps", "None where the length is found by growing", request.steps)
    block = DEFAULT_BLOCK_LENGTH if block_length is None else arguments.integer("block_length", block_length, 1)
    try:
        steps_per_block(request.steps, -(-length // block))
        rule, policy = build_unmasker(request.unmasker), build_cache(cache)
        check_pair(rule, policy)
        if grow is not None and grows:
            check_widening(grow, rule, policy, build_smoothing(smoothing))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    for one in request.stop:
        if isinstance(one, str):
            require(tokenizer is not None, f"{name}: tokenizer", "given for stop strings", None)
        for token in () if isinstance(one, str) else one:
            arguments.token_id(f"{name}: stop", token, model.config.vocab_size)


def _of_rows(requests: Sequence[Request], tokenizer: Tokenizer | None, device: torch.device) -> dict[str, Any]:
    """The options that each row has for itself."""
    temperatures = torch.tensor([request.temperature for request in requests], dtype=torch.float64, device=device)
    return {
        "temperature": temperatures if len(temperatures.unique()) > 1 else float(temperatures[0]),
        "unmasker": put_together([build_unmasker(request.unmasker) for request in requests], device),
        "stop_at_eos": torch.tensor([request.stop_at_eos for request in requests], device=device),
        "stop": [_stop_sequences(request, tokenizer) for request in requests],
    }


def _lengths(
    model: LLaDAMoEModel,
    requests: Sequence[Request],
    prompts: Sequence[Tensor],
    grow: Growth | None,
    mask_id: int,
    end: int | None,
    block_size: int | None,
) -> list[int]:
    if grow is None:
        return [DEFAULT_GEN_LENGTH if one.gen_length is None else one.gen_length for one in requests]
    if end is None:
        raise ValueError("eos_token_id must be given when grow is set, got None")
    growing = [index for index, request in enumerate(requests) if request.gen_length is None]
    grown = iter(grow.lengths(model, [prompts[index] for index in growing], mask_id, end, block_size)[0])
    return [next(grown) if request.gen_length is None else request.gen_length for request in requests]


def _stop_sequences(request: Request, tokenizer: Tokenizer | None) -> StopSequences | None:
    strings = [one for one in request.stop if isinstance(one, str)]
    sequences = [[*one] for one in request.stop if not isinstance(one, str)]
    if tokenizer is None or not strings:
        return StopSequences(sequences) if sequences else None
    return StopSequences(sequences, strings, partial(tokenizer.decode, skip_special_tokens=False))


def _results(
    result: GenerationResult,
    stopping: Stopping | None,
    starts: Sequence[int],
    lengths: Sequence[int],
    tokenizer: Tokenizer | None,
) -> list[RequestResult]:
    trace, batch = result.trace, len(starts)
    committed, probabilities = trace.commit_steps(), trace.probabilities()
    changed = torch.zeros(batch, result.steps + 1, dtype=torch.int64, device=committed.device)
    for step in trace.steps:
        changed[step.rows, step.step] = 1
    own_steps = (changed.cumsum(1) - 1).gather(1, committed.clamp(min=0))
    results = []
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        ids: list[int] = result.sequences[row, start : start + length].tolist()
        tokens, reason = (ids, "length") if stopping is None else stopping.reply(row, ids)
        place = slice(start, start + len(tokens))
        results.append(
            RequestResult(
                tokens=tokens,
                text=None if tokenizer is None else _text(tokenizer, tokens, stopping, row),
                finish_reason=reason,
                steps=int(result.row_steps[row]),
                probabilities=probabilities[row, place].tolist(),
                commit_steps=own_steps[row, place].tolist(),
            )
        )
    return results


def _text(tokenizer: Tokenizer, tokens: list[int], stopping: Stopping | None, row: int) -> str:
    sequences = None if stopping is None or not any(stopping.sequences) else stopping.sequences[row]
    if sequences is None:
        return tokenizer.decode(tokens)
    stop = max((len(one) for one in sequences.tokens if tokens[-len(one) :] == list(one)), default=0)
    text = tokenizer.decode(tokens[: len(tokens) - stop])
    return min((text.split(string)[0] for string in sequences.strings), key=len, default=text)
