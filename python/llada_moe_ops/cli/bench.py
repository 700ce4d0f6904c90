"""``llada-moe bench``: what this machine can do at best, and what ways of decoding save and cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .output import as_json, write

if TYPE_CHECKING:
    from rich.table import Table

    from ..roofline import Limits, Rate

bench = typer.Typer(name="bench", help="Measure this machine, and ways of decoding.", no_args_is_help=True)


@bench.callback()
def common() -> None:
    """Measure this machine, and ways of decoding."""


@bench.command()
def roofline(
    threads: Annotated[
        list[int] | None,
        typer.Option(
            "--threads", "-t", min=1, help="May be repeated; without it 1, 2, 4 … all cores.", show_default=False
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Spent on each number of threads, about.")] = 3.0,
    stream_mib: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Memory streamed through for the DRAM rate; without it 512 MiB or 8 times L3, the larger.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="Also write the figures and the machine's facts there.", show_default=False),
    ] = None,
) -> None:
    """Measure how fast this machine reads, from each cache and from memory, and multiplies, in each dtype."""
    from rich.console import Console

    from ..machine import available_cores, machine_facts
    from ..roofline import measure

    counts = sorted(set(threads)) if threads else _doublings(available_cores())
    if counts[-1] > available_cores():
        raise typer.BadParameter(f"--threads {counts[-1]}: this process may use {available_cores()} cores")
    if seconds == 0:
        raise typer.BadParameter("--seconds must be above 0")
    facts = machine_facts()
    limits = []
    with Console(stderr=True).status("measuring") as status:
        for count in counts:
            status.update(f"measuring with {_threads(count)}, {seconds:g} s")
            stream_bytes = None if stream_mib is None else stream_mib << 20
            limits.append(measure(count, seconds=seconds, stream_bytes=stream_bytes))
    if json is not None:
        write(as_json({"machine": facts, "limits": [one.as_dict() for one in limits]}), json)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(_headline(facts))
    console.print(_table(limits))


@bench.command()
def decode(
    tasks: Annotated[
        list[str] | None, typer.Argument(help="Held-out tasks; without any, all of them.", show_default=False)
    ] = None,
    model: options.Model = None,
    unmasker: Annotated[
        list[str] | None,
        typer.Option(
            help="A rule, as for generate; may be repeated. Without it every rule, some also with stricter parameters.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        list[str] | None,
        typer.Option(help="A cache, as for generate; may be repeated. Without it all.", show_default=False),
    ] = None,
    smoothing: Annotated[
        list[str] | None,
        typer.Option(
            help="A smoothing, as for generate; may be repeated. Without it none; where no rule is named, either, "
            "threshold:0.8,decay=0.02 with iteration, too.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Examples of each task.")] = 50,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples answered at once.")] = 50,
    block_length: options.BlockLength = None,
    seed: Annotated[int, typer.Option(help="Of the examples.")] = 0,
    dtype: options.DtypeOption = None,
    quantization: options.QuantizationOption = None,
    device: options.DeviceOption = options.Device.auto,
    json: Annotated[
        Path | None, typer.Option("--json", help="Also write the figures there.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Also draw them there, as PNG; needs matplotlib.", show_default=False),
    ] = None,
) -> None:
    """Measure what commit rules, caches and smoothing save and cost: accuracy, forward passes, tokens a second."""
    from .decode import decode as run

    run(
        tasks,
        options.ModelChoice(model, dtype, quantization, device),
        unmasker,
        cache,
        smoothing,
        count=count,
        batch_size=batch_size,
        block_length=block_length,
        seed=seed,
        json=json,
        plot=plot,
    )


def _doublings(cores: int) -> list[int]:
    """1, 2, 4 and so on, and all cores."""
    return sorted({*(1 << power for power in range(cores.bit_length())), cores})


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


def _headline(facts: dict[str, Any]) -> str:
    caches = facts["caches"]
    return (
        f"{facts['processor']} · {facts['cores']} cores · L1 {caches['l1'] >> 10} KiB, L2 {caches['l2'] >> 10} KiB "
        f"a core, L3 {caches['l3'] >> 20} MiB for {caches['cores']} · {facts['isa']} · {facts['compiler']}"
    )


def _table(limits: list[Limits]) -> Table:
    from rich.table import Table

    table = Table(caption="best (median) of short rounds; a multiply-add is two operations", caption_justify="left")
    table.add_column("")
    for one in limits:
        table.add_column(_threads(one.threads), justify="right", no_wrap=True)

    def row(name: str, unit: str, rates: list[Rate]) -> None:
        table.add_row(name, *(f"{rate.best / 1e9:.1f} ({rate.median / 1e9:.1f}) {unit}" for rate in rates))

    for level in limits[0].read:
        row(f"read {level.upper()}", "GB/s", [one.read[level] for one in limits])
    for dtype in limits[0].peak:
        row(dtype, "GOP/s" if dtype == "int8" else "GFLOP/s", [one.peak[dtype] for one in limits])
    return table
