"""The warm-up, stable, decay schedule."""

from __future__ import annotations


def learning_rate(step: int, peak: float, warmup_steps: int, decay_steps: int, total_steps: int) -> float:
    """The rate at a step counted from 0: linear up, flat, then linear down to a hundredth of the peak."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    left = total_steps - step
    if left < decay_steps:
        return peak * max(0.01, left / decay_steps)
    return peak
