"""The commands and their arguments; each does its work in the module of its name, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .bench import bench

app = typer.Typer(
    name="llada-moe",
    help="Run, score and train LLaDA-MoE masked-diffusion language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"llada-moe {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run, score and train LLaDA-MoE masked-diffusion language models."""


@app.command()
def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(help='Prompts; "-" reads one from standard input.', show_default=False)
    ] = None,
    file: options.File = None,
    lines: options.Lines = False,
    requests: Annotated[
        Path | None,
        typer.Option(
            help="Instead of prompts, a file with one JSON object a line: prompt, and where it differs from the "
            "options gen_length, steps, unmasker, temperature and seed; stop (texts that end it), stop_at_eos.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests of --requests answered at once.")] = 32,
    model: options.Model = None,
    gen_length: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens to generate; without it 128, or what the embedded model is used to.", show_default=False
        ),
    ] = None,
    block_length: options.BlockLength = None,
    steps: options.Steps = None,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    cfg_scale: options.CfgScale = 0.0,
    remasking: options.RemaskingOption = options.Remasking.low_confidence,
    unmasker: options.Unmasker = "fixed",
    cache: options.CacheOption = "none",
    smoothing: options.Smoothing = "none",
    stop_at_eos: Annotated[
        bool, typer.Option("--stop-at-eos", help="End a reply early, at its end-of-text; those of --requests do.")
    ] = False,
    grow: options.Grow = None,
    seed: options.Seed = None,
    raw: options.Raw = False,
    dtype: options.DtypeOption = None,
    quantization: options.QuantizationOption = None,
    device: options.DeviceOption = options.Device.auto,
    json: options.Json = False,
    trace: options.Trace = False,
    output: options.Output = None,
) -> None:
    """Reply to prompts, showing the denoising on a terminal and plain text in a pipe."""
    choice = options.ModelChoice(model, dtype, quantization, device)
    if requests is not None:
        from .requests import check_alone, generate_requests

        check_alone({"prompts": prompts, "--file": file, "--lines": lines, "--trace": trace})
        settings: dict[str, Any] = {"gen_length": gen_length, "steps": steps, "unmasker": unmasker}
        generate_requests(
            requests,
            choice,
            {**settings, "temperature": temperature, "seed": seed},
            batch_size=batch_size,
            block_length=block_length,
            top_k=top_k,
            top_p=top_p,
            cfg_scale=cfg_scale,
            remasking=remasking,
            cache=cache,
            smoothing=smoothing,
            grow=grow,
            raw=raw,
            as_json=json,
            output=output,
        )
        return
    from .generate import generate as run
    from .texts import read_texts

    run(
        read_texts(prompts, file, lines),
        choice,
        gen_length=gen_length,
        block_length=block_length,
        steps=steps,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        cfg_scale=cfg_scale,
        remasking=remasking,
        unmasker=unmasker,
        cache=cache,
        smoothing=smoothing,
        stop_at_eos=stop_at_eos,
        grow=grow,
        seed=seed,
        raw=raw,
        json=json,
        trace=trace,
        output=output,
    )


@app.command()
def infill(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            help='Texts with [MASK] for one token to fill and [MASK:5] for five; "-" reads one from standard input.',
            show_default=False,
        ),
    ] = None,
    file: options.File = None,
    lines: options.Lines = False,
    model: options.Model = None,
    block_length: options.BlockLength = None,
    steps: options.Steps = None,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    cfg_scale: options.CfgScale = 0.0,
    remasking: options.RemaskingOption = options.Remasking.low_confidence,
    unmasker: options.Unmasker = "fixed",
    cache: options.CacheOption = "none",
    smoothing: options.Smoothing = "none",
    seed: options.Seed = None,
    dtype: options.DtypeOption = None,
    quantization: options.QuantizationOption = None,
    device: options.DeviceOption = options.Device.auto,
    json: options.Json = False,
    trace: options.Trace = False,
    output: options.Output = None,
) -> None:
    """Fill the masks of texts in place, in any order."""
    from .infill import infill as run
    from .texts import read_texts

    run(
        read_texts(texts, file, lines),
        options.ModelChoice(model, dtype, quantization, device),
        block_length=block_length,
        steps=steps,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        cfg_scale=cfg_scale,
        remasking=remasking,
        unmasker=unmasker,
        cache=cache,
        smoothing=smoothing,
        seed=seed,
        json=json,
        trace=trace,
        output=output,
    )


