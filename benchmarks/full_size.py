"""The published 7B geometry with random weights: write it, load it, run one forward pass; time and memory.

Every layer holds the same random numbers (timing does not depend on them), so that writing 14 GB takes seconds.
Loading and the forward passes run in a process of their own, whose resident memory is reported: anonymous, and pages of
mapped files; with --packed the size on disk stands beside it. Time to the first step counts from the start of that
process, imports included.

    python benchmarks/full_size.py                 # all 16 layers: 14 GB on disk, about 15 GB of memory
    python benchmarks/full_size.py --layers 2      # smaller machines; whole-model figures are then extrapolated
    python benchmarks/full_size.py --quantization int4 --packed     # written by llada-moe pack first, then mapped
    python benchmarks/full_size.py --device cuda   # decode steps as CUDA graphs: a block against a canvas in the cache
    python benchmarks/full_size.py --device cuda --quantization int8    # with the experts in bytes
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from llada_moe_ops import LLaDAMoEConfig, LLaDAMoEModel
from llada_moe_ops.machine import processor
from llada_moe_ops.model.captured import record_cuda_graph
from llada_moe_ops.sampling.cache import DualCache
from llada_moe_ops.sampling.canvas import Canvas
from llada_moe_ops.sampling.captured_steps import CapturedSteps
from llada_moe_ops.sampling.noise import CounterNoise
from llada_moe_ops.sampling.predictor import Predictor, PredictorOptions
from llada_moe_ops.sampling.trace import Trace
from llada_moe_ops.sampling.unmaskers import FixedUnmasker
from safetensors.torch import save_file

FULL_LAYERS = 16
CANVAS = 1024  # positions of which a decode step recomputes a block
TOUCHING = 512  # tokens that choose every expert
COMMITTED = 4  # tokens per forward at which tokens per second are stated
MEMORY = {"VmHWM": "peak", "VmRSS": "now", "RssAnon": "anonymous", "RssFile": "mapped"}


def full_config(layers: int) -> LLaDAMoEConfig:
    """The sizes of LLaDA-MoE-7B-A1B with a number of layers."""
    return LLaDAMoEConfig(
        vocab_size=157184,
        hidden_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_experts=64,
        num_experts_per_tok=8,
        expert_intermediate_size=1024,
        rope_theta=50000,
        max_position_embeddings=8192,
        eos_token_id=156892,
        mask_token_id=156895,
        torch_dtype="bfloat16",
    )


def write_checkpoint(config: LLaDAMoEConfig, folder: Path) -> None:
    """A checkpoint in the published layout, one shard per layer and one for the rest."""
    hidden, intermediate = config.hidden_size, config.expert_intermediate_size
    draws = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=draws) * config.initializer_range).bfloat16()

    layer = {f"self_attn.{name}_proj.weight": random(hidden, hidden) for name in "qkvo"}
    layer |= {f"self_attn.{name}_norm.weight": torch.ones(config.head_dim).bfloat16() for name in "qk"}
    layer |= {f"{name}_layernorm.weight": torch.ones(hidden).bfloat16() for name in ("input", "post_attention")}
    layer["mlp.gate.weight"] = random(config.num_experts, hidden)
    for expert in range(config.num_experts):
        layer[f"mlp.experts.{expert}.gate_proj.weight"] = random(intermediate, hidden)
        layer[f"mlp.experts.{expert}.up_proj.weight"] = random(intermediate, hidden)
        layer[f"mlp.experts.{expert}.down_proj.weight"] = random(hidden, intermediate)
    table = random(config.vocab_size, hidden)
    rest = {
        "model.embed_tokens.weight": table,
        "lm_head.weight": table.clone(),
        "model.norm.weight": torch.ones(hidden).bfloat16(),
    }
    shards = [
        {f"model.layers.{i}.{name}": value for name, value in layer.items()} for i in range(config.num_hidden_layers)
    ]
    weight_map = {}
    for number, shard in enumerate([*shards, rest]):
        name = f"model-{number + 1:05d}-of-{len(shards) + 1:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config.save_pretrained(folder)


def resident() -> dict[str, float]:
    """Resident memory now and at most, in GiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = {key: int(value.split()[0]) for key, value in (line.split(":", 1) for line in lines) if key in MEMORY}
    return {name: round(kib[key] / 2**20, 2) for key, name in MEMORY.items()}


