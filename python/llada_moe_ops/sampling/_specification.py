"""Parts as one string, a name and its parameters: ``"threshold"``, ``"hierarchical:0.9,low_threshold=0.5"``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from ._names import choose

Part = TypeVar("Part")


def build_part(
    argument: str, written: str, parts: Mapping[str, Callable[..., Part]], around: Mapping[str, object] | None = None
) -> Part:
    """The part called by name, with parameters after a colon, by name or in the order of its class.

    Args:
        argument: what the messages call it.
        parts: makes a part of each name.
        around: parameters that are given as objects and cannot be written.

    Raises:
        TypeError: a parameter of the wrong type.
        ValueError: unknown name or parameter, the message lists the known ones; or a value out of range.
    """
    name, _, listed = written.partition(":")
    make = choose(argument, name, parts)
    values: dict[str, object] = dict(around or {})
    known = [key for key in written_parameters(make) if key not in values]
    for place, item in enumerate(filter(None, listed.split(","))):
        key, equals, value = item.rpartition("=")
        if not equals:
            if place >= len(known):
                raise ValueError(f"{argument} {name!r} must have {_listed(known)}, got the further value {item!r}")
            key = known[place]
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{argument} {name!r} must have {_listed(known)}, got {key!r}{hint}")
        if key in values:
            raise ValueError(f"{argument} {name!r} must have {key} once, got {written!r}")
        values[key] = _value(value)
    return make(**values)


def written_parameters(make: Callable[..., object]) -> list[str]:
    """Parameters of a part that a string can hold; not ``rule``, which is an object."""
    return [key for key in inspect.signature(make).parameters if key != "rule"]


def _listed(known: list[str]) -> str:
    return f"parameters among {', '.join(known)}" if known else "no parameters"


def _value(written: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(written)
        except ValueError:
            continue
    return written
