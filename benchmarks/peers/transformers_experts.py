"""transformers 5: the experts of OLMoE, which LLaDA-MoE's are, under each implementation that a CPU can run."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .peer import Peer, Run, importable


def available() -> str | None:
    """None, or why transformers' experts are missing."""
    return (
        importable("transformers.models.olmoe.modeling_olmoe")
        if not importable("transformers")
        else importable("transformers")
    )


def build(gate_up_proj: Tensor, down_proj: Tensor, format: str, *, implementation: str) -> Run:
    """The module as a model holds it, on the weights given."""
    from transformers import OlmoeConfig
    from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

    num_experts, hidden, intermediate = down_proj.shape
    config = OlmoeConfig(hidden_size=hidden, intermediate_size=intermediate, num_experts=num_experts)
    config._experts_implementation = implementation
    with torch.device("meta"):
        layer = OlmoeExperts(config)
    layer.gate_up_proj = nn.Parameter(gate_up_proj, requires_grad=False)
    layer.down_proj = nn.Parameter(down_proj, requires_grad=False)

    def run(x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        with torch.inference_mode():
            y: Tensor = layer(x, experts, weights)
        return y

    return run


# batched_mm copies the weights of every chosen expert for every token: 100 MB a token in bf16.
PEERS = (
    Peer("transformers grouped_mm", ("bf16", "fp32"), available, partial(build, implementation="grouped_mm")),
    Peer("transformers eager", ("bf16", "fp32"), available, partial(build, implementation="eager")),
    Peer("transformers batched_mm", ("bf16",), available, partial(build, implementation="batched_mm"), max_tokens=8),
)
