"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(str, Enum):
    """Dtypes of weights and activations."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Quantization(str, Enum):
    """Formats of quantised weights."""

    int8 = "int8"
    int4 = "int4"


class Device(str, Enum):
    """Where a model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(frozen=True)
class ModelChoice:
    """The model that a command runs: a folder or hub id, None for the embedded one, and how its weights are held."""

    path_or_id: str | None
    dtype: Dtype | None = None
    quantization: Quantization | None = None
    device: Device = Device.cpu


class Remasking(str, Enum):
    """What orders the commits."""

    low_confidence = "low_confidence"
    random = "random"


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Checkpoint folder or hub id (owner/name); without it the embedded one.",
        show_default=False,
    ),
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option("--dtype", help="Weights and activations; without it the checkpoint's own.", show_default=False),
]
QuantizationOption = Annotated[
    Quantization | None,
    typer.Option(
        "--quantization",
        help="Hold the weights in fewer bits: int8, or int4 for the experts and int8 for the rest; "
        "less memory and faster, at a small loss of accuracy. On a GPU int8 alone, of the experts.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    Device,
    typer.Option("--device", help="Where the model runs; auto takes a GPU that this build serves, else the CPU."),
]
BlockLength = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tokens of a block; blocks are finished one after another. Without it one block (generate: 128 at most).",
        show_default=False,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Denoising steps over all blocks; without it one token a step.", show_default=False),
]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="Gumbel noise on the logits; 0 takes the most probable token.")
]
TopK = Annotated[
    int | None,
    typer.Option(min=1, help="Noise chooses among the so many most probable tokens.", show_default=False),
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Noise chooses among the fewest most probable tokens that have this share of the probability.",
        show_default=False,
    ),
]
CfgScale = Annotated[float, typer.Option(min=0.0, help="Classifier-free guidance; 0 switches it off.")]
RemaskingOption = Annotated[Remasking, typer.Option(help="Which positions are committed first.")]
CacheOption = Annotated[
    str,
    typer.Option(
        help="What a step need not recompute: a policy with its parameters, such as none (exact), prefix, dual or "
        "vicinity:8. An unknown name lists them."
    ),
]
Smoothing = Annotated[
    str,
    typer.Option(
        help="What a step is told of the predictions before it: none, or iteration with its parameters, such as "
        "iteration:limit=0.2."
    ),
]
Unmasker = Annotated[
    str,
    typer.Option(
        help="Which positions a step commits: a rule with its parameters, such as fixed, threshold:0.9 or "
        "hierarchical:0.92,low_threshold=0.5. An unknown name lists them."
    ),
]
Grow = Annotated[
    str | None,
    typer.Option(
        metavar="INITIAL,MOST",
        help="Find the length of a reply first, by adding masks until the model sees its end, such as 64,2048; instead "
        "of --gen-length and --steps. What may follow is the stride (8), the threshold (0.5) and the window (32); and, "
        "to insert masks where the model is unsure, how many one becomes (1: none; published as 8) and the two "
        "probabilities that decide it (0.1, 0.9).",
        show_default=False,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Makes random runs repeatable.", show_default=False)]
Raw = Annotated[bool, typer.Option("--raw", help="Give the prompt to the model as it is, without the chat template.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Trace = Annotated[bool, typer.Option("--trace", help="Add every step to the JSON; implies --json.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write there instead of standard output; an old file stays whole until the new one is.",
        show_default=False,
    ),
]
File = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", help="Take a text from this file; may be repeated.", show_default=False),
]
Lines = Annotated[bool, typer.Option("--lines", help="Each line of a file or of standard input is a text of its own.")]
