"""The commit rules written out plainly, one row at a time in Python numbers: oracles of the batched ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Row:
    """One row's statistics and its masked positions, rising."""

    masked: list[int]
    quota: int
    confidence: list[float]
    first: list[float]
    second: list[float]
    entropy: list[float]
    uniform: list[float]

    def falling(self, score: list[float]) -> list[int]:
        """Masked positions by falling score, equal ones by position."""
        return sorted(self.masked, key=lambda position: (-score[position], position))


def fixed(row: Row) -> set[int]:
    return set(row.falling(row.confidence)[: row.quota])


def random(row: Row) -> set[int]:
    return set(row.falling(row.uniform)[: row.quota])


def margin(row: Row) -> set[int]:
    # In fp32, as probabilities are: margins that differ in float64 alone are ties.
    margins = np.subtract(row.first, row.second, dtype=np.float32)
    return set(row.falling(margins.tolist())[: row.quota])


def entropy(row: Row) -> set[int]:
    return set(row.falling([-e for e in row.entropy])[: row.quota])


def threshold(row: Row, threshold: float) -> set[int]:
    highest = max(row.confidence[position] for position in row.masked)
    return {position for position in row.masked if row.confidence[position] >= min(threshold, highest - 1e-5)}


def factor(row: Row, factor: float) -> set[int]:
    chosen: set[int] = set()
    for n, position in enumerate(row.falling(row.confidence), start=1):
        if n > 1 and row.confidence[position] < 1 - factor / (n + 1):
            break
        chosen.add(position)
    return chosen


def entropy_bound(row: Row, gamma: float) -> set[int]:
    rising = row.falling([-e for e in row.entropy])
    for size in range(len(rising), 0, -1):
        entropies = [row.entropy[position] for position in rising[:size]]
        if sum(entropies) - max(entropies) <= gamma:
            return set(rising[:size])
    raise AssertionError("one position is always within the bound")


def hierarchical(row: Row, threshold: float, low_threshold: float) -> set[int]:
    chosen = {position for position in row.masked if row.confidence[position] > threshold}
    runs: list[list[int]] = []
    for position in row.masked:
        if runs and runs[-1][-1] == position - 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    for run in runs:
        surest = max(run, key=lambda position: (row.confidence[position], -position))
        if row.confidence[surest] > low_threshold:
            chosen.add(surest)
    return chosen | {row.falling(row.confidence)[0]}


def localleap(row: Row, threshold: float, relaxed_threshold: float, radius: int) -> set[int]:
    anchors = [position for position in row.masked if row.confidence[position] >= threshold]
    chosen = {row.falling(row.confidence)[0]}
    for position in row.masked:
        near = any(abs(position - anchor) <= radius for anchor in anchors)
        if near and row.confidence[position] >= relaxed_threshold:
            chosen.add(position)
    return chosen
