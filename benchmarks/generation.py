"""A whole generation on the 7B's geometry with random weights: tokens per second, ours and llama.cpp's.

    python -m benchmarks.generation --format int4
    .venv-peers/bin/python -m benchmarks.generation --format int4 --llama-cpp files --output int4.json

A prompt of 128 tokens, 128 new ones in blocks of 32, the published fixed-count sampler with the same number of steps on
both sides. Ours runs without a cache and with the named ones; llama.cpp keeps no keys for this model, so that each of
its steps is a forward of all 256 tokens, and its encoder computes every token's logits.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from llada_moe_ops import LLaDAMoEModel, generate
from llada_moe_ops.machine import machine_facts

from .bench_step import FORMATS, random_model
from .full_size import FULL_LAYERS
from .peers import llama_cpp

PROMPT, NEW_TOKENS, BLOCK = 128, 128, 32
MASK_TOKEN = 156895


def ours(model: LLaDAMoEModel, prompt: torch.Tensor, steps: int, cache: str) -> dict[str, Any]:
    """One generation under a cache policy."""
    options: dict[str, Any] = {"gen_length": NEW_TOKENS, "block_length": BLOCK, "steps": steps}
    result = generate(model, prompt, **options, cache=cache, mask_token_id=MASK_TOKEN)
    assert not (result.completions == MASK_TOKEN).any()
    return row(f"ours, cache {cache}", result.seconds, result.forward_passes)


def theirs(path: Path, prompt: torch.Tensor, steps: int) -> dict[str, Any]:
    """The same with llama.cpp, after one forward to warm up."""
    total = PROMPT + NEW_TOKENS
    ids = torch.cat([prompt[0], torch.full((NEW_TOKENS,), MASK_TOKEN)])
    with llama_cpp.opened(path, total, torch.get_num_threads()) as loaded:
        loaded.forward(ids)
        started = time.perf_counter()
        for start in range(PROMPT, total, BLOCK):
            for step in range(steps // (NEW_TOKENS // BLOCK)):
                block = ids[start : start + BLOCK]
                logits = torch.from_numpy(loaded.forward(ids)[start : start + BLOCK])
                logits[:, MASK_TOKEN] = -torch.inf
                probability, token = logits.softmax(-1).max(-1)
                count = BLOCK * (step + 1) * NEW_TOKENS // (BLOCK * steps) - int((block != MASK_TOKEN).sum())
                surest = probability.masked_fill(block != MASK_TOKEN, -1).topk(count).indices
                block[surest] = token[surest]
        seconds = time.perf_counter() - started
    assert not (ids == MASK_TOKEN).any()
    return row("llama.cpp", seconds, steps)


def row(run: str, seconds: float, passes: int) -> dict[str, Any]:
    """One result."""
    return {"run": run, "seconds": seconds, "tokens_per_second": NEW_TOKENS / seconds, "forward_passes": passes}


def main() -> None:
    """Parse the command line, run, print and optionally write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=FORMATS, default="bf16")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--layers", type=int, default=FULL_LAYERS)
    parser.add_argument("--caches", nargs="+", default=["none", "prefix", "dual"])
    parser.add_argument("--llama-cpp", type=Path, help="folder for llama.cpp's model file, to time it as well")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    if options.llama_cpp is not None and (reason := llama_cpp.available()):
        parser.error(reason)

    prompt = torch.randint(0, 150_000, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    results = []
    if options.llama_cpp is not None:
        path = llama_cpp.random_file(options.llama_cpp, options.layers, FORMATS[options.format])
        results.append(theirs(path, prompt, options.steps))
    model = random_model(options.layers, options.format)
    model.hidden(prompt)
    results += [ours(model, prompt, options.steps, cache) for cache in options.caches]
    for result in results:
        ratio = result["tokens_per_second"] / results[0]["tokens_per_second"]
        print(
            f"{options.format:<5} {result['run']:<20} {result['seconds']:7.2f} s {result['tokens_per_second']:8.2f} "
            f"tokens/s {result['forward_passes']:4} passes {ratio:6.2f} x {results[0]['run']}"
        )
    if options.output is not None:
        facts = {"format": options.format, "steps": options.steps, "layers": options.layers}
        facts |= {"prompt": PROMPT, "new_tokens": NEW_TOKENS, "block": BLOCK, "threads": torch.get_num_threads()}
        options.output.write_text(
            json.dumps({"machine": machine_facts(), **facts, "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
