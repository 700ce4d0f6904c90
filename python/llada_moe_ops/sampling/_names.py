"""Looking up a part by its name, with an error that helps."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

Part = TypeVar("Part")


def choose(argument: str, name: str, parts: Mapping[str, Part]) -> Part:
    """The part called ``name``.

    Raises:
        ValueError: unknown name; the message lists the known ones, the closest first.
    """
    if name in parts:
        return parts[name]
    close = get_close_matches(str(name), parts, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{argument} must be one of {', '.join(map(repr, parts))}, got {name!r}{hint}")
