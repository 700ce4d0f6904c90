"""Requests with settings of their own, answered in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import _arguments as arguments
from ._arguments import require
from .cache import CachePolicy
from .canvas import Canvas
from .noise import CounterNoise, request_keys
from .options import SamplerOptions
from .result import GenerationResult
from .sampler import DEFAULT_BLOCK_LENGTH, DEFAULT_GEN_LENGTH, fill, steps_per_block
from .stopping import Stopping, StopSequences
from .trace import TraceStep
from .unmaskers import Unmasker, build_unmasker, put_together

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel
    from ..model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Request:
    """One prompt and how to continue it; what is not told here is that of :func:`generate`.

    Attributes:
        prompt_ids: at least one token.
        gen_length: tokens to generate, of any number; the last block may be shorter than the others. None takes 128.
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
    cache: str | CachePolicy = "none",
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_token_id: int | None = None,
    eos_token_id: int | None = None,
    on_step: Callable[[TraceStep], None] | None = None,
) -> list[RequestResult]:
    """Answer requests in one batch, each under its own settings, by the same loop as :func:`generate`.

    A request's tokens and probabilities are the same bits alone, in any batch and in any order.

    Args:
        model: a loaded model.
        requests: prompts, lengths and settings may all differ.
        tokenizer: gives the results' text; needed for stop strings.
        block_length: None takes 128, or the longest ``gen_length`` when that is less: one block either way.
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
    prompts = [_prompt(model, index, request) for index, request in enumerate(requests)]
    lengths = [DEFAULT_GEN_LENGTH if one.gen_length is None else one.gen_length for one in requests]
    pairs = list(zip(requests, lengths, strict=True))
    limit = model.config.max_position_embeddings
    for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        total = len(prompt) + length
        require(total <= limit, f"requests[{index}]", f"at most max_position_embeddings {limit} positions", total)
    if block_length is None:
        block_length = min(DEFAULT_BLOCK_LENGTH, max(lengths)) or 1
    arguments.integer("block_length", block_length, 1)
    steps = [_steps(index, request, -(-length // block_length)) for index, (request, length) in enumerate(pairs)]
    canvas = _canvas(prompts, lengths, block_length, mask_id)
    temperatures = [float(request.temperature) for request in requests]
    seeds = [arguments.seeds(request.seed, 1)[0] for request in requests]
    keys = request_keys(canvas.tokens, ~canvas.filled, canvas.lengths.tolist(), seeds, copies_differ=False)
    options = SamplerOptions(
        temperature=temperatures[0]
        if len(set(temperatures)) == 1
        else torch.tensor(temperatures, dtype=torch.float64, device=model.device),
        cfg_scale=cfg_scale,
        remasking=remasking,
        unmasker=put_together([build_unmasker(request.unmasker) for request in requests], model.device),
        cache=cache,
        seed=None,
        mask_token_id=mask_token_id,
        eos_token_id=eos_token_id,
        eot_token_id=None,
        suppress_eos=False,
        suppress_eos_confidence=False,
        stop_at_eos=torch.tensor([request.stop_at_eos for request in requests], dtype=torch.bool, device=model.device),
        noise=CounterNoise(keys),
        on_step=on_step,
        stop=[_stop_sequences(model, index, request, tokenizer) for index, request in enumerate(requests)],
    )
    result = fill(model, canvas, options, steps, 0, started)
    stopping = options.stopping(model.config, canvas)
    return _results(result, stopping, [len(prompt) for prompt in prompts], lengths, tokenizer)


def _prompt(model: LLaDAMoEModel, index: int, request: Request) -> Tensor:
    ids, _ = arguments.token_ids(f"requests[{index}].prompt_ids", [request.prompt_ids], model)
    require(ids.shape[1] > 0, f"requests[{index}].prompt_ids", "at least one token", "an empty prompt")
    return ids[0]


def _steps(index: int, request: Request, blocks: int) -> int | None:
    try:
        return steps_per_block(request.steps, blocks)
    except (TypeError, ValueError) as error:
        raise type(error)(f"requests[{index}]: {error}") from None


def _canvas(prompts: Sequence[Tensor], lengths: Sequence[int], block_length: int, mask_id: int) -> Canvas:
    """Each prompt [P] with its number of masks behind it, padded on the right with more masks."""
    rows = [torch.nn.functional.pad(ids, (0, more), value=mask_id) for ids, more in zip(prompts, lengths, strict=True)]
    layout = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=mask_id)
    index = torch.arange(layout.shape[1], device=layout.device)
    starts, ends = (torch.tensor([len(row) for row in all_rows], device=layout.device) for all_rows in (prompts, rows))
    real = index < ends[:, None]
    blocks = -(-max(lengths) // block_length)
    return Canvas.build(layout, real & (index >= starts[:, None]), real, starts, blocks, block_length)


def _stop_sequences(
    model: LLaDAMoEModel, index: int, request: Request, tokenizer: Tokenizer | None
) -> StopSequences | None:
    if not request.stop:
        return None
    strings = [one for one in request.stop if isinstance(one, str)]
    sequences = [[*one] for one in request.stop if not isinstance(one, str)]
    for token in (token for sequence in sequences for token in sequence):
        arguments.token_id(f"requests[{index}].stop", token, model.config.vocab_size)
    if not strings:
        return StopSequences(sequences)
    if tokenizer is None:
        raise ValueError(f"tokenizer must be given when requests have stop strings, as requests[{index}] has, got None")
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
