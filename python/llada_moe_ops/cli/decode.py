"""``llada-moe bench decode``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..files import write_aside
from .checkpoint import load
from .evaluate import check_tasks
from .generate import check_parts
from .options import ModelChoice
from .output import as_json, write

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 400  # more than the table needs: a line for each way, also in a pipe


def decode(
    tasks: list[str] | None,
    model: ModelChoice,
    unmaskers: list[str] | None,
    caches: list[str] | None,
    smoothings: list[str] | None,
    *,
    count: int,
    batch_size: int,
    block_length: int | None,
    seed: int,
    json: Path | None,
    plot: Path | None,
) -> None:
    """Measure every way and print, write and draw the report."""
    from rich.console import Console
    from tqdm import tqdm

    from ..machine import machine_facts
    from ..sampling.cache import CACHES, build_cache, check_pair
    from ..sampling.unmaskers import build_unmasker
    from ..training.decoding import PUBLISHED, RULES, SMOOTHED, compare_decodings, with_uncached
    from ..training.tasks import EVALUATION_TASKS

    rules, policies = list(unmaskers or RULES), list(caches or CACHES)
    for rule in rules:
        check_parts(rule)
    for policy in policies:
        check_parts("fixed", policy)
    for smoothing in smoothings or []:
        check_parts("fixed", smoothing=smoothing)

    def goes(rule: str, policy: str) -> bool:
        try:
            check_pair(build_unmasker(rule), build_cache(policy))
        except ValueError as error:
            typer.echo(f"left out: {rule} under {policy}: {error}", err=True)
            return False
        return True

    def mixed(rule: str) -> list[str]:
        return smoothings or (["none", "iteration"] if not unmaskers and rule == SMOOTHED else ["none"])

    names = tasks or list(EVALUATION_TASKS)
    check_tasks(names)
    if plot is not None:
        _figure_class()
    loaded = load(model)
    ways = [
        (rule, policy, smoothing)
        for rule in rules
        for policy in policies
        if goes(rule, policy)
        for smoothing in mixed(rule)
    ]
    runs = len(with_uncached([PUBLISHED, *ways]))
    with tqdm(total=runs * len(names) * count, unit="answer", disable=not sys.stderr.isatty()) as bar:

        def on_progress(task: str, done: int) -> None:
            bar.set_description(task)
            bar.update(done)

        decoded = compare_decodings(
            loaded.model,
            loaded.tokenizer.backend,
            ways,
            names,
            count=count,
            batch_size=batch_size,
            block_length=block_length,
            seed=seed,
            on_progress=on_progress,
        )
    figures = [one.figures(decoded[0]) for one in decoded]
    if json is not None:
        conditions = {
            "model": loaded.name,
            "tasks": names,
            "count": count,
            "batch_size": batch_size,
            "block_length": block_length,
            "seed": seed,
        }
        write(as_json({"machine": machine_facts(), **conditions, "pairs": figures}), json)
    if plot is not None:
        _draw(figures, f"{loaded.name}: {', '.join(names)}; {count} examples each", plot)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, _WIDTH)
    console.print(_table(figures))


def _table(figures: Sequence[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(
        caption="of one answer alone: forward passes; of batches: tokens/s; same: as without a cache",
        caption_justify="left",
    )
    columns = (
        "rule",
        "cache",
        "smoothing",
        "accuracy",
        "points lost",
        "passes",
        "fewer",
        "tokens a pass",
        "tokens/s",
        "faster",
        "same",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:3] else "right", no_wrap=True)
    for one in figures:
        low, high = one["points_lost_interval"]
        table.add_row(
            one["unmasker"],
            one["cache"],
            one["smoothing"],
            f"{one['accuracy']:.1%}",
            f"{one['points_lost']:.1f} ({low:.1f} … {high:.1f})",
            f"{one['passes']:.2f}",
            f"{one['fewer_passes']:.1f} x",
            f"{one['tokens_per_pass']:.2f}",
            f"{one['tokens_per_second']:.0f}",
            f"{one['speedup']:.1f} x",
            f"{one['same_tokens']:.1%}",
        )
    return table


def _named(figures: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each rule with its smoothing, and the caches under which it is among them."""
    caches: dict[str, list[str]] = {}
    for one in figures:
        mixed = "" if one["smoothing"] == "none" else f" with {one['smoothing']}"
        caches.setdefault(one["unmasker"] + mixed, []).append(one["cache"])
    return [f"{rule} · {', '.join(under)}" for rule, under in caches.items()]


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise typer.BadParameter("--plot needs matplotlib: pip install matplotlib") from None
    return Figure


def _draw(figures: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Accuracy against tokens a pass and against tokens a second.

    Those that no other beats in both are joined, numbered and listed; those at one point share the number.
    """
    from ..training.decoding import pareto

    figure = _figure_class()(figsize=(14, 6), layout="constrained")
    figure.suptitle(title)
    caches = list(dict.fromkeys(one["cache"] for one in figures))
    for axes, column, label in zip(
        figure.subplots(1, 2),
        ("tokens_per_pass", "tokens_per_second"),
        ("tokens a forward pass", "tokens a second"),
        strict=True,
    ):
        points = [(one[column], 100 * one["accuracy"]) for one in figures]
        for cache in caches:
            mine = [point for one, point in zip(figures, points, strict=True) if one["cache"] == cache]
            axes.scatter(*zip(*mine, strict=True), s=18, label=cache)
        best = sorted(pareto(points), key=lambda index: points[index])
        front: dict[tuple[float, float], list[int]] = {}
        for index in best:
            front.setdefault(points[index], []).append(index)
        axes.plot(*zip(*front, strict=True), color="grey", linewidth=0.8, zorder=0)
        names = []
        for number, (point, there) in enumerate(front.items(), 1):
            axes.annotate(str(number), point, xytext=(3, 3), textcoords="offset points", fontsize=8)
            names += [f"{number}  {line}" for line in _named([figures[index] for index in there])]
        listed = axes.text(0.99, 0.01, "\n".join(names), transform=axes.transAxes, fontsize=7, ha="right", va="bottom")
        listed.set_in_layout(False)
        axes.set_xlabel(label)
        axes.set_ylabel("right answers, %")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(title="cache", loc="lower left")
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
