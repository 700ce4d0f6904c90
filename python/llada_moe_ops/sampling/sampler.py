"""The sampler's two entries: continue prompts, or fill masked positions in place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import _arguments as arguments
from ._arguments import TokenIds, require
from .cache import Cache, build_cache
from .canvas import Canvas
from .growth import Growth
from .loop import denoise
from .noise import NoiseSource
from .options import SamplerOptions
from .result import GenerationResult
from .schedule import Schedule
from .smoothing import IterationSmoothing, build_smoothing
from .trace import TraceStep
from .unmaskers import Unmasker, build_unmasker
from .widening import Widening, check_widening

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel

DEFAULT_GEN_LENGTH = DEFAULT_BLOCK_LENGTH = 128


def generate(
    model: LLaDAMoEModel,
    prompt_ids: TokenIds,
    *,
    gen_length: int | None = None,
    block_length: int | None = None,
    steps: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    attention_mask: Tensor | None = None,
    unmasker: str | Unmasker = "fixed",
    cache: str | Cache = "none",
    smoothing: str | IterationSmoothing = "none",
    seed: int | Sequence[int] | None = None,
    mask_token_id: int | None = None,
    eos_token_id: int | None = None,
    eot_token_id: int | None = None,
    suppress_eos: bool = False,
    suppress_eos_confidence: bool = False,
    stop_at_eos: bool = False,
    noise: NoiseSource | None = None,
    grow: Growth | None = None,
    on_step: Callable[[TraceStep], None] | None = None,
) -> GenerationResult:
    """Continue prompts with the published sampler of LLaDA (arXiv 2502.09992; 2509.24389 for LLaDA-MoE).

    ``gen_length`` masks are appended to each prompt and filled block by block. A row's tokens are the same bits alone,
    in a batch and under any left padding.

    Args:
        model: a loaded model.
        prompt_ids: int32 or int64 [B, P], or B lists of different lengths, which are padded on the left and masked.
        gen_length: G, tokens to generate; a multiple of ``block_length``. 0 returns the prompts, None takes 128.
        block_length: blocks are finished one after another; None takes 128, or ``gen_length`` when that is less.
        steps: over all blocks, a multiple of their number; None commits one token a step.
        temperature: of the Gumbel noise on the logits when a token is chosen; 0 takes the most probable.
        top_k: noise chooses among the so many most probable tokens; None: among all. At temperature 0 nothing changes.
        top_p: of those, among the fewest most probable ones whose share of the probability at ``temperature`` reaches
            this (nucleus sampling).
        cfg_scale: guidance w: logits u + (w + 1)(l − u), u being those of the canvas with its prompt masked.
        remasking: what orders the commits: "low_confidence" (the most probable first) or "random".
        attention_mask: [B, P], 1 at real tokens, padding on the left; padded tokens are not attended to. None: all
            tokens are attended to, as in the published sampler.
        unmasker: the commit rule: a name in ``UNMASKERS``, with parameters as in "threshold:0.8" or
            "hierarchical:0.9,low_threshold=0.5", or an object. Rules that decide the count themselves end a block as
            soon as nothing is masked; ``steps`` then only bounds how slow they may be.
        cache: what a step need not recompute, a name in ``CACHES``, with parameters as in "vicinity:8", or an object;
            "none" is exact, and for models trained block-causally "block_causal".
        smoothing: "iteration" tells each step what masked positions last predicted, with parameters or as an
            :class:`IterationSmoothing`; "none" doesn't.
        seed: one for all rows, or one per row; None draws one from torch's global generator. A row's noise depends on
            its seed, its prompt and, for copies of one prompt in a batch, on how many came before.
        mask_token_id: None takes the config's. It is never predicted; in a prompt it is text.
        eos_token_id: end-of-text; None takes the config's.
        eot_token_id: end-of-turn, for ``suppress_eos_confidence``.
        suppress_eos: never predict end-of-text (published as ``logits_eos_inf``).
        suppress_eos_confidence: commit end-of-text and end-of-turn last: their confidence is 0, that of the others is
            taken without them (published as ``confidence_eos_eot_inf``). Random remasking ignores it.
        stop_at_eos: end a row at an end-of-text in a finished block: what follows becomes end-of-text and its work is
            not done. The published sampler fills everything.
        noise: where random numbers come from; None is counter-based noise from ``seed``.
        grow: finds the length of each row, instead of ``gen_length`` and ``steps``; G is the longest, and shorter rows
            end in end-of-text.
        on_step: called with each :class:`TraceStep`.

    Returns:
        sequences int64 [B, P + G], the trace, counts and timings.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument outside its range, an unknown name, or too many positions; the message names it.
        NonFiniteLogitsError: the model broke down; the trace so far is attached.
    """
    options = SamplerOptions(
        temperature, cfg_scale, remasking, unmasker, cache, smoothing, seed, mask_token_id, eos_token_id, eot_token_id,
        suppress_eos, suppress_eos_confidence, stop_at_eos, noise, on_step, top_k, top_p,
    )  # fmt: skip
    started = time.perf_counter()
    mask_id = arguments.find_mask_token_id(mask_token_id, model.config)
    prompts, known = arguments.token_ids("prompt_ids", prompt_ids, model)
    real = arguments.real_tokens(attention_mask, prompts, known, "prompt_ids")
    batch, prompt_length = prompts.shape
    require(prompt_length > 0 or batch == 0, "prompt_ids", "at least one token per row", "an empty prompt")
    if real is not None:
        require(bool(real.any(1).all()), "prompt_ids", "at least one real token per row", "an empty prompt")
        require(bool(real[:, -1].all()), "attention_mask", "1 at the prompt's end (padding on the left)", "0")
    passes, widening = 0, None
    if grow is None:
        gen_length = DEFAULT_GEN_LENGTH if gen_length is None else arguments.integer("gen_length", gen_length, 0)
        length = min(DEFAULT_BLOCK_LENGTH, gen_length) or 1 if block_length is None else block_length
        arguments.integer("block_length", length, 1)
        require(gen_length % length == 0, "gen_length", f"a multiple of block_length {length}", gen_length)
        masks = prompts.new_full((batch, gen_length), mask_id)
        filled = torch.ones_like(masks, dtype=torch.bool)
    else:
        for name, given in (("gen_length", gen_length), ("steps", steps), ("suppress_eos", suppress_eos or None)):
            require(given is None, name, "left out where grow finds the length", given)
        length = DEFAULT_BLOCK_LENGTH if block_length is None else arguments.integer("block_length", block_length, 1)
        seen = length if options.aligned_blocks else None
        check_widening(grow, build_unmasker(unmasker), build_cache(cache), build_smoothing(smoothing))
        end = options.end_token(model.config)
        masks, filled, passes = _grown(model, grow, prompts, real, mask_id, end, seen)
        if grow.widen > 1 and end is not None:
            prompt_lengths = torch.full_like(prompts[:, 0], prompt_length) if real is None else real.sum(1)
            most = torch.tensor(
                [grow.bound(model, length) for length in prompt_lengths.tolist()], device=prompts.device
            )
            widening = Widening(grow, model, most, mask_id, end)
    blocks = -(-masks.shape[1] // length)
    if real is not None or not bool(filled.all()):
        real = torch.cat([torch.ones_like(prompts, dtype=torch.bool) if real is None else real, filled], dim=1)
    canvas = Canvas.build(
        torch.cat([prompts, masks], dim=1),
        torch.cat([torch.zeros_like(prompts, dtype=torch.bool), filled], dim=1),
        real,
        prompts.new_full((batch,), prompt_length),
        blocks,
        length,
        aligned=options.aligned_blocks,
        grows=widening is not None,
    )
    result = fill(model, canvas, options, steps_per_block(steps, blocks), prompt_length, started, passes, widening)
    return result if widening is None else result.cut(prompt_length + int(canvas.filled.sum(1).max()))


def infill(
    model: LLaDAMoEModel,
    input_ids: TokenIds,
    *,
    fill_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    block_length: int | None = None,
    steps: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    unmasker: str | Unmasker = "fixed",
    cache: str | Cache = "none",
    smoothing: str | IterationSmoothing = "none",
    seed: int | Sequence[int] | None = None,
    mask_token_id: int | None = None,
    eos_token_id: int | None = None,
    eot_token_id: int | None = None,
    suppress_eos: bool = False,
    suppress_eos_confidence: bool = False,
    stop_at_eos: bool = False,
    noise: NoiseSource | None = None,
    on_step: Callable[[TraceStep], None] | None = None,
) -> GenerationResult:
    """Fill the masked positions of texts in place, by the same loop as :func:`generate`.

    Args:
        model: a loaded model.
        input_ids: int32 or int64 [B, L], or B lists of different lengths, which are padded on the left and masked.
        fill_mask: bool [B, L], the positions to fill, whatever stands there; None: those holding the mask token.
        attention_mask: [B, L], 1 at real tokens, one run of them in each row.
        block_length: blocks counted from a row's first real token; None makes one block of everything.
        steps: over all blocks, a multiple of their number; None commits one token a step in each row.

    The other arguments, the result and the errors are those of :func:`generate`, the given text being the prompt.
    """
    options = SamplerOptions(
        temperature, cfg_scale, remasking, unmasker, cache, smoothing, seed, mask_token_id, eos_token_id, eot_token_id,
        suppress_eos, suppress_eos_confidence, stop_at_eos, noise, on_step, top_k, top_p,
    )  # fmt: skip
    started = time.perf_counter()
    mask_id = arguments.find_mask_token_id(mask_token_id, model.config)
    layout, known = arguments.token_ids("input_ids", input_ids, model)
    real = arguments.real_tokens(attention_mask, layout, known, "input_ids")
    if fill_mask is None:
        fill_mask = layout == mask_id
    elif fill_mask.dtype != torch.bool:
        raise TypeError(f"fill_mask must be bool, got {str(fill_mask.dtype).removeprefix('torch.')}")
    require(fill_mask.shape == layout.shape, "fill_mask", f"of shape {list(layout.shape)}", list(fill_mask.shape))
    fill_mask = fill_mask.to(layout.device)
    columns = layout.shape[1]
    length = max(columns, 1) if block_length is None else arguments.integer("block_length", block_length, 1)
    blocks = -(-columns // length)
    first = layout.new_zeros(len(layout)) if real is None else real.int().argmax(1)
    canvas = Canvas.build(torch.where(fill_mask, mask_id, layout), fill_mask, real, first, blocks, length)
    return fill(model, canvas, options, steps_per_block(steps, blocks), 0, started)


def _grown(
    model: LLaDAMoEModel,
    grow: Growth,
    prompts: Tensor,
    real: Tensor | None,
    mask_id: int,
    end: int | None,
    block_size: int | None,
) -> tuple[Tensor, Tensor, int]:
    """Masks int64 [B, G] with end-of-text behind those of shorter rows, where they are, and the passes it took."""
    if end is None:
        raise ValueError("eos_token_id must be given when grow is set, got None")
    rows = list(prompts) if real is None else [row[own] for row, own in zip(prompts, real, strict=True)]
    lengths, passes = grow.lengths(model, rows, mask_id, end, block_size)
    most = lengths if grow.widen == 1 else [grow.bound(model, len(row)) for row in rows]
    columns = torch.arange(max(most, default=0), device=prompts.device)
    filled = columns < torch.tensor(lengths, device=prompts.device)[:, None]
    return torch.where(filled, mask_id, end), filled, passes


def steps_per_block(steps: int | None, blocks: int) -> int | None:
    """Steps of each block; None for one token a step."""
    if steps is None or blocks == 0:
        return None
    arguments.integer("steps", steps, 1)
    require(steps >= blocks, "steps", f"at least the number of blocks {blocks}", steps)
    require(steps % blocks == 0, "steps", f"a multiple of the number of blocks {blocks}", steps)
    return steps // blocks


@torch.no_grad()
def fill(
    model: LLaDAMoEModel,
    canvas: Canvas,
    options: SamplerOptions,
    steps: int | Sequence[int | None] | None,
    prompt_length: int,
    started: float,
    passes: int = 0,
    widening: Widening | None = None,
) -> GenerationResult:
    """What every entry comes to: fill a canvas in place.

    ``steps`` are those of a block, of all rows or one per row; ``passes`` were made before; ``widening`` lets
    rows grow.
    """
    longest, limit = canvas.tokens.shape[1], model.config.max_position_embeddings
    name = "prompt_ids and gen_length" if prompt_length else "input_ids"
    require(longest <= limit, name, f"at most max_position_embeddings {limit} positions together", longest)
    end = options.end_token(model.config)
    predictor = options.predictor(model, canvas)
    trace = denoise(
        predictor,
        Schedule(steps),
        build_unmasker(options.unmasker),
        stopping=options.stopping(model.config, canvas),
        widening=widening,
        on_step=options.on_step,
    )
    filled = canvas.tokens[canvas.filled]
    tokens = filled.numel() if end is None else int((filled != end).sum())
    seconds = time.perf_counter() - started
    passes += predictor.forward_passes + (0 if widening is None else widening.passes)
    return GenerationResult(canvas.sequences(), prompt_length, trace, passes, predictor.row_steps, tokens, seconds)
