"""The rules that look back, written out plainly: one row, whole distributions, every step, in Python numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

Logits = list[list[float]]  # of one step: W positions, V tokens
Commit = dict[int, int]  # position: token


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def largest(values: list[float]) -> int:
    return max(range(len(values)), key=lambda token: (values[token], -token))


def by_confidence(p: list[list[float]], masked: list[int]) -> list[int]:
    return sorted(masked, key=lambda position: (-max(p[position]), position))


def fixed(p: list[list[float]], masked: list[int], quota: int) -> set[int]:
    return set(by_confidence(p, masked)[:quota])


def credit(
    steps: Iterator[Logits], masked: list[int], quota: int, threshold: float, weight: float, decay: float, boost: float
) -> Iterator[Commit]:
    matrix: dict[tuple[int, int], float] = {}
    for logits in steps:
        matrix = {key: decay * value for key, value in matrix.items()}
        p = {}
        for position in masked:
            plain = softmax(logits[position])
            token = largest(plain)
            matrix[position, token] = matrix.get((position, token), 0.0) + plain[token] ** boost
            boosted = [
                logit + weight * math.log(1 + matrix.get((position, v), 0.0))
                for v, logit in enumerate(logits[position])
            ]
            p[position] = softmax(boosted)
        needed = min(threshold, max(max(p[position]) for position in masked) - 1e-5)
        commit = {position: largest(p[position]) for position in masked if max(p[position]) >= needed}
        masked = [position for position in masked if position not in commit]
        yield commit


def klass(
    steps: Iterator[Logits], masked: list[int], quota: int, confidence: float, divergence: float, history: int
) -> Iterator[Commit]:
    divergences: dict[int, list[float]] = {position: [] for position in masked}
    earlier: list[list[float]] | None = None
    for logits in steps:
        p = [softmax(row) for row in logits]
        ready = set()
        for position in masked:
            if earlier is not None:
                pairs = zip(p[position], earlier[position], strict=True)
                divergences[position].append(sum(now * math.log(now / then) for now, then in pairs))
            recent = divergences[position][-history:]
            stable = len(recent) == history and all(value <= divergence for value in recent)
            if stable and max(p[position]) >= confidence:
                ready.add(position)
        earlier = p
        commit = {position: largest(p[position]) for position in ready or fixed(p, masked, quota)}
        masked = [position for position in masked if position not in commit]
        yield commit


def prophet(
    steps: Iterator[Logits], masked: list[int], quota: int, early: float, middle: float, late: float
) -> Iterator[Commit]:
    total = len(masked)
    for logits in steps:
        gaps = []
        for position in masked:
            first, second = sorted(logits[position], reverse=True)[:2]
            gaps.append(first - second)
        progress = (total - len(masked)) / total
        needed = early if progress < 1 / 3 else middle if progress < 2 / 3 else late
        p = [softmax(row) for row in logits]
        chosen = set(masked) if sum(gaps) / len(gaps) >= needed else fixed(p, masked, quota)
        commit = {position: largest(p[position]) for position in chosen}
        masked = [position for position in masked if position not in commit]
        yield commit
