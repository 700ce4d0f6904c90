"""What this GPU can do at most, measured in the run whose figures are compared with it: read, copy, multiply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .stage import Findings
from .timing import Clock, Times, measure

STREAM_BYTES = 2 << 30
PRODUCT_SIZE = 8192


@dataclass(frozen=True)
class Roofs:
    """Bytes and operations per second, of the least time."""

    read: float
    copy: float
    product: float


def measure_roofs(findings: Findings, clock: Clock) -> Roofs:
    """Read 2 GiB (by Triton, else by torch's sum), copy it (bytes read and written), multiply 8192 cubed in bf16."""
    words = torch.empty(STREAM_BYTES // 4, dtype=torch.float32, device="cuda").normal_()
    target = torch.empty_like(words)
    reads = {"torch.sum": measure([words.sum], clock)}
    try:
        from ..peers.triton_read import read_all

        reads["Triton"] = measure([lambda: read_all(words)], clock)
    except ImportError as error:
        findings.note(f"the pure-read kernel is left out: {error}")
    for name, times in reads.items():
        _figure(findings, "reading 2 GiB", name, times, bytes_moved=STREAM_BYTES)
    copied = measure([lambda: target.copy_(words)], clock)
    _figure(findings, "copying 2 GiB", "torch", copied, bytes_moved=2 * STREAM_BYTES)
    size = (PRODUCT_SIZE, PRODUCT_SIZE)
    a, b = (torch.empty(size, dtype=torch.bfloat16, device="cuda").normal_() for _ in range(2))
    product = measure([lambda: a @ b], clock, budget=1.0)
    operations = 2.0 * PRODUCT_SIZE**3
    _figure(findings, "product of 8192 cubed, bf16", "torch", product, flops=operations)
    read = max(STREAM_BYTES / times.least for times in reads.values())
    return Roofs(read, 2 * STREAM_BYTES / copied.least, operations / product.least)


def _figure(findings: Findings, case: str, run: str, times: Times, **work: float) -> None:
    findings.figure(group="limits", case=case, run=run, **figures(times, **work))


def figures(
    times: Times, *, bytes_moved: float = 0.0, flops: float = 0.0, roofs: Roofs | None = None
) -> dict[str, Any]:
    """Microseconds, rates at the median, and their share of the limits."""
    seconds = times.median
    values: dict[str, Any] = {
        "min_us": round(times.least * 1e6, 3),
        "median_us": round(seconds * 1e6, 3),
        "how": times.how,
    }
    if bytes_moved:
        values |= {"bytes": int(bytes_moved), "tb_per_s": round(bytes_moved / seconds / 1e12, 4)}
    if flops:
        values |= {"flops": flops, "tflop_per_s": round(flops / seconds / 1e12, 2)}
    if roofs is not None:
        values["of_read"] = round(bytes_moved / seconds / roofs.read, 4)
        values["of_copy"] = round(bytes_moved / seconds / roofs.copy, 4)
        values["of_product"] = round(flops / seconds / roofs.product, 4)
    return values
