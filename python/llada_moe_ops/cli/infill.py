"""``llada-moe infill``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from . import live
from .checkpoint import load
from .generate import check_parts
from .options import ModelChoice, Remasking
from .output import as_json, figures, speed_line, write
from .texts import encode_masked

if TYPE_CHECKING:
    from ..sampling import GenerationResult, TraceStep


def infill(
    texts: list[str],
    model: ModelChoice,
    *,
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
    seed: int | None,
    json: bool,
    trace: bool,
    output: Path | None,
) -> None:
    """Fill texts and print them."""
    check_parts(unmasker, cache, smoothing)
    import torch

    from .. import sampling

    loaded = load(model)
    tokenizer = loaded.tokenizer
    encoded = [encode_masked(tokenizer, text, loaded.mask_token_id) for text in texts]
    longest = max(len(ids) for ids, _ in encoded)
    fill_mask = torch.tensor([[False] * (longest - len(fill)) + fill for _, fill in encoded])

    def sample(on_step: Callable[[TraceStep], None] | None) -> GenerationResult:
        return sampling.infill(
            loaded.model,
            [ids for ids, _ in encoded],
            fill_mask=fill_mask,
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
            seed=seed,
            mask_token_id=loaded.mask_token_id,
            eos_token_id=loaded.eos_token_id,
            on_step=on_step,
        )

    def filled(result: GenerationResult) -> list[list[int]]:
        rows = zip(result.sequences.tolist(), encoded, strict=True)
        return [row[longest - len(ids) :] for row, (ids, _) in rows]

    if live.wanted() and not (json or trace or output):
        rows = [live.Row("infill", list(ids), list(fill), longest - len(ids)) for ids, fill in encoded]
        result = live.run(live.View(tokenizer, rows, loaded.eos_token_id), sample)
        write("\n\n".join([*map(tokenizer.decode, filled(result)), speed_line(result)]), None)
        return
    result = sample(None)
    completed = filled(result)
    if not (json or trace):
        write("\n".join(map(tokenizer.decode, completed)), output)
        return
    values = {
        "model": loaded.name,
        "results": [
            {"input": text, "text": tokenizer.decode(row), "tokens": row}
            for text, row in zip(texts, completed, strict=True)
        ],
        **figures(result),
    }
    if trace:
        values["trace"] = result.trace.to_dict()
    write(as_json(values), output)
