"""What int8 and int4 weights cost in quality: on the embedded model, and in one expert layer of the 7B's shape.

* predictions: Kullback-Leibler divergence of the token distributions at masked positions of held-out examples, and how
  often the likeliest token is the same, against float32 with the same weights; also with the experts or the other
  projections alone quantised;
* accuracy: the tasks as ``llada-moe eval`` measures them; losses are paired, example by example;
* layer: relative error of the result and of the weights against float64, random normal weights;
* roundings: other ways of choosing the scales (``rounding.py``), weights alone rounded, activations kept.

    python benchmarks/quantization_quality.py --output benchmarks/results/quantization.json
    python benchmarks/quantization_quality.py --count 50      # fewer examples a task: quicker
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from llada_moe_ops import LLaDAMoEModel, Tokenizer, ops
from llada_moe_ops.cli.checkpoint import EMBEDDED
from llada_moe_ops.machine import machine_facts
from llada_moe_ops.model.model import Experts
from llada_moe_ops.model.modules import Linear
from llada_moe_ops.training.data import MaskedBatch, task_batch
from llada_moe_ops.training.evaluate import Accuracy, evaluate, points_lost
from llada_moe_ops.training.tasks import TASKS
from rounding import ROUNDINGS, Rounding
from torch import Tensor

ALLOWED_LOSS = {"int8": 0.2, "int4": 2.0}  # percentage points
TOKENS_PER_TASK = 16384
LAYER = {"experts": 8, "top": 2, "hidden": 2048, "intermediate": 1024, "tokens": 128}


def load(quantization: str | None = None, **options: Any) -> LLaDAMoEModel:
    """The embedded model."""
    return LLaDAMoEModel.from_pretrained(EMBEDDED, quantization=quantization, **options)


def partly(expert_format: str, dense_format: str) -> LLaDAMoEModel:
    """The embedded model with formats of its own for the experts and for the other projections."""
    model = load(pack=False).requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, Experts):
            module.set_packed(ops.pack_experts(*module.plain_weights(), format=expert_format))
        elif isinstance(module, Linear):
            assert isinstance(module.weight, Tensor)
            module.set_packed(ops.pack_linear(module.weight.detach(), dense_format))
    return model


def rounded(rounding: Rounding) -> LLaDAMoEModel:
    """The embedded model in float32 with the experts' weights rounded, and under int8 the other projections', too."""
    model = load(pack=False, dtype=torch.float32).requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, Experts):
            for weight in module.plain_weights():
                weight.copy_(rounding.apply(weight))
        elif isinstance(module, Linear) and rounding.format == "int8":
            assert isinstance(module.weight, Tensor)
            module.weight.copy_(rounding.apply(module.weight))
    return model


MODELS: dict[str, Callable[[], LLaDAMoEModel]] = {
    "bf16": load,
    "int8": lambda: load("int8"),
    "int4": lambda: load("int4"),
    "int4 experts, bf16 rest": lambda: partly("int4", "bf16"),
    "int8 experts, bf16 rest": lambda: partly("int8", "bf16"),
    "bf16 experts, int8 rest": lambda: partly("bf16", "int8"),
}


def held_out_batches(tokenizer: Tokenizer, tokens: int) -> list[MaskedBatch]:
    """Half-masked held-out examples of every task."""
    draws = torch.Generator().manual_seed(0)
    return [
        task_batch(tokenizer.backend, name, tokens, Random(f"quality {name}"), draws, held_out=True) for name in TASKS
    ]


@torch.no_grad()
def predictions(model: LLaDAMoEModel, batches: list[MaskedBatch]) -> Tensor:
    """Log-probabilities [masked positions, V] in float64."""
    rows = []
    for batch in batches:
        logits = model(batch.noisy_ids, batch.attention_mask.long()).logits
        rows.append(logits[batch.masked].double().log_softmax(-1))
    return torch.cat(rows)


def divergence(reference: Tensor, other: Tensor) -> dict[str, float]:
    """How far other log-probabilities [N, V] are from the reference's."""
    each = (reference.exp() * (reference - other)).sum(-1)
    return {
        "kl_nats": float(each.mean()),
        "kl_nats_99th": float(each.quantile(0.99)),
        "argmax_agreement": float((reference.argmax(-1) == other.argmax(-1)).double().mean()),
    }


