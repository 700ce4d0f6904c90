"""``llada-moe generate --requests``: a file of requests with settings of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .checkpoint import load
from .generate import check_parts, growth_of
from .options import ModelChoice, Remasking
from .output import write

if TYPE_CHECKING:
    from ..sampling import Request


def read_requests(path: Path, settings: Mapping[str, Any]) -> list[tuple[int, str, Request]]:
    """Line, prompt and request, still without its ids, of each JSON line; ``settings`` are those a line lacks.

    Raises:
        OSError, ValueError: the file cannot be read, or a line is no request; the message names file and line.
    """
    from ..sampling import Request
    from ..sampling._names import choose

    known = {"prompt": None, **{field.name: None for field in fields(Request) if field.name != "prompt_ids"}}
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError(f"must be a JSON object, got {type(values).__name__}")
            for name in values:
                choose("a request's key", name, known)
            prompt = values.pop("prompt", None)
            if not isinstance(prompt, str) or not prompt:
                raise ValueError(f"prompt must be a text that is not empty, got {prompt!r}")
            if isinstance(values.get("stop"), str):
                values["stop"] = [values["stop"]]
            found.append((number, prompt, Request(prompt_ids=(), **{**settings, **values})))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    if not found:
        raise ValueError(f"{path}: holds no request")
    return found


def generate_requests(
    path: Path,
    model: ModelChoice,
    settings: Mapping[str, Any],
    *,
    batch_size: int,
    block_length: int | None,
    top_k: int | None,
    top_p: float | None,
    cfg_scale: float,
    remasking: Remasking,
    cache: str,
    smoothing: str,
    grow: str | None,
    raw: bool,
    as_json: bool,
    output: Path | None,
) -> None:
    """Answer the requests of a file and print the replies in its order.

    ``settings`` are those of lines that do not name them; each is a field of :class:`Request`.
    """
    check_parts(settings["unmasker"], cache, smoothing)
    growth = growth_of(grow, settings["gen_length"], settings["steps"])
    found = read_requests(path, settings)
    from .. import sampling

    loaded = load(model)
    tokenizer = loaded.tokenizer
    requests = []
    for number, prompt, request in found:
        text = prompt if raw else tokenizer.chat([{"role": "user", "content": prompt}])
        if request.gen_length is None and growth is None:
            request = replace(request, gen_length=loaded.default_gen_length)
        requests.append(replace(request, prompt_ids=tokenizer.encode(text)))
        sampling.check_request(
            loaded.model,
            requests[-1],
            tokenizer=tokenizer,
            block_length=block_length,
            cache=cache,
            smoothing=smoothing,
            grow=growth,
            name=f"{path}:{number}",
        )
    lines = []
    for first in range(0, len(requests), batch_size):
        results = sampling.generate_requests(
            loaded.model,
            requests[first : first + batch_size],
            tokenizer=tokenizer,
            block_length=block_length,
            top_k=top_k,
            top_p=top_p,
            cache=cache,
            smoothing=smoothing,
            cfg_scale=cfg_scale,
            remasking=remasking.value,
            grow=growth,
            mask_token_id=loaded.mask_token_id,
            eos_token_id=loaded.eos_token_id,
        )
        for (_, prompt, _), result in zip(found[first:], results, strict=False):
            values = {"prompt": prompt, **asdict(result)}
            lines.append(json.dumps(values, ensure_ascii=False) if as_json else str(result.text))
    write("\n".join(lines), output)


def check_alone(others: Mapping[str, object]) -> None:
    """A file of requests takes the place of other sources, and is answered without a trace.

    Raises:
        typer.BadParameter
    """
    given = [name for name, value in others.items() if value]
    if given:
        raise typer.BadParameter(f"--requests cannot be given together with {', '.join(given)}")
