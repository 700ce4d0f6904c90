"""The denoising loop: block by block, step by step, predict what is masked and commit the surest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .breakdown import breakdown
from .captured_steps import CapturedSteps
from .predictor import Predictor
from .schedule import Schedule
from .stopping import Stopping
from .trace import Trace, TraceStep
from .unmaskers import Unmasker, committed_too_few, decide
from .widening import Widening


def denoise(
    predictor: Predictor,
    schedule: Schedule,
    unmasker: Unmasker,
    *,
    stopping: Stopping | None = None,
    widening: Widening | None = None,
    on_step: Callable[[TraceStep], None] | None = None,
) -> Trace:
    """Fill ``predictor.canvas`` in place and return the record of it.

    Args:
        stopping: ends rows early, in the block that produces their end; None fills every row to its last position.
        widening: lets rows grow meanwhile, within the canvas' columns.
        on_step: called after each step, also after those that had nothing to commit.

    Raises:
        NonFiniteLogitsError: the model broke down; the trace so far is attached.
    """
    canvas = predictor.canvas
    trace = Trace(canvas.layout)
    captured = None
    if widening is None:
        captured = CapturedSteps.build(predictor, unmasker, stopping, watched=on_step is not None)
    for block in range(canvas.block_starts.shape[0]):
        positions = canvas.block(block)
        masked = canvas.masked(positions)
        if not bool(masked.any()):
            continue
        for step in (
            _steps(predictor, schedule, unmasker, trace, block, positions, stopping, widening)
            if captured is None
            else captured.steps(trace, block, positions, _counts(schedule, unmasker, masked))
        ):
            trace.steps.append(step)
            if on_step is not None:
                on_step(step)
    return trace


def _counts(schedule: Schedule, unmasker: Unmasker, masked: Tensor) -> Tensor:
    """The schedule's counts, int64 [B, steps]; as many steps as there may be where the rule decides."""
    numbers = masked.sum(1)
    if not unmasker.adaptive:
        return schedule.counts(numbers)
    quotas = [schedule.quota(numbers, index) for index in range(masked.shape[1])]
    return torch.stack(quotas, dim=1) * masked.any(1, keepdim=True)


def _steps(
    predictor: Predictor,
    schedule: Schedule,
    unmasker: Unmasker,
    trace: Trace,
    block: int,
    positions: Tensor,
    stopping: Stopping | None,
    widening: Widening | None,
) -> Iterator[TraceStep]:
    canvas = predictor.canvas
    masked = canvas.masked(positions).sum(1)
    counts = None if unmasker.adaptive else schedule.counts(masked)
    index, unfinished = 0, torch.zeros_like(masked, dtype=torch.bool)
    while bool(canvas.masked(positions).any() | unfinished.any()) if counts is None else index < counts.shape[1]:
        quota = schedule.quota(masked, index) if counts is None else counts[:, index]
        yield _step(predictor, unmasker, trace, (block, index), positions, quota, unfinished, stopping, widening)
        index += 1
    if bool(canvas.masked(positions).any()):
        raise committed_too_few(unmasker)


def _step(
    predictor: Predictor,
    unmasker: Unmasker,
    trace: Trace,
    place: tuple[int, int],
    positions: Tensor,
    quota: Tensor,
    unfinished: Tensor,
    stopping: Stopping | None,
    widening: Widening | None,
) -> TraceStep:
    """One step; ``unfinished`` [B] tells which rows want it though nothing is masked, and is brought up to date."""
    canvas, step = predictor.canvas, len(trace.steps)
    block, index = place
    masked = canvas.masked(positions)
    revises = getattr(unmasker, "revises", False)
    predicted = masked
    if revises is not False:
        predicted = masked | canvas.written(positions) & torch.as_tensor(revises, device=masked.device)[..., None]
    # Rows that are done, or have nothing to commit in this step, are left out of the forward pass.
    active = ((masked.any(1) | unfinished) & (quota > 0)).nonzero().squeeze(1)
    rows = columns = tokens = active.new_empty(0)
    probabilities, widened = torch.empty(0, device=active.device), None
    if active.numel():
        try:
            statistics = predictor(active, positions[active], predicted[active], step, index)
        except FloatingPointError as error:
            raise breakdown(predictor, trace) from error
        decision = decide(unmasker, statistics, masked[active], quota[active])
        commit, statistics = decision.commit, decision.statistics
        if not bool((commit.any(1) | unfinished[active]).all()):
            raise committed_too_few(unmasker, none=True)
        unfinished[active] = decision.unfinished
        if widening is not None:
            wide_rows, wide_slots = widening.places(canvas, active, masked[active] & ~commit, statistics)
        row, slot = (commit | decision.remask).nonzero(as_tuple=True)
        rows, tokens, probabilities = active[row], statistics.token[row, slot], statistics.logprob[row, slot].exp()
        columns = positions[rows, slot]
        again = decision.remask[row, slot]
        tokens = tokens.masked_fill(again, predictor.options.mask_token_id)
        canvas.commit(rows, columns, tokens, again)
        if widening is not None:
            widened = widening.widen(canvas, wide_rows, positions[wide_rows, wide_slots])
    if stopping is not None:
        ended, after = stopping.end_rows(canvas, active, positions, unfinished)
        rows, columns = torch.cat([rows, ended]), torch.cat([columns, after])
        tokens = torch.cat([tokens, torch.full_like(ended, stopping.end_token)])
        probabilities = torch.cat([probabilities, probabilities.new_ones(len(ended))])
    return TraceStep(step, block, rows, columns + canvas.padding[rows], tokens, probabilities, widened)
