"""``llada-moe eval``."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from .checkpoint import load
from .generate import check_parts
from .options import ModelChoice
from .output import as_json, write


def check_tasks(names: list[str]) -> None:
    """A task that does not exist is wrong usage.

    Raises:
        typer.BadParameter
    """
    from ..training.tasks import EVALUATION_TASKS

    for name in names:
        if name not in EVALUATION_TASKS:
            raise typer.BadParameter(f"unknown task {name!r}; there are {', '.join(EVALUATION_TASKS)}")


def evaluate(
    tasks: list[str] | None,
    model: ModelChoice,
    count: int,
    batch_size: int,
    seed: int,
    unmasker: str,
    cache: str,
    smoothing: str,
    block_length: int | None,
    *,
    json: bool,
    output: Path | None,
) -> None:
    """Measure held-out accuracies and print them."""
    check_parts(unmasker, cache, smoothing)
    from tqdm import tqdm

    from .. import training
    from ..training.tasks import EVALUATION_TASKS

    names = tasks or list(EVALUATION_TASKS)
    check_tasks(names)
    loaded = load(model)
    with tqdm(total=len(names) * count, unit="example", disable=not sys.stderr.isatty()) as bar:

        def on_progress(task: str, done: int) -> None:
            bar.set_description(task)
            bar.update(done)

        results = training.evaluate(
            loaded.model,
            loaded.tokenizer.backend,
            names,
            count=count,
            batch_size=batch_size,
            seed=seed,
            decoding=training.Decoding(unmasker, cache, block_length, smoothing),
            on_progress=on_progress,
        )
    if json:
        rows = [
            {
                "task": result.task,
                "correct": result.correct,
                "count": result.count,
                "accuracy": result.share,
                "interval": list(result.interval),
                "steps": result.mean_steps,
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ]
        how = {"unmasker": unmasker, "cache": cache, "smoothing": smoothing}
        write(as_json({"model": loaded.name, "seed": seed, **how, "results": rows}), output)
        return
    lines = [f"{'task':<12} {'accuracy':>8}  95 % interval    correct      steps seconds"]
    for result in results:
        low, high = result.interval
        lines.append(
            f"{result.task:<12} {result.share:>8.1%}  {low:.1%} … {high:.1%}  "
            f"{result.correct:>4}/{result.count:<6} {result.mean_steps:>6.1f} {result.seconds:>7.1f}"
        )
    write("\n".join(lines), output)
