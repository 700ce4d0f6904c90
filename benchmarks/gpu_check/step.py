"""Decode steps of the whole 7B model with random weights, a block of 64 and of 32, as one CUDA graph each: experts in
bf16 and in bytes."""

from __future__ import annotations

from statistics import median

import torch
from llada_moe_ops import LLaDAMoEModel, ops
from llada_moe_ops.model.model import Experts

from ..full_size import COMMITTED, FULL_LAYERS, DecodeStep, full_config, host_seconds
from .case import OURS
from .roofs import Roofs, figures
from .stage import Findings
from .timing import Clock, Times

GROUP = "decode step"
BLOCKS = (64, 32)
REPLAYS = 30


def random_model(layers: int = FULL_LAYERS, device: str = "cuda") -> LLaDAMoEModel:
    """The 7B geometry, made on the device."""
    with torch.device("meta"):
        model = LLaDAMoEModel(full_config(layers)).bfloat16()
    return model.to_empty(device=device).initialize().requires_grad_(False).eval()


def hold_in_bytes(model: LLaDAMoEModel) -> None:
    """The experts as ``from_pretrained(quantization="int8")`` holds them, layer after layer."""
    for layer in model.layers:
        if isinstance(layer.mlp, Experts):
            layer.mlp.set_packed(ops.quantize_experts(*layer.mlp.plain_weights()))
    model.quantization = "int8"


def bytes_read(model: LLaDAMoEModel) -> int:
    """Each step reads every weight but the embedding's, of which it reads a row for each token."""
    packed = (layer.mlp.packed for layer in model.layers if isinstance(layer.mlp, Experts))
    plain = sum(value.nbytes for value in model.parameters()) - model.embed_tokens.nbytes
    return plain + sum(experts.nbytes for experts in packed if isinstance(experts, ops.Int8Experts))


def case_name(tokens: int, layers: int, quantization: str | None) -> str:
    """As it stands in the table."""
    return f"block of {tokens}, {layers} layers" + (f", {quantization} experts" if quantization else "")


def measure_steps(findings: Findings, clock: Clock, roofs: Roofs | None) -> None:
    """A figure for each block and format; what breaks is said and leaves the rest of the stage be."""
    try:
        model = random_model()
        for tokens in BLOCKS:
            measure_block(findings, clock, roofs, model, tokens)
        hold_in_bytes(model)
        for tokens in BLOCKS:
            measure_block(findings, clock, roofs, model, tokens)
    except Exception as error:
        findings.fail(f"{GROUP}: {type(error).__name__}: {error}".splitlines()[0][:300])


@torch.no_grad()
def measure_block(findings: Findings, clock: Clock, roofs: Roofs | None, model: LLaDAMoEModel, tokens: int) -> None:
    """Time the graph of a step, and Python's part of it."""
    step, taken = DecodeStep(model, tokens), []
    for _ in range(REPLAYS):
        step.prepare()
        taken.append(clock.seconds(step))
    host = median(host_seconds(step) for _ in range(REPLAYS)) * 1e6
    times = Times(min(taken), median(taken), f"graph, Python {host:.0f} µs")
    findings.figure(
        group=GROUP,
        case=case_name(tokens, len(model.layers), model.quantization),
        run=OURS,
        **figures(times, bytes_moved=float(bytes_read(model)), roofs=roofs),
        python_us=round(host, 1),
        **{f"tokens_per_s_at_{COMMITTED}_per_forward": round(COMMITTED / times.median, 1)},
        memory_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2),
    )
