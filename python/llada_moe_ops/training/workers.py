"""Data-parallel worker processes on one machine, one share of the cores each.

Small models run faster as several single-threaded processes than as one process with several threads: their
products are too short to be cut.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn


class Workers:
    """The group a process belongs to; alone unless made by :func:`run_workers`."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum_gradients(self, parameters: list[nn.Parameter], statistics: Tensor) -> Tensor:
        """Sum gradients (in place; None counts as zero) and statistics over the workers; returns the latter."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.count == 1:
            return statistics
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        distributed.all_reduce(flat)
        distributed.all_reduce(statistics)
        first = 0
        for parameter in parameters:
            parameter.grad = flat[first : first + parameter.numel()].view_as(parameter)
            first += parameter.numel()
        return statistics


def run_workers(count: int, body: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``body(workers, *arguments)`` in ``count`` processes, the first of them this one; returns its result.

    When a process dies the others' next exchange fails, so none is left behind.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    if count == 1:
        return body(Workers(), *arguments)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        meeting = f"file://{Path(folder) / 'rendezvous'}"
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_worker, args=(rank, count, meeting, body, arguments), daemon=True)
            for rank in range(1, count)
        ]
        for process in others:
            process.start()
        result = _worker(0, count, meeting, body, arguments)
        for process in others:
            process.join()
        return result


def _worker(rank: int, count: int, meeting: str, body: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    try:
        return body(Workers(rank, count), *arguments)
    finally:
        distributed.destroy_process_group()
