"""One forward pass of the 7B geometry with random weights: time by tokens and format, and the share spent in our ops,
and the fraction of what the machine could do: the larger of bytes / rate and operations / peak, measured between the
turns.

A step of T tokens is what a decoding loop pays for each block: embedding, all layers, the final norm, and the choice of
a token at every position (head over 157184 entries and its statistics, or plain logits with --logits).

    python -m benchmarks.bench_step                                   # 2 layers a format; 16 are extrapolated
    python -m benchmarks.bench_step --formats int4 --layers 16        # a whole model
    python -m benchmarks.bench_step --tokens 32 --prefix 128          # a block behind 128 cached positions
    .venv-peers/bin/python -m benchmarks.bench_step --formats int4 --layers 16 --llama-cpp files    # against llama.cpp

Every layer has memory of its own, larger than any cache. Formats, and llama.cpp beside them, take turns at each size,
so that a memory rate that drifts favours none. "Whole model" figures of fewer layers are extrapolated: layers x 16,
plus the rest once. llama.cpp computes all logits and chooses nothing, and keeps no keys: it has no use for --prefix.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from llada_moe_ops import KeyValueCache, LLaDAMoEModel, ops
from llada_moe_ops.machine import machine_facts
from llada_moe_ops.model.slots import QUANTIZATIONS, dense_slots, expert_layers
from llada_moe_ops.ops import PackedExperts, pack_linear
from llada_moe_ops.ops._library import NAMESPACE
from torch import nn
from torch._ops import OpOverload

from .compare import LIMIT_ROUNDS, probe
from .full_size import FULL_LAYERS, full_config
from .peers import llama_cpp

TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048)
FORMATS = {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}  # ours, and llama.cpp's of that size
PEAKS = {"bf16": "bf16", "int8": "int8", "int4": "int8"}


def random_model(layers: int, format: str) -> LLaDAMoEModel:
    """The 7B geometry with a number of layers and random weights, packed: equal where shapes are, each in its place."""
    config = full_config(layers)
    experts_format, dense_format = QUANTIZATIONS.get(format, (format, format))
    hidden, intermediate = config.hidden_size, config.expert_intermediate_size
    draws = torch.Generator().manual_seed(0)

    @cache
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

    def __init__(self, model: LLaDAMoEModel, tokens: int, prefix: int, logits: bool) -> None:
        self.model, self.logits = model, logits
        self.ids = torch.randint(0, 150_000, (1, tokens), generator=torch.Generator().manual_seed(tokens))
        self.positions = torch.arange(prefix, prefix + tokens)[None]
        self.cache = KeyValueCache(model, 1, prefix + tokens) if prefix else None

    @torch.inference_mode()
    def __call__(self) -> float:
        """Run; seconds spent in the layers."""
        marks: list[float] = []
        layers = self.model.layers
        hooks = [
            layers[0].register_forward_pre_hook(lambda *_: marks.append(time.perf_counter())),
            layers[-1].register_forward_hook(lambda *_: marks.append(time.perf_counter())),
        ]
        self.run()
        for hook in hooks:
            hook.remove()
        return marks[1] - marks[0]

    @torch.inference_mode()
    def run(self) -> None:
        """The step alone."""
        hidden = self.model.hidden(self.ids, None, self.positions, self.cache)
        if self.logits:
            self.model.head(hidden)
        else:
            ops.token_confidence(hidden[0], self.model.lm_head)

    @torch.inference_mode()
    def work(self) -> tuple[int, float]:
        """Bytes of weights that a step must read, and operations that it must make."""
        model, config = self.model, self.model.config
        logits: list[torch.Tensor] = []
        model.hidden(self.ids, None, self.positions, self.cache, router_logits=logits)
        count, hidden = config.num_experts_per_tok, config.hidden_size
        bytes_moved, operations = model.lm_head.nbytes, 2.0 * hidden * config.vocab_size
        length = self.ids.shape[1] if self.cache is None else self.cache.length
        for layer, layer_logits in zip(model.layers, logits, strict=True):
            used = len(layer_logits.topk(count).indices.unique()) / config.num_experts
            dense = (layer.self_attn.qkv_proj.weight, layer.self_attn.o_proj.weight, layer.mlp.gate)
            bytes_moved += int(used * layer.mlp.packed.nbytes) + sum(weight.nbytes for weight in dense)
            weights = 3 * count * hidden * config.expert_intermediate_size + hidden * (4 * hidden + config.num_experts)
            operations += 2.0 * weights + 4.0 * length * hidden
        return bytes_moved, self.ids.shape[1] * operations

    def share_in_ops(self) -> float:
        """The part of the wall time that passes inside our compiled ops."""
        call, inside = OpOverload.__call__, 0.0

        def timed(op: OpOverload, /, *arguments: Any, **keywords: Any) -> Any:
            nonlocal inside
            started = time.perf_counter()
            result = call(op, *arguments, **keywords)
            if op.namespace == NAMESPACE:
                inside += time.perf_counter() - started
            return result

        with mock.patch.object(OpOverload, "__call__", timed):
            started = time.perf_counter()
            self.run()
            seconds = time.perf_counter() - started
        return inside / seconds


def measure(steps: dict[str, Step], others: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each: median and minimum; of ours by format also its layers and what 16 of them would take."""
    whole: dict[str, list[float]] = {name: [] for name in (*steps, *others)}
    layers: dict[str, list[float]] = {format: [] for format in steps}
    limit = probe(torch.get_num_threads())
    limit.reset()
    for _ in range(rounds + 1):
        for _ in range(LIMIT_ROUNDS):
            limit.round(names=("dram", *{PEAKS[format] for format in steps}))
        for name, run in (*steps.items(), *others.items()):
            started = time.perf_counter()
            inside = run()
            whole[name].append(time.perf_counter() - started)
            if name in steps:
                layers[name].append(inside)
    # the first of each warms up
    results = {
        name: {"step_ms": median(seconds[1:]) * 1e3, "step_min_ms": min(seconds[1:]) * 1e3}
        for name, seconds in whole.items()
    }
    for format, step in steps.items():
        row, count = results[format], len(step.model.layers)
        inside = median(layers[format][1:]) * 1e3
        row["layers"], row["layer_ms"] = count, inside / count
        row["whole_model_ms"] = inside / count * FULL_LAYERS + row["step_ms"] - inside
        row["bytes"], row["operations"] = step.work()
        row["fraction_of_limit"] = limit.limits().fraction(
            row["step_ms"] / 1e3, row["bytes"], row["operations"], PEAKS[format]
        )
        row["share_in_ops"] = median(step.share_in_ops() for _ in range(rounds))
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run, print and optionally write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--prefix", type=int, default=0, help="positions before the tokens whose keys are cached")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--logits", action="store_true", help="all logits instead of the choice of tokens")
    parser.add_argument("--llama-cpp", type=Path, help="folder for llama.cpp's model files, to time it as well")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    options = parser.parse_args(arguments)
    if options.llama_cpp is not None and (reason := llama_cpp.available()):
        parser.error(reason)

    models = {format: random_model(options.layers, format) for format in options.formats}
    results: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for tokens in options.tokens:
            steps = {format: Step(model, tokens, options.prefix, options.logits) for format, model in models.items()}
            with ExitStack() as stack:
                others = {}
                for format in options.formats if options.llama_cpp is not None else ():
                    path = llama_cpp.random_file(options.llama_cpp, options.layers, FORMATS[format])
                    loaded = stack.enter_context(llama_cpp.opened(path, tokens, threads))
                    others[f"llama.cpp {FORMATS[format]}"] = partial(loaded.forward, steps[format].ids[0])
                rows = measure(steps, others, options.rounds)
            for name, row in rows.items():
                results.append({"run": name, "tokens": tokens, "threads": threads, **row})
                print(line(name, tokens, threads, row, rows), flush=True)
    if options.output is not None:
        facts = {key: getattr(options, key) for key in ("layers", "prefix", "logits", "rounds")}
        report = {"machine": machine_facts(), **facts, "results": results}
        options.output.write_text(json.dumps(report, indent=2) + "\n")


def line(name: str, tokens: int, threads: int, row: dict[str, float], rows: dict[str, dict[str, float]]) -> str:
    """One result in words, medians and the step's minimum; ours beside llama.cpp's where that was timed."""
    text = f"T={tokens:<5} threads={threads} {name:<15} step {row['step_ms']:9.1f} ({row['step_min_ms']:.1f}) ms"
    if name not in FORMATS:
        return text
    layers = row["layers"]
    extrapolated = "" if layers == FULL_LAYERS else f", extrapolated from {layers} of {FULL_LAYERS} layers"
    text += (
        f"   layer {row['layer_ms']:8.2f} ms   whole model {row['whole_model_ms']:9.1f} ms{extrapolated}"
        f"   {row['fraction_of_limit']:6.1%} of the limit   in our ops {row['share_in_ops']:6.1%}"
    )
    other = rows.get(f"llama.cpp {FORMATS[name]}")
    return text if other is None else f"{text}   {row['step_ms'] / other['step_ms']:.3f} x llama.cpp's time"


if __name__ == "__main__":
    main()
