"""The user's texts: from arguments, files or standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..model.tokenizer import Tokenizer

_MASK = re.compile(r"\[MASK(?::(\d+))?\]")


def read_texts(arguments: Sequence[str] | None, files: Sequence[Path] | None, lines: bool) -> list[str]:
    """Texts from arguments, then from files; from standard input when there are neither, or for the argument "-".

    Raises:
        typer.BadParameter: nothing was given and standard input is a terminal, or a text is empty.
        OSError, ValueError: a file cannot be read.
    """
    sources: list[str] = []
    texts: list[str] = []
    for argument in arguments or []:
        if argument == "-":
            sources.append(sys.stdin.read())
        else:
            texts.append(argument)
    for path in files or []:
        try:
            sources.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error.reason})") from error
    if not texts and not sources:
        if sys.stdin.isatty():
            raise typer.BadParameter("give a text as an argument, with --file, or on standard input")
        sources.append(sys.stdin.read())
    for source in sources:
        texts.extend([line for line in source.splitlines() if line] if lines else [source.removesuffix("\n")])
    if not texts or not all(texts):
        raise typer.BadParameter("the text is empty")
    return texts


def encode_masked(tokenizer: Tokenizer, text: str, mask_token_id: int) -> tuple[list[int], list[bool]]:
    """Ids of a text in which ``[MASK]`` and ``[MASK:n]`` stand for one and n tokens to fill, and which those are.

    Raises:
        typer.BadParameter: the text has no mask.
    """
    ids: list[int] = []
    fill: list[bool] = []
    end = 0
    for found in _MASK.finditer(text):
        given = tokenizer.encode(text[end : found.start()])
        count = int(found.group(1) or 1)
        ids += given + [mask_token_id] * count
        fill += [False] * len(given) + [True] * count
        end = found.end()
    if not any(fill):
        raise typer.BadParameter("the text has nothing to fill: write [MASK], or [MASK:5] for five tokens")
    given = tokenizer.encode(text[end:])
    return ids + given, fill + [False] * len(given)
