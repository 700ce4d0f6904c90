"""A decode step of the 7B geometry (random weights) under each cache policy, against the whole forward.

    python -m benchmarks.bench_cached_step --format int4               # 16 layers
    python -m benchmarks.bench_cached_step --format bf16 --layers 4

A prompt of 128 tokens and 128 new ones in blocks of 32; a step is the forward pass and the choice of a token at each of
the block's positions. Policies take turns. "cached" is the step that a policy is made for, the mean over the blocks;
"32 steps" is what a whole generation takes, 8 a block, with the steps that recompute more.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from llada_moe_ops import LLaDAMoEModel, ops
from llada_moe_ops.machine import machine_facts
from llada_moe_ops.sampling.cache import build_cache
from llada_moe_ops.sampling.canvas import Canvas
from llada_moe_ops.sampling.forward import Canvases
from llada_moe_ops.sampling.passes import build_forward
from torch import Tensor

from .bench_step import FORMATS, random_model
from .full_size import FULL_LAYERS
from .generation import BLOCK, MASK_TOKEN, NEW_TOKENS, PROMPT

BLOCKS = range(NEW_TOKENS // BLOCK)
AFTER_EACH_REFRESH = [(0, 0, "whole"), *((block, 4, "cached") for block in BLOCKS)]
# The steps to time of each policy, as (block, index, kind), and how often each kind comes in 32 steps, 8 a block.
POLICIES: dict[str, tuple[list[tuple[int, int, str]], dict[str, int]]] = {
    "none": ([(block, 0, "whole") for block in BLOCKS], {"whole": 32}),
    "prefix": (AFTER_EACH_REFRESH, {"whole": 4, "cached": 28}),
    "dual": (AFTER_EACH_REFRESH, {"whole": 4, "cached": 28}),
    "vicinity": (AFTER_EACH_REFRESH, {"whole": 16, "cached": 16}),
    "interval": (
        [(0, index, "cached" if index % 7 else "response" if index else "whole") for index in range(8)],
        {"whole": 1, "response": 4, "cached": 27},
    ),
    "block_causal": (
        [
            (block, index, "cached" if index else "two blocks" if block else "prompt")
            for block in BLOCKS
            for index in (0, 1)
        ],
        {"prompt": 1, "two blocks": 3, "cached": 28},
    ),
}


class Steps:
    """The steps of one generation under a policy, at any of which half of the block is filled.

    What is filled are random tokens, so that they go to experts of their own; masks share theirs.
    """

    def __init__(self, model: LLaDAMoEModel, policy: str) -> None:
        self.tokens = torch.randint(0, 150_000, (1, PROMPT + NEW_TOKENS), generator=torch.Generator().manual_seed(0))
        to_fill = torch.arange(PROMPT + NEW_TOKENS)[None] >= PROMPT
        self.model = model
        self.canvas = Canvas.build(self.tokens, to_fill, None, torch.tensor([PROMPT]), len(BLOCKS), BLOCK)
        self.passes = build_forward(model, build_cache(policy), self.canvas, 1)

    def at(self, block: int) -> Tensor:
        """The tokens in the middle of a block, [1, 256]."""
        start, tokens = PROMPT + block * BLOCK, self.tokens.clone()
        tokens[:, start : start + BLOCK : 2] = tokens[:, start + BLOCK :] = MASK_TOKEN
        return tokens

    def hidden(self, block: int, index: int) -> Tensor:
        """Hidden states of the block, [32, H]."""
        canvas, positions = self.canvas, self.canvas.block(block)
        row, slot = torch.zeros(BLOCK, dtype=torch.int64), torch.arange(BLOCK)
        canvases = Canvases(row[:1], self.at(block), None, canvas.filled, positions, canvas.lengths, index, None)
        return self.passes(canvases, row, positions[row, slot])

    def seconds(self, block: int, index: int) -> float:
        """Of one step."""
        started = time.perf_counter()
        ops.token_confidence(self.hidden(block, index), self.model.lm_head)
        return time.perf_counter() - started


def check(model: LLaDAMoEModel) -> None:
    """What must be exact is, bit for bit."""
    whole, exact = Steps(model, "interval:prompt_interval=1,share=1"), Steps(model, "none").hidden(1, 0)
    assert torch.equal(whole.hidden(1, 0), exact)
    assert torch.equal(whole.hidden(1, 1), exact)
    causal = Steps(model, "block_causal")
    expected = model.hidden(causal.at(1)[:, : PROMPT + 2 * BLOCK], block_size=BLOCK)[0, -BLOCK:]
    assert torch.equal(causal.hidden(1, 0), expected)
    assert torch.equal(causal.hidden(1, 1), expected)


def measure(model: LLaDAMoEModel, policies: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """One result for each policy, milliseconds."""
    seconds: dict[str, dict[str, list[float]]] = {policy: defaultdict(list) for policy in policies}
    for _ in range(rounds):
        for policy in policies:
            by_kind, steps = defaultdict(list), Steps(model, policy)
            for block, index, kind in POLICIES[policy][0]:
                by_kind[kind].append(steps.seconds(block, index))
            for kind, times in by_kind.items():
                seconds[policy][kind].append(mean(times))
    whole = median(seconds["none"]["whole"]) * 1e3
    results = []
    for policy in policies:
        kinds = {kind: median(times) * 1e3 for kind, times in seconds[policy].items()}
        step = kinds.get("cached", kinds.get("whole", 0.0))
        total = sum(count * kinds[kind] for kind, count in POLICIES[policy][1].items())
        results.append(
            {
                "cache": policy,
                "step_ms": step,
                "times_faster": whole / step,
                "kinds_ms": kinds,
                "32_steps_ms": total,
                "32_steps_times_faster": 32 * whole / total,
            }
        )
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run, print and optionally write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=FORMATS, default="int4")
    parser.add_argument("--layers", type=int, default=FULL_LAYERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    options = parser.parse_args(arguments)
    model = random_model(options.layers, options.format)
    check(model)
    results = measure(model, list(POLICIES), options.rounds)
    for row in results:
        others = ", ".join(f"{kind} {ms:.0f}" for kind, ms in row["kinds_ms"].items() if ms != row["step_ms"])
        print(
            f"{options.format:<5} {row['cache']:<13} step {row['step_ms']:8.1f} ms {row['times_faster']:6.2f} x"
            f"   32 steps {row['32_steps_ms']:9.0f} ms {row['32_steps_times_faster']:6.2f} x   {others}"
        )
    if options.output is not None:
        facts = {"format": options.format, "layers": options.layers, "rounds": options.rounds}
        facts |= {"prompt": PROMPT, "new_tokens": NEW_TOKENS, "block": BLOCK, "threads": torch.get_num_threads()}
        report = {"machine": machine_facts(), **facts, "results": results}
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
