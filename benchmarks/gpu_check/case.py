"""One case of the benchmarks: ours and its peers on the same inputs, proved right, then timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .roofs import Roofs, figures
from .stage import Findings
from .timing import Clock, measure, number_of_sets

Run = Callable[..., Any]
OURS = "ours"


@dataclass(frozen=True)
class Geometry:
    """The model's sizes, and where its tensors are."""

    hidden: int = 2048
    intermediate: int = 1024
    experts: int = 64
    slots: int = 8
    heads: int = 16
    head_size: int = 128
    vocabulary: int = 157184
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal values."""
        return torch.empty(shape, dtype=self.dtype, device=self.device).normal_(0.0, scale)


@dataclass(frozen=True)
class Case:
    """What is computed, by whom, and how much must be moved and multiplied for it at least.

    Attributes:
        inputs: makes a set of inputs, the arguments of each run.
        runs: by name.
        reference: the run that the others are checked against.
        unchecked: runs that compute something else, for the sake of a bound.
        eager: runs that cannot be captured in a graph.
        variants: of a run, by its name: only the fastest counts (tiles of a kernel).
        missing: peers that cannot run here, and why.
    """

    group: str
    name: str
    inputs: Callable[[], tuple[Any, ...]]
    runs: Mapping[str, Run]
    reference: str
    bytes_moved: float
    flops: float = 0.0
    variants: Mapping[str, Mapping[str, Run]] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()
    eager: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.03


def first_tensor(value: Any) -> Tensor:
    """A result, or the first of several."""
    return first_tensor(value[0]) if isinstance(value, (tuple, list)) else value


def relative_error(found: Any, expected: Any) -> float:
    """‖found − expected‖ ÷ ‖expected‖ of the first result."""
    mine, other = first_tensor(found).float(), first_tensor(expected).float()
    return float((mine - other).norm() / other.norm().clamp(min=1e-12))


def bytes_of(values: tuple[Any, ...]) -> int:
    """Bytes of the tensors among a set of inputs."""
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def run_case(
    case: Case, findings: Findings, clock: Clock, roofs: Roofs | None, l2_bytes: int, memory_bytes: int
) -> None:
    """Prove each run right against the first checked one, time it, write its figures.

    What is wrong or breaks is left out and said: ours is a failure, a peer a note.
    """
    first = case.inputs()
    count = number_of_sets(bytes_of(first), l2_bytes, memory_bytes)
    sets = [first, *(case.inputs() for _ in range(count - 1))]
    for name, reason in case.missing.items():
        findings.note(f"{case.group}, {case.name}: {name} is left out: {reason}")
    expected = case.runs[case.reference](*first)
    # Ours comes last: a fault in a kernel of ours must not cost the peers their figures.
    for name, run in sorted(case.runs.items(), key=lambda item: item[0] == OURS):
        best: dict[str, Any] | None = None
        for label, variant in case.variants.get(name, {"": run}).items():
            try:
                error = 0.0 if name in case.unchecked else relative_error(variant(*first), expected)
                if not error <= case.tolerance:
                    raise ArithmeticError(f"wrong result, relative error {error:.3g}")
                calls = [lambda values=values, variant=variant: variant(*values) for values in sets]
                times = measure(calls, clock, capture=name not in case.eager)
            except Exception as error:
                what = f"{case.group}, {case.name}: {name} {label}: {type(error).__name__}: {error}".splitlines()[0]
                (findings.fail if name == OURS else findings.note)(what[:300])
                continue
            values = figures(times, bytes_moved=case.bytes_moved, flops=case.flops, roofs=roofs)
            values["how"] += f", {label}" if label else ""
            if best is None or values["median_us"] < best["median_us"]:
                best = values
        if best is not None:
            findings.figure(group=case.group, case=case.name, run=name, sets=count, **best)
