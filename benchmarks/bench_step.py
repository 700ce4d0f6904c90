"""One forward pass of the 7B geometry with random weights: time by tokens and format, and the share spent in kernels.

A step of T tokens is what a decoding loop pays for each block: embedding, all layers, the final norm, and the choice of
a token at every position (head over 157184 entries and its statistics, or plain logits with --logits).

    python benchmarks/bench_step.py                                   # 2 layers a format; 16 are extrapolated
    python benchmarks/bench_step.py --formats int4 --layers 16        # a whole model
    python benchmarks/bench_step.py --tokens 32 128 --threads 1 2 --output step.json

Layers have weights of their own, larger than any cache. Formats take turns at each size, so that a memory rate that
drifts favours none. "Whole model" figures of fewer layers are extrapolated: layers x 16, plus the rest once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from llada_moe_ops import LLaDAMoEModel, ops
from llada_moe_ops.machine import machine_facts
from llada_moe_ops.model.slots import QUANTIZATIONS, dense_slots, expert_layers
from llada_moe_ops.ops import PackedExperts, pack_linear
from torch import nn
from torch.profiler import ProfilerActivity, profile

try:
    from .full_size import FULL_LAYERS, full_config
except ImportError:
    from full_size import FULL_LAYERS, full_config  # type: ignore[import-not-found, no-redef]

TOKENS = (1, 8, 32, 64, 128, 256, 512)
FORMATS = ("bf16", "int8", "int4")


def random_model(layers: int, format: str) -> LLaDAMoEModel:
    """The 7B geometry with a number of layers and random weights, packed."""
    config = full_config(layers)
    experts_format, dense_format = QUANTIZATIONS.get(format, (format, format))
    hidden, intermediate = config.hidden_size, config.expert_intermediate_size
    draws = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.035, 0.035, generator=draws)

    with torch.device("meta"):
        model = LLaDAMoEModel(config)
    for slot in list(dense_slots(model)):
        if slot.projection is not None:
            slot.projection.set_packed(pack_linear(random(*slot.shape), dense_format))
        else:
            value = torch.ones(slot.shape).bfloat16() if len(slot.shape) == 1 else random(*slot.shape)
            setattr(slot.module, slot.attribute, nn.Parameter(value))
    for _, experts in expert_layers(model):
        packed = PackedExperts.empty(config.num_experts, hidden, intermediate, experts_format)
        for expert in range(config.num_experts):
            packed.set_expert(
                expert, random(intermediate, hidden), random(intermediate, hidden), random(hidden, intermediate)
            )
        experts.set_packed(packed)
    return model.requires_grad_(False).eval()


class Step:
    """One forward pass and the choice of tokens; the seconds of the layers apart from the rest."""

    def __init__(self, model: LLaDAMoEModel, tokens: int, logits: bool) -> None:
        self.model, self.logits = model, logits
        self.ids = torch.randint(0, 150_000, (1, tokens), generator=torch.Generator().manual_seed(tokens))

    @torch.no_grad()
    def __call__(self) -> float:
        """Run; seconds spent in the layers."""
        marks: list[float] = []
        layers = self.model.layers
        hooks = [
            layers[0].register_forward_pre_hook(lambda *_: marks.append(time.perf_counter())),
            layers[-1].register_forward_hook(lambda *_: marks.append(time.perf_counter())),
        ]
        hidden = self.model.hidden(self.ids)
        if self.logits:
            self.model.head(hidden)
        else:
            ops.token_confidence(hidden[0], self.model.lm_head)
        for hook in hooks:
            hook.remove()
        return marks[1] - marks[0]

    def share_in_kernels(self) -> float:
        """The part of the wall time that passes inside our ops."""
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            started = time.perf_counter()
            self()
            seconds = time.perf_counter() - started
        inside = sum(event.self_cpu_time_total for event in recorded.key_averages() if "llada_moe::" in event.key)
        return float(inside) / 1e6 / seconds


def measure(models: dict[str, LLaDAMoEModel], tokens: int, rounds: int, logits: bool) -> dict[str, dict[str, float]]:
    """Milliseconds by format: median and minimum of the step, median of its layers."""
    steps = {format: Step(model, tokens, logits) for format, model in models.items()}
    whole: dict[str, list[float]] = {format: [] for format in steps}
    layers: dict[str, list[float]] = {format: [] for format in steps}
    for _ in range(rounds + 1):
        for format, step in steps.items():
            started = time.perf_counter()
            inside = step()
            whole[format].append(time.perf_counter() - started)
            layers[format].append(inside)
    results = {}
    for format, step in steps.items():
        seconds, inside = median(whole[format][1:]), median(layers[format][1:])  # the first of each warms up
        full = inside / len(step.model.layers) * FULL_LAYERS + seconds - inside
        results[format] = {
            "step_ms": seconds * 1e3,
            "step_min_ms": min(whole[format][1:]) * 1e3,
            "layer_ms": inside / len(step.model.layers) * 1e3,
            "whole_model_ms": full * 1e3,
            "share_in_kernels": step.share_in_kernels(),
        }
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run, print and optionally write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--logits", action="store_true", help="all logits instead of the choice of tokens")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    options = parser.parse_args(arguments)

    models = {format: random_model(options.layers, format) for format in options.formats}
    results: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for tokens in options.tokens:
            for format, row in measure(models, tokens, options.rounds, options.logits).items():
                results.append({"format": format, "tokens": tokens, "threads": threads, **row})
                print(
                    f"T={tokens:<5} threads={threads} {format:<5} layer {row['layer_ms']:8.2f} ms   whole model "
                    f"{row['whole_model_ms']:9.1f} ms   in kernels {row['share_in_kernels']:6.1%}",
                    flush=True,
                )
    if options.output is not None:
        report = {"machine": machine_facts(), "layers": options.layers, "logits": options.logits, "results": results}
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
