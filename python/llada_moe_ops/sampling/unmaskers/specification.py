"""Rules by name, with their parameters in one string."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from .._names import choose
from .._specification import build_part
from .confident import (
    EntropyBoundUnmasker,
    FactorUnmasker,
    HierarchicalUnmasker,
    LocalLeapUnmasker,
    ThresholdUnmasker,
)
from .history import CreditUnmasker, KlassUnmasker, ProphetUnmasker
from .ordered import EntropyUnmasker, FixedUnmasker, MarginUnmasker, RandomUnmasker
from .revising import EditingUnmasker, RemaskUnmasker
from .unmasker import Unmasker

UNMASKERS: dict[str, Callable[..., Unmasker]] = {
    "fixed": FixedUnmasker,
    "random": RandomUnmasker,
    "threshold": ThresholdUnmasker,
    "factor": FactorUnmasker,
    "entropy_bound": EntropyBoundUnmasker,
    "margin": MarginUnmasker,
    "entropy": EntropyUnmasker,
    "hierarchical": HierarchicalUnmasker,
    "localleap": LocalLeapUnmasker,
    "credit": CreditUnmasker,
    "klass": KlassUnmasker,
    "prophet": ProphetUnmasker,
    "editing": EditingUnmasker,
    "remask": RemaskUnmasker,
}


def build_unmasker(unmasker: str | Unmasker) -> Unmasker:
    """A rule by its name in ``UNMASKERS`` with its parameters, or the object itself.

    ``"threshold"``, ``"threshold:0.8"``, ``"hierarchical:0.9,low_threshold=0.5"``: after the colon parameters in the
    order of the class or by name. ``"threshold:0.8+editing:0.5"``: rules that revise stand after a plus. A rule so is
    one word on a command line, in a recipe and in a table of results, and a list of rules is a list of words; a second
    option for parameters would leave open whose they are.

    Raises:
        TypeError: neither a string nor a rule, or a parameter of the wrong type.
        ValueError: unknown name or parameter, the message lists the known ones; or a value out of range.
    """
    if not isinstance(unmasker, str):
        if isinstance(unmasker, type):
            raise TypeError(f"unmasker must be a name or an object with select(), got the class {unmasker.__name__}")
        if not callable(getattr(unmasker, "select", None)):
            raise TypeError(f"unmasker must be a name or an object with select(), got {type(unmasker).__name__}")
        if not hasattr(unmasker, "adaptive"):
            raise TypeError(f"unmasker must say whether it is adaptive, {type(unmasker).__name__} does not")
        return unmasker
    first, *others = unmasker.split("+")
    built = build_part("unmasker", first, UNMASKERS)
    for other in others:
        built = _around(built, other)
    return built


def _around(rule: Unmasker, written: str) -> Unmasker:
    revising = {key: make for key, make in UNMASKERS.items() if "rule" in inspect.signature(make).parameters}
    choose("unmasker after '+'", written.partition(":")[0], revising)
    return build_part("unmasker", written, revising, {"rule": rule})
