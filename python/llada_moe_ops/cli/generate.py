"""``llada-moe generate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from . import live
from .checkpoint import load, reply_text
from .options import ModelChoice, Remasking
from .output import as_json, figures, speed_line, write

if TYPE_CHECKING:
    from ..sampling import GenerationResult, Growth, TraceStep

_PUBLISHED_BLOCK = 128


def check_lengths(gen_length: int, block_length: int | None, steps: int | None) -> None:
    """Lengths and steps that do not fit together are wrong usage.

    Raises:
        typer.BadParameter
    """
    block = min(_PUBLISHED_BLOCK, gen_length) if block_length is None else block_length
    if gen_length % block:
        raise typer.BadParameter(f"--gen-length {gen_length} is not a multiple of --block-length {block}")
    if steps is not None and steps % (gen_length // block):
        raise typer.BadParameter(f"--steps {steps} is not a multiple of the number of blocks {gen_length // block}")


def check_parts(unmasker: str, cache: str = "none", smoothing: str = "none") -> None:
    """A rule or policy that does not exist, or parameters it does not take, or a pair that does not go, is wrong usage.

    Raises:
        typer.BadParameter
    """
    from ..sampling.cache import build_cache, check_pair
    from ..sampling.smoothing import build_smoothing
    from ..sampling.unmaskers import build_unmasker

    checks: dict[str, Callable[[], object]] = {
        "--unmasker": lambda: build_unmasker(unmasker),
        "--cache": lambda: check_pair(build_unmasker(unmasker), build_cache(cache)),
        "--smoothing": lambda: build_smoothing(smoothing),
    }
    for option, check in checks.items():
        try:
            check()
        except (TypeError, ValueError) as error:
            raise typer.BadParameter(str(error), param_hint=option) from None


def growth_of(written: str | None, gen_length: int | None, steps: int | None) -> Growth | None:
    """The growth that ``--grow`` asks for.

    Raises:
        typer.BadParameter: it is not INITIAL,MOST, or does not go with the lengths.
    """
    if written is None:
        return None
    from ..sampling import Growth

    if gen_length is not None or steps is not None:
        raise typer.BadParameter("it finds the length, so --gen-length and --steps are left out", param_hint="--grow")
    try:
        values = [float(value) if "." in value else int(value) for value in written.split(",")]
        return Growth(*values)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        message = f"must be INITIAL,MOST such as 64,2048, got {written!r} ({error})"
        raise typer.BadParameter(message, param_hint="--grow") from None


def generate(
    prompts: list[str],
    model: ModelChoice,
    *,
    gen_length: int | None,
    block_length: int | None,
    steps: int | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    cfg_scale: float,
    remasking: Remasking,
    unmasker: str,
    cache: str,
    smoothing: str,
    stop_at_eos: bool,
    grow: str | None,
    seed: int | None,
    raw: bool,
    json: bool,
    trace: bool,
    output: Path | None,
) -> None:
    """Reply to prompts and print the replies."""
    if gen_length is not None:
        check_lengths(gen_length, block_length, steps)
    check_parts(unmasker, cache, smoothing)
    growth = growth_of(grow, gen_length, steps)
    from .. import sampling

    loaded = load(model)
    tokenizer, end = loaded.tokenizer, loaded.eos_token_id
    length = loaded.default_gen_length if gen_length is None else gen_length
    if growth is None:
        check_lengths(length, block_length, steps)
    texts = prompts if raw else [tokenizer.chat([{"role": "user", "content": prompt}]) for prompt in prompts]
    ids = [tokenizer.encode(text) for text in texts]

    def sample(on_step: Callable[[TraceStep], None] | None) -> GenerationResult:
        return sampling.generate(
            loaded.model,
            ids,
            gen_length=length if growth is None else None,
            block_length=block_length,
            steps=steps,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            cfg_scale=cfg_scale,
            remasking=remasking.value,
            unmasker=unmasker,
            cache=cache,
            smoothing=smoothing,
            stop_at_eos=stop_at_eos,
            grow=growth,
            seed=seed,
            mask_token_id=loaded.mask_token_id,
            eos_token_id=end,
            on_step=on_step,
        )

    if live.wanted() and not (json or trace or output or growth):  # whose view has as many masks as there will be
        first = max(map(len, ids))
        rows = [live.Row(prompt, [loaded.mask_token_id] * length, [True] * length, first) for prompt in prompts]
        result = live.run(live.View(tokenizer, rows, end), sample)
        replies = [reply_text(tokenizer, row, end) for row in result.completions.tolist()]
        write("\n\n".join([*replies, speed_line(result)]), None)
        return
    result = sample(None)
    completions = result.completions.tolist()
    replies = [reply_text(tokenizer, row, end) for row in completions]
    if not (json or trace):
        write("\n".join(replies), output)
        return
    values = {
        "model": loaded.name,
        "results": [
            {"prompt": prompt, "text": reply, "tokens": row}
            for prompt, reply, row in zip(prompts, replies, completions, strict=True)
        ],
        **figures(result),
    }
    if trace:
        values["trace"] = result.trace.to_dict()
    write(as_json(values), output)