def stored_gib(folder: Path) -> float:
    """Size of a checkpoint's weights on disk."""
    return round(sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**30, 2)


def random_ids(model: LLaDAMoEModel, tokens: int) -> torch.Tensor:
    """[1, T], the same each time."""
    return torch.randint(0, model.config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(1))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Load, then time steps of so many tokens; in a fresh process, which began at the time ``options.measure``."""
    before = time.perf_counter()
    model = LLaDAMoEModel.from_pretrained(
        folder, quantization=options.quantization, device=options.device, progress=sys.stderr.isatty()
    )
    load_seconds = time.perf_counter() - before
    loaded = resident()
    if options.device == "cuda":
        return {"load_seconds": round(load_seconds, 2), **measure_on_gpu(model, options.tokens, options.repeats)}
    marks: list[float] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda *_: marks.append(time.perf_counter()))
    model.layers[-1].register_forward_hook(lambda *_: marks.append(time.perf_counter()))
    steps: dict[str, Any] = {}
    first_step = 0.0
    for tokens in options.tokens:
        ids = random_ids(model, tokens)
        passes, layers = [], []
        for _ in range(options.repeats):
            marks.clear()
            before = time.perf_counter()
            with torch.no_grad():
                finite = bool(model(ids).logits.isfinite().all())
            passes.append(time.perf_counter() - before)
            first_step = first_step or time.time() - options.measure
            layers += [after - before for before, after in itertools.pairwise(marks)]
            assert finite, "logits must be finite"
        steps[str(tokens)] = {"forward_ms": milliseconds(passes), "layer_ms": milliseconds(layers)}
        missing = FULL_LAYERS - len(model.layers)
        if missing:
            medians = steps[str(tokens)]["forward_ms"]["median"], steps[str(tokens)]["layer_ms"]["median"]
            steps[str(tokens)]["extrapolated_16_layers_forward_ms"] = round(medians[0] + missing * medians[1], 2)
    # Few tokens choose few experts. After this all their pages have been read; of the embedding, those of the tokens.
    with torch.no_grad():
        model.hidden(random_ids(model, TOUCHING))
    return {
        "layers": len(model.layers),
        "quantization": model.quantization,
        "threads": torch.get_num_threads(),
        "load_seconds": round(load_seconds, 2),
        "seconds_to_first_step": round(first_step, 2),
        **({"packed_gib": stored_gib(folder)} if options.packed else {}),
        "resident_gib_after_load": loaded,
        "resident_gib_after_steps": resident(),
        "steps": steps,
    }


class DecodeStep:
    """The sampler's step on the block at the end of a canvas, whose other keys and values are kept, as a CUDA graph.

    It is everything from the canvas to the canvas. The block is filled once first, which fails where a number is not
    finite.
    """

    def __init__(self, model: LLaDAMoEModel, tokens: int) -> None:
        length, vocabulary = max(CANVAS, tokens), model.config.vocab_size
        ids = torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(1)).to(model.device)
        first = ids.new_full((1,), length - tokens)
        canvas = Canvas.build(ids, torch.arange(length, device=ids.device)[None] >= first, None, first, 1, tokens)
        mask = model.config.mask_token_id or 0
        options = PredictorOptions(0.0, 0.0, "low_confidence", mask, forbidden=[], unconfident=[])
        predictor = Predictor(model, canvas, DualCache(), CounterNoise(torch.zeros_like(first)), options)
        self._steps = CapturedSteps(predictor, FixedUnmasker(), None, False, record_cuda_graph)
        self._block, self._counts = canvas.block(0), ids.new_ones(1, tokens)
        list(self._steps.steps(Trace(canvas.layout), 0, self._block, self._counts))
        for _ in range(2):  # a block of one or two has not come to the graph
            self.prepare()
            self()

    def prepare(self) -> None:
        """Begin the block anew."""
        self._steps.begin(self._block, self._counts)

    def __call__(self) -> None:
        """Launch the graph."""
        self._steps.launch(1)


def device_seconds(call: Callable[[], Any]) -> float:
    """A GPU's time of a call, between two events."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    call()
    events[1].record()
    events[1].synchronize()
    return float(events[0].elapsed_time(events[1])) * 1e-3


