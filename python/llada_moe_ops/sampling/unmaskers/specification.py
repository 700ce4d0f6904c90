"""Rules by name, with their parameters in one string."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches

from .._names import choose
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
        if not callable(getattr(unmasker, "select", None)):
            raise TypeError(f"unmasker must be a name or an object with select(), got {type(unmasker).__name__}")
        return unmasker
    first, *others = unmasker.split("+")
    built = _build(first, {})
    for other in others:
        built = _build(other, {"rule": built})
    return built


def _build(written_rule: str, values: dict[str, object]) -> Unmasker:
    name, _, written = written_rule.partition(":")
    rule = choose("unmasker", name, UNMASKERS)
    parameters = list(inspect.signature(rule).parameters)
    if "rule" in values and "rule" not in parameters:
        revising = [key for key, other in UNMASKERS.items() if "rule" in inspect.signature(other).parameters]
        raise ValueError(f"unmasker after '+' must be one of {', '.join(map(repr, revising))}, got {name!r}")
    known = [key for key in parameters if key != "rule"]
    for place, item in enumerate(filter(None, written.split(","))):
        key, equals, value = item.rpartition("=")
        if not equals:
            if place >= len(known):
                raise ValueError(f"unmasker {name!r} must have {_listed(known)}, got the further value {item!r}")
            key = known[place]
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unmasker {name!r} must have {_listed(known)}, got {key!r}{hint}")
        if key in values:
            raise ValueError(f"unmasker {name!r} must have {key} once, got {written_rule!r}")
        values[key] = _value(value)
    return rule(**values)


def _listed(known: list[str]) -> str:
    return f"parameters among {', '.join(known)}" if known else "no parameters"


def _value(written: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(written)
        except ValueError:
            continue
    return written
