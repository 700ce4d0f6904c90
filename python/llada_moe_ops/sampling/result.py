"""What a generation returns."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from .trace import Trace


@dataclass(frozen=True)
class GenerationResult:
    """A finished generation.

    Attributes:
        sequences: int64 [B, P + G] (or the shape of the canvas that was filled), in the caller's layout.
        prompt_length: P, columns of the prompts, padding included; 0 for infilling.
        trace: every step.
        forward_passes: canvases the model ran over a batch: one a step with something to commit, two with guidance.
        row_steps: int64 [B], the steps in which each row took part: those it would take alone.
        tokens: committed tokens that are not end-of-text.
        seconds: wall-clock time, the prompt's first pass included.
    """

    sequences: Tensor
    prompt_length: int
    trace: Trace
    forward_passes: int
    row_steps: Tensor
    tokens: int
    seconds: float

    def cut(self, columns: int) -> GenerationResult:
        """Without what no row has grown to: the first ``columns``."""
        trace = Trace(self.trace.initial[:, :columns], self.trace.steps)
        return replace(self, sequences=self.sequences[:, :columns], trace=trace)

    @property
    def steps(self) -> int:
        """Steps taken, those with nothing to commit included."""
        return len(self.trace.steps)

    @property
    def completions(self) -> Tensor:
        """The generated part, int64 [B, G]."""
        return self.sequences[:, self.prompt_length :]

    @property
    def tokens_per_second(self) -> float:
        """Committed tokens that are not end-of-text, over the whole batch, per second of wall-clock time."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Committed tokens that are not end-of-text, over the whole batch, per forward pass."""
        return self.tokens / self.forward_passes if self.forward_passes else 0.0