def host_seconds(step: DecodeStep) -> float:
    """Python's part of a step: from the call to its return, the GPU being idle before."""
    step.prepare()
    torch.cuda.synchronize()
    before = time.perf_counter()
    step()
    taken = time.perf_counter() - before
    torch.cuda.synchronize()
    return taken


@torch.no_grad()
def measure_on_gpu(model: LLaDAMoEModel, counts: list[int], repeats: int) -> dict[str, Any]:
    """Decode steps as CUDA graphs, and the host's part of each."""
    steps: dict[str, Any] = {}
    for tokens in counts:
        step = DecodeStep(model, tokens)
        times, host = [], []
        for _ in range(repeats):
            step.prepare()
            times.append(device_seconds(step))
            host.append(host_seconds(step))
        steps[str(tokens)] = {
            "step_ms": milliseconds(times),
            "host_us": round(median(host) * 1e6, 1),
            f"tokens_per_second_at_{COMMITTED}_per_forward": round(COMMITTED / median(times), 1),
        }
    return {
        "device": torch.cuda.get_device_name(),
        "canvas": CANVAS,
        "layers": len(model.layers),
        "quantization": model.quantization,
        "gpu_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "steps": steps,
    }


def milliseconds(seconds: list[float]) -> dict[str, float]:
    return {"min": round(min(seconds) * 1e3, 2), "median": round(median(seconds) * 1e3, 2)}


def write_packed(folder: Path, target: Path, quantization: str | None) -> float:
    """Seconds that ``llada-moe pack`` takes."""
    command = [sys.executable, "-m", "llada_moe_ops.cli", "pack", str(folder), str(target)]
    command += ["--quantization", quantization] if quantization else []
    before = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def main() -> None:
    """Parse the command line, run, print and optionally write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=FULL_LAYERS)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 32, 64, 128], help="of the forward passes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quantization", choices=["int8", "int4"], help="default: bf16, as the checkpoint is")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--packed", action="store_true", help="measure the form that llada-moe pack writes")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written, or found (default: temporary)")
    parser.add_argument("--output", type=Path, help="also write the figures there as JSON")
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and (options.quantization == "int4" or options.packed):
        parser.error("--device cuda: int4 and packed weights are the CPU's; --quantization int8 is for both")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    if options.measure:
        print(json.dumps(measure(options.folder, options)))
        return
    figures: dict[str, Any] = {"processor": processor(), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            print(f"writing {options.layers} layers to {folder} …", file=sys.stderr)
            write_checkpoint(full_config(options.layers), folder)
        if options.packed:
            target = folder / f"packed-{options.quantization or 'plain'}"
            if not target.exists():
                figures["pack_seconds"] = round(write_packed(folder, target, options.quantization), 2)
            folder = target
        command = [sys.executable, __file__, "--folder", str(folder), "--repeats", str(options.repeats)]
        command += ["--device", options.device, "--tokens", *map(str, options.tokens)]
        command += ["--quantization", options.quantization] if options.quantization else []
        command += ["--packed"] if options.packed else []
        command += ["--measure", repr(time.time())]
        figures |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