@app.command()
def score(
    prompt: Annotated[str, typer.Argument(help="What stands before the answer; may be empty with --raw.")],
    answer: Annotated[str, typer.Argument(help="The answer whose probability is asked for.")],
    model: options.Model = None,
    mc_num: Annotated[int, typer.Option(min=1, help="Random maskings drawn.")] = 128,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maskings evaluated together, a divisor of --mc-num; without it 16.", show_default=False
        ),
    ] = None,
    cfg_scale: options.CfgScale = 0.0,
    seed: options.Seed = None,
    raw: options.Raw = False,
    dtype: options.DtypeOption = None,
    quantization: options.QuantizationOption = None,
    device: options.DeviceOption = options.Device.auto,
    json: options.Json = False,
    output: options.Output = None,
) -> None:
    """Estimate how probable an answer is, in nats, with its standard error."""
    from .score import score as run

    choice = options.ModelChoice(model, dtype, quantization, device)
    run(prompt, answer, choice, mc_num, batch_size, cfg_scale, seed, raw=raw, json=json, output=output)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="JSON recipe, such as the embedded model's assets/recipe.json.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the run; an interrupted run there is resumed exactly.")],
) -> None:
    """Train from a recipe; the checkpoint is written into the folder, in the published format."""
    import sys

    from ..training import TrainConfig
    from ..training import train as run

    run(TrainConfig.from_file(recipe), folder, progress=sys.stderr.isatty())
    typer.echo(str(folder))


@app.command("eval")
def evaluate(
    tasks: Annotated[
        list[str] | None, typer.Argument(help="Tasks to measure; without any, all of them.", show_default=False)
    ] = None,
    model: options.Model = None,
    count: Annotated[int, typer.Option(min=1, help="Held-out examples of each task.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples answered at once.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the examples.")] = 0,
    unmasker: options.Unmasker = "fixed",
    cache: options.CacheOption = "none",
    smoothing: options.Smoothing = "none",
    block_length: options.BlockLength = None,
    dtype: options.DtypeOption = None,
    quantization: options.QuantizationOption = None,
    device: options.DeviceOption = options.Device.auto,
    json: options.Json = False,
    output: options.Output = None,
) -> None:
    """Measure held-out accuracy on tasks whose answers can be checked."""
    from .evaluate import evaluate as run

    choice = options.ModelChoice(model, dtype, quantization, device)
    run(tasks, choice, count, batch_size, seed, unmasker, cache, smoothing, block_length, json=json, output=output)


@app.command()
def pack(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub id (owner/name).")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the packed form.")],
    quantization: options.QuantizationOption = None,
    dtype: options.DtypeOption = None,
) -> None:
    """Write a checkpoint in the packed form, which --model maps in a moment instead of packing it at every start."""
    from .pack import pack as run

    run(options.ModelChoice(model, dtype, quantization), folder)
    typer.echo(str(folder))


@app.command()
def doctor() -> None:
    """Say what was built, what this machine has, and what is missing; exit code 1 if something is."""
    from .doctor import doctor as run

    raise typer.Exit(run())


@app.command()
def demo(
    model: options.Model = None,
    dtype: options.DtypeOption = None,
    quantization: options.QuantizationOption = None,
    device: options.DeviceOption = options.Device.auto,
    seed: Annotated[int, typer.Option(help="Of the examples.")] = 0,
    pause: Annotated[float, typer.Option(min=0.0, help="Seconds between the steps of the live view.")] = 0.05,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Also draw a still picture of the live view there.", show_default=False)
    ] = None,
) -> None:
    """Watch the embedded model answer held-out questions and solve a sudoku, each answer checked."""
    from .demo import demo as run

    run(options.ModelChoice(model, dtype, quantization, device), seed, pause, svg)