def accuracy(name: str, tokenizer: Tokenizer, count: int) -> list[Accuracy]:
    """Every task, as ``llada-moe eval --count`` does it."""

    def on_progress(task: str, _: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{name}: {task:<20}", end="", file=sys.stderr)

    return evaluate(MODELS[name](), tokenizer.backend, count=count, batch_size=100, on_progress=on_progress)


def paired_loss(base: list[Accuracy], other: list[Accuracy]) -> dict[str, Any]:
    """Percentage points lost over all tasks' examples, with their 95 % interval."""
    before, after = ([right for one in results for right in one.right] for results in (base, other))
    points, low, high = points_lost(before, after)
    return {
        "lost": sum(one and not two for one, two in zip(before, after, strict=True)),
        "won": sum(two and not one for one, two in zip(before, after, strict=True)),
        "points": points,
        "interval": [low, high],
    }


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def relative(ours: Tensor, exact: Tensor) -> float:
    """Root mean square of the error by that of the exact values."""
    return rms(ours.double() - exact.double()) / rms(exact)


def layer_errors() -> dict[str, Any]:
    """moe_mlp of a layer of the 7B's shape (with fewer experts) in each format, against float64 and against bf16."""
    draws = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws)

    experts, hidden, intermediate, tokens = (LAYER[name] for name in ("experts", "hidden", "intermediate", "tokens"))
    gate_up, down = random(experts, 2 * intermediate, hidden) * 0.02, random(experts, hidden, intermediate) * 0.02
    gate_up, down, x = gate_up.bfloat16(), down.bfloat16(), random(tokens, hidden).bfloat16()
    weights, chosen = random(tokens, experts).softmax(-1).topk(LAYER["top"])
    exact = ops.moe_mlp_reference(x.double(), weights.double(), chosen, gate_up.double(), down.double())
    results = {}
    plain = None
    for format in ("bf16", "int8", "int4"):
        packed = ops.pack_experts(gate_up, down, format=format)
        y = ops.moe_mlp(x, weights, chosen, packed)
        plain = y if plain is None else plain
        results[format] = {
            "against_float64": relative(y, exact),
            "against_bf16": relative(y, plain),
            "weights": relative(packed.unpack()[1], down),
        }
    one = down[0].double()
    products = {
        name: {"weights": relative(rounding.apply(down[0]), one), "bits": rounding.bits}
        for name, rounding in ROUNDINGS.items()
    }
    return {"sizes": LAYER, "formats": results, "roundings": products}


def table(title: str, header: str, rows: Iterator[str]) -> None:
    print(f"\n{title}\n{header}")
    for row in rows:
        print(row)


def main() -> None:
    """Parse the command line, measure, print, write; exit 1 if a format loses more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="held-out examples of each task")
    parser.add_argument("--tokens", type=int, default=TOKENS_PER_TASK, help="of each task, for the divergences")
    parser.add_argument("--output", type=Path, help="also write the figures there as JSON")
    options = parser.parse_args()
    layer = layer_errors()
    torch.set_num_threads(1)  # the embedded model is so small that waiting for a second thread takes longer
    tokenizer = Tokenizer.from_pretrained(EMBEDDED)
    batches = held_out_batches(tokenizer, options.tokens)
    reference = predictions(load(dtype=torch.float32), batches)
    model = {name: divergence(reference, predictions(make(), batches)) for name, make in MODELS.items()}
    roundings = {
        name: {
            "bits": rounding.bits,
            "weights_7b": layer["roundings"][name]["weights"],
            **divergence(reference, predictions(rounded(rounding), batches)),
        }
        for name, rounding in ROUNDINGS.items()
    }
    print(f"embedded model, {len(reference)} masked positions of held-out examples, against float32")

    def prediction_row(name: str, one: dict[str, float]) -> str:
        return f"{name:<64}{one['kl_nats']:>12.2e}{one['kl_nats_99th']:>12.2e}{one['argmax_agreement']:>12.3%}"

    columns = f"{'KL, nats':>12}{'99th %':>12}{'argmax':>12}"
    table("predictions", f"{'':<64}{columns}", (prediction_row(*item) for item in model.items()))
    table(
        "roundings of the weights alone",
        f"{'':<64}{columns}{'bits':>8}{'7B weights':>12}",
        (f"{prediction_row(*item)}{item[1]['bits']:>8.2f}{item[1]['weights_7b']:>12.4f}" for item in roundings.items()),
    )
    table(
        f"expert layer of the 7B's shape, {LAYER}",
        f"{'':<8}{'float64':>12}{'bf16':>12}{'weights':>12}",
        (
            f"{name:<8}{one['against_float64']:>12.4f}{one['against_bf16']:>12.4f}{one['weights']:>12.4f}"
            for name, one in layer["formats"].items()
        ),
    )
    measured = {name: accuracy(name, tokenizer, options.count) for name in ("bf16", "int8", "int4")}
    losses = {name: paired_loss(measured["bf16"], measured[name]) for name in ALLOWED_LOSS}

    def task_row(index: int) -> str:
        cells = []
        for results in measured.values():
            low, high = results[index].interval
            cells.append(f"{results[index].share:>8.1%} ({low:.1%} … {high:.1%})")
        return f"{measured['bf16'][index].task:<12}" + "".join(f"{cell:>28}" for cell in cells)

    table(
        f"accuracy, {options.count} examples a task",
        f"{'':<12}" + "".join(f"{name:>28}" for name in measured),
        map(task_row, range(len(measured["bf16"]))),
    )
    for name, loss in losses.items():
        low, high = loss["interval"]
        print(
            f"{name} loses {loss['points']:.2f} points ({low:.2f} … {high:.2f}): {loss['lost']} answers lost, "
            f"{loss['won']} won; {ALLOWED_LOSS[name]} are allowed"
        )
    if options.output:
        values = {
            "machine": machine_facts(),
            "predictions": model,
            "roundings": roundings,
            "layer": {"sizes": LAYER, "formats": layer["formats"]},
            "accuracy": {
                name: {one.task: {"right": one.correct, "count": one.count, "interval": one.interval} for one in found}
                for name, found in measured.items()
            },
            "loss": losses,
        }
        options.output.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(loss["points"] > ALLOWED_LOSS[name] for name, loss in losses.items()))


if __name__ == "__main__":
    main()
