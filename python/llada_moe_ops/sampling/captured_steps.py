"""Decode steps as CUDA graphs: from canvas to canvas on the device; the host reads at a block's end what they did.

Which steps a block has is known at its start where a rule commits what the schedule says, so the host only launches
them; under a rule that decides the count it reads after each one whether anything is left. The parts of the sampler
that run within a graph say so themselves, by an attribute ``capturable``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..model.captured import Recorder, can_capture, record_cuda_graph
from ..model.inputs import KeyMask, Place
from ..model.key_value_cache import KeyValueCache
from ..ops._library import has_cuda_kernel
from .breakdown import breakdown
from .cache import IntervalCache
from .canvas import Canvas
from .forward import MOST_GRAPHS
from .predictor import Predictor, Statistics
from .stopping import Stopping
from .trace import Trace, TraceStep
from .unmaskers import Unmasker, committed_too_few, decide

NEVER = 1 << 62  # an index that no step has


class BlockState:
    """What the steps of a block read and write on the device besides the canvas; A rows have something to fill in it.

    Attributes:
        rows: int64 [A]. positions: int64 [B, W], of every row.
        counts: int64 [W, A], the schedule's: each step commits at least one token, so there are at most W.
        index: int64 [1], of the next step in the block.
        starts: int64 [A], of the windows that the next step recomputes.
        committed_at: int64 [A, W], the index of the step that committed a position, with the ``token`` and its
            ``logprob``; −1 before.
        ended_at: int64 [B, L], the index of the step that ended a row and changed what stood there; −1 before.
        failed_at: int64 [1], the first index at which a number was not finite.
        left: bool [], whether something in the block is still masked.
    """

    def __init__(self, canvas: Canvas, rows: int, cache: KeyValueCache | None) -> None:
        new, width = canvas.tokens.new_zeros, canvas.block_length
        self.cache = cache
        self.rows, self.positions = new(rows), new(len(canvas.tokens), width)
        self.counts, self.index, self.starts = new(width, rows), new(1), new(rows)
        self.committed_at, self.token = new(rows, width), new(rows, width)
        self.logprob = new(rows, width, dtype=torch.float32)
        self.ended_at, self.failed_at = torch.empty_like(canvas.tokens), new(1)
        self.left = new((), dtype=torch.bool)

    def begin(self, rows: Tensor, positions: Tensor, counts: Tensor) -> None:
        """Start a block: ``positions`` [B, W], of which ``rows`` [A] have ``counts`` [A, steps] to commit."""
        self.rows.copy_(rows)
        self.positions.copy_(positions)
        self.counts[: counts.shape[1]] = counts.T
        self.index.zero_()
        self.committed_at.fill_(-1)
        self.ended_at.fill_(-1)
        self.failed_at.fill_(NEVER)

    def record(self, commit: Tensor, statistics: Statistics, finite: Tensor, ended: Tensor | None) -> None:
        """Note what a step did, and go on to the next."""
        self.committed_at.copy_(torch.where(commit, self.index, self.committed_at))
        self.token.copy_(torch.where(commit, statistics.token, self.token))
        self.logprob.copy_(torch.where(commit, statistics.logprob, self.logprob))
        if ended is not None:
            self.ended_at.copy_(torch.where(ended, self.index, self.ended_at))
        self.failed_at.copy_(torch.minimum(self.failed_at, self.index.masked_fill(finite, NEVER)))
        self.index.add_(1)


class CapturedSteps:
    """The steps of one generation. Each kind of step becomes a graph the second time it comes."""

    def __init__(
        self,
        predictor: Predictor,
        unmasker: Unmasker,
        stopping: Stopping | None,
        watched: bool,
        record: Recorder,
    ) -> None:
        self._predictor, self._unmasker, self._stopping, self._watched = predictor, unmasker, stopping, watched
        self._model, self._canvas = predictor.model, predictor.canvas
        policy = predictor.forward.policy
        assert not isinstance(policy, IntervalCache)  # not capturable
        self._policy = policy
        self._lengths = self._canvas.lengths.cpu()
        self._ragged = bool((self._lengths != self._canvas.tokens.shape[1]).any())
        self._record = record
        self._state: BlockState | None = None
        self._runs: dict[int | None, Callable[[], None] | None] = {}
        self._place: tuple[Tensor, Tensor]  # the rows' positions in the block and lengths, on the CPU
        self._starts: Tensor | None = None

    @classmethod
    def build(
        cls, predictor: Predictor, unmasker: Unmasker, stopping: Stopping | None, *, watched: bool
    ) -> CapturedSteps | None:
        """None where the steps of these parts cannot be captured.

        Args:
            stopping: as for :func:`denoise`.
            watched: each step is wanted as soon as it is done, not when its block is.
        """
        optional = [part for part in (predictor.forward.policy, stopping) if part is not None]
        parts = [unmasker, predictor.noise, *optional]
        if predictor.smoother is not None or not all(getattr(part, "capturable", False) for part in parts):
            return None
        if not can_capture(predictor.model) or not has_cuda_kernel("token_confidence"):
            return None
        return cls(predictor, unmasker, stopping, watched, record_cuda_graph)

    def steps(self, trace: Trace, block: int, positions: Tensor, counts: Tensor) -> Iterator[TraceStep]:
        """Run a block of ``positions`` [B, W] and ``counts`` [B, steps], of which each row's do not increase.

        Rows without any count have nothing to fill. Under a rule that decides the count, the steps are as many as there
        may be.

        Raises:
            NonFiniteLogitsError: the model broke down; ``trace``, which the caller extends, is attached.
            ValueError: the rule committed nothing in a row's step, or less than its count.
        """
        adaptive, watched, first = self._unmasker.adaptive, self._watched, len(trace.steps)
        busy, total, index = self.begin(positions, counts), counts.shape[1], 0
        while index < busy:
            self.launch(index)
            index += 1
            if watched:
                yield from self._done(trace, block, first, range(index - 1, index))
            if adaptive and not bool(self._held.left):
                total = index
                break
        yield from self._done(trace, block, first, range(index if watched else 0, total))
        if bool(self._held.left):
            raise committed_too_few(self._unmasker)

    def begin(self, positions: Tensor, counts: Tensor) -> int:
        """Start a block; how many of its steps have something to do."""
        rows, busy = (counts[:, 0] > 0).nonzero().squeeze(1), int(counts.any(0).sum())
        if self._state is None or len(self._state.rows) != len(rows):
            self._runs.clear()
            cache = None
            if self._policy is not None:
                batch = len(rows) * self._predictor.passes_per_step
                cache = KeyValueCache(self._model, batch, self._canvas.tokens.shape[1])
            self._state = BlockState(self._canvas, len(rows), cache)
        self._state.begin(rows, positions, counts[rows, :busy])
        self._place, self._starts = (positions[rows].cpu(), self._lengths[rows.cpu()]), None
        return busy

    def launch(self, index: int) -> None:
        """Run the block's step ``index``: they come in order, each once."""
        size = self._window(index)
        self._predictor.forward_passes += self._predictor.passes_per_step
        replay = self._runs.get(size)
        if replay is not None:
            replay()
        elif size not in self._runs:
            while len(self._runs) >= MOST_GRAPHS:
                del self._runs[next(iter(self._runs))]
            self._runs[size] = None
            self._step(size)
        else:  # recording runs the step once
            self._runs[size], _ = self._record(lambda: self._step(size))

    def _window(self, index: int) -> int | None:
        """How many positions of each row a step recomputes, from ``BlockState.starts`` on; None: all."""
        window = self._policy.window(index, *self._place) if self._policy is not None and index else None
        if window is None:
            return None
        if self._starts is None or not torch.equal(window.start, self._starts):
            self._starts = window.start
            self._held.starts.copy_(window.start, non_blocking=True)
        return window.size

    @torch.inference_mode()
    def _step(self, size: int | None) -> Tensor:
        """What a graph holds; the positions it commits, bool [A, W]."""
        canvas, state = self._canvas, self._held
        rows, positions = state.rows, state.positions[state.rows]
        masked = canvas.masked(state.positions)[rows]
        statistics, finite = self._predictor.in_fixed_sizes(
            rows, positions, masked, lambda tokens: self._hidden(tokens, size)
        )
        quota = state.counts.index_select(0, state.index).squeeze(0)
        decision = decide(self._unmasker, statistics, masked, quota)
        commit, statistics = decision.commit, decision.statistics
        # −1 where numbers are not finite, which the host sees later: until then it has to be a token.
        canvas.commit_block(rows, positions[:, 0], commit, statistics.token.clamp(min=0))
        ended = None
        if self._stopping is not None:
            going_on = ~self._stopping.at_end_token
            ended = canvas.end_rows_in_place(state.positions, self._stopping.end_token, going_on)
        state.record(commit, statistics, finite, ended)
        state.left.copy_(canvas.masked(state.positions).any())
        return commit

    def _hidden(self, tokens: Tensor, size: int | None) -> Tensor:
        """Hidden states [A', W, H] at the blocks of canvases [A', L]: those of the rows, once or twice over."""
        state, length = self._held, tokens.shape[1]
        rows = state.rows.repeat(len(tokens) // len(state.rows))
        blocks, key_range = state.positions[rows], None
        if self._ragged:  # a canvas holds its real tokens first
            ends = self._canvas.lengths[rows].int()
            key_range = torch.stack([torch.zeros_like(ends), ends], dim=1)
        if size is None:
            positions, places = torch.arange(length, device=tokens.device).expand_as(tokens), blocks
        else:
            starts = state.starts.repeat(len(tokens) // len(state.rows))[:, None]
            positions, places = starts + torch.arange(size, device=tokens.device), blocks - starts
            tokens = tokens.gather(1, positions.clamp(max=length - 1))
        hidden = self._model.run(tokens, Place(positions, KeyMask(key_range=key_range), state.cache))
        places = places.clamp(0, hidden.shape[1] - 1)  # a block may reach past its row's end
        return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))

    def _done(self, trace: Trace, block: int, first: int, indices: range) -> Iterator[TraceStep]:
        """What the steps of these indices did; here the host waits for the device."""
        state, canvas = self._held, self._canvas
        row, slot = (state.committed_at >= indices.start).nonzero(as_tuple=True)
        index, rows = state.committed_at[row, slot], state.rows[row]
        columns, tokens, logprobs = state.positions[rows, slot], state.token[row, slot], state.logprob[row, slot]
        if self._stopping is not None:
            ended, after = (state.ended_at >= indices.start).nonzero(as_tuple=True)
            index, rows = torch.cat([index, state.ended_at[ended, after]]), torch.cat([rows, ended])
            columns = torch.cat([columns, after])
            tokens = torch.cat([tokens, torch.full_like(ended, self._stopping.end_token)])
            logprobs = torch.cat([logprobs, logprobs.new_zeros(len(ended))])
        order = index.argsort(stable=True)
        rows, columns, tokens, logprobs = (values[order] for values in (rows, columns, tokens, logprobs))
        sizes = torch.bincount(index - indices.start, minlength=len(indices)).tolist()
        failed = int(state.failed_at)
        parts = (rows, columns + canvas.padding[rows], tokens, logprobs.exp())
        for at, *values in zip(indices, *(part.split(sizes) for part in parts), strict=True):
            if at >= failed:
                raise breakdown(self._predictor, trace)
            yield TraceStep(first + at, block, *values)

    @property
    def _held(self) -> BlockState:
        assert self._state is not None
        return self._state
