"""``llada-moe score``."""

from __future__ import annotations

import math
from pathlib import Path

import typer

from .checkpoint import load
from .options import ModelChoice
from .output import as_json, write


def score(
    prompt: str,
    answer: str,
    model: ModelChoice,
    mc_num: int,
    batch_size: int | None,
    cfg_scale: float,
    seed: int | None,
    *,
    raw: bool,
    json: bool,
    output: Path | None,
) -> None:
    """Estimate the log-likelihood of an answer and print it."""
    size = min(16, mc_num) if batch_size is None else batch_size
    if mc_num % size:
        raise typer.BadParameter(f"--mc-num {mc_num} is not a multiple of --batch-size {size}")
    if not answer:
        raise typer.BadParameter("the answer is empty")
    from .. import sampling

    loaded = load(model)
    text = prompt if raw else loaded.tokenizer.chat([{"role": "user", "content": prompt}])
    answer_ids = loaded.tokenizer.encode(answer)
    estimate = sampling.score(
        loaded.model,
        loaded.tokenizer.encode(text),
        answer_ids,
        mc_num=mc_num,
        batch_size=size,
        cfg_scale=cfg_scale,
        seed=seed,
        mask_token_id=loaded.mask_token_id,
    )
    known = not math.isnan(estimate.standard_error)
    if not json:
        error = f"± {estimate.standard_error:.4f}" if known else "(one batch: no standard error)"
        write(f"{estimate.log_likelihood:.4f} {error} nats, {len(answer_ids)} tokens, {mc_num} maskings", output)
        return
    values = {
        "model": loaded.name,
        "log_likelihood": estimate.log_likelihood,
        "standard_error": estimate.standard_error if known else None,
        "answer_tokens": len(answer_ids),
        "mc_num": mc_num,
        "batch_losses": estimate.batch_losses,
    }
    write(as_json(values), output)
