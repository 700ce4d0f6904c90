"""The published 7B geometry with random weights: write it, load it, run one forward pass; time and memory.

Every layer holds the same random numbers (timing does not depend on them), so that writing 14 GB takes seconds.
Loading and the forward pass run in a process of their own, whose peak resident memory is reported.

    python benchmarks/full_size.py                 # all 16 layers: 14 GB on disk, about 15 GB of memory
    python benchmarks/full_size.py --layers 2      # smaller machines; whole-model figures are then extrapolated
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from llada_moe_ops import LLaDAMoEConfig, LLaDAMoEModel
from llada_moe_ops.machine import processor
from safetensors.torch import save_file

FULL_LAYERS = 16
GIB = 2**30


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


def measure(folder: Path, tokens: int, repeats: int) -> dict[str, Any]:
    """Load, then time forward passes; run in a fresh process."""
    started = time.perf_counter()
    model = LLaDAMoEModel.from_pretrained(folder, progress=sys.stderr.isatty())
    load_seconds = time.perf_counter() - started
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    marks: list[float] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda *_: marks.append(time.perf_counter()))
    model.layers[-1].register_forward_hook(lambda *_: marks.append(time.perf_counter()))
    ids = torch.randint(0, 150_000, (1, tokens), generator=torch.Generator().manual_seed(1))
    passes, layers = [], []
    with torch.no_grad():
        for _ in range(repeats):
            marks.clear()
            started = time.perf_counter()
            finite = bool(model(ids).logits.isfinite().all())
            passes.append(time.perf_counter() - started)
            layers += [after - before for before, after in itertools.pairwise(marks)]
            assert finite, "logits must be finite"
    passes, layers = sorted(passes), sorted(layers)
    return {
        "layers": len(model.layers),
        "tokens": tokens,
        "threads": torch.get_num_threads(),
        "load_seconds": round(load_seconds, 2),
        "forward_ms": {"min": passes[0] * 1e3, "median": passes[len(passes) // 2] * 1e3},
        "layer_ms": {"min": layers[0] * 1e3, "median": layers[len(layers) // 2] * 1e3},
        "peak_resident_gib_after_load": round(loaded / GIB, 2),
        "peak_resident_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 2),
    }


def main() -> None:
    """Parse the command line, run, print and optionally write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=FULL_LAYERS)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written, or found (default: temporary)")
    parser.add_argument("--output", type=Path, help="also write the figures there as JSON")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.folder, options.tokens, options.repeats)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            print(f"writing {options.layers} layers to {folder} …", file=sys.stderr)
            write_checkpoint(full_config(options.layers), folder)
        command = [sys.executable, __file__, "--measure", "--folder", str(folder)]
        command += ["--tokens", str(options.tokens), "--repeats", str(options.repeats)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    figures = {"processor": processor(), "torch": torch.__version__, **figures}
    if figures["layers"] < FULL_LAYERS:
        rest = figures["forward_ms"]["median"] - figures["layers"] * figures["layer_ms"]["median"]
        figures["extrapolated_16_layers_forward_ms"] = rest + FULL_LAYERS * figures["layer_ms"]["median"]
    text = json.dumps(figures, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
