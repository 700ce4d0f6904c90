"""Decode steps of the whole 7B model with random weights: a block of 64 and of 32 as one CUDA graph."""

from __future__ import annotations

import torch
from llada_moe_ops import LLaDAMoEModel

from ..full_size import FULL_LAYERS, DecodeStep, full_config
from .case import OURS
from .roofs import Roofs, figures
from .stage import Findings
from .timing import Clock, Times

BLOCKS = (64, 32)
REPLAYS = 30


def random_model(layers: int = FULL_LAYERS, device: str = "cuda") -> LLaDAMoEModel:
    """The 7B geometry, made on the device."""
    with torch.device("meta"):
        model = LLaDAMoEModel(full_config(layers)).bfloat16()
    return model.to_empty(device=device).initialize().requires_grad_(False).eval()


def measure_steps(findings: Findings, clock: Clock, roofs: Roofs | None) -> None:
    """A figure for each block; what breaks is said and leaves the rest of the stage be."""
    try:
        model = random_model()
        # Each step reads every weight but the embedding's, of which it reads a row for each token.
        weights = sum(value.nbytes for value in model.parameters()) - model.embed_tokens.nbytes
        for tokens in BLOCKS:
            with torch.no_grad():
                step, taken = DecodeStep(model, tokens), []
                for _ in range(REPLAYS):
                    step.prepare()
                    taken.append(clock.seconds(step))
            taken.sort()
            times = Times(taken[0], taken[len(taken) // 2], "graph")
            case = f"block of {tokens}, {len(model.layers)} layers"
            values = figures(times, bytes_moved=float(weights), roofs=roofs)
            findings.figure(group="decode step", case=case, run=OURS, **values)
    except Exception as error:
        findings.fail(f"decode step: {type(error).__name__}: {error}".splitlines()[0][:300])
