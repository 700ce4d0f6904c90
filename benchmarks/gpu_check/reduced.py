"""A small run of every op on the GPU, for compute-sanitizer: edges of tiles, empty experts, the last expert.

The references run on the CPU, so that no kernel but ours runs on the GPU; each result is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from llada_moe_ops import ops
from llada_moe_ops.ops._library import has_cuda_kernel
from torch import Tensor

from tests import cases
from tests.on_gpu import to_cpu, to_gpu

LAYERS = ((13, 2, 4, 72, 64), (33, 3, 5, 64, 40))  # (tokens, k, E, H, I)
ROPE = {"theta": 50000.0, "rotary_dim": 64, "eps": 1e-5}
Call = tuple[str, Callable[..., Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def calls() -> Iterator[Call]:
    """(op, function, reference, arguments, options), all in bfloat16."""
    dtype = torch.bfloat16

    def random(*shape: int, seed: int) -> Tensor:
        return cases.random(*shape, dtype=dtype, seed=seed)

    x, weight = random(35, 136, seed=1), random(136, seed=2)
    yield "rms_norm", ops.rms_norm, ops.rms_norm_reference, (x, weight, 1e-5), {}
    yield "add_rms_norm", ops.add_rms_norm, ops.add_rms_norm_reference, (x, x.flip(0), weight, 1e-5), {}
    q, k = random(2, 9, 4, 64, seed=3), random(2, 9, 2, 64, seed=4)
    positions = torch.arange(18).view(2, 9)
    norm = random(64, seed=5)
    yield "qk_norm_rope", ops.qk_norm_rope, ops.qk_norm_rope_reference, (q, k, norm, norm, positions), ROPE
    for rows in (1, 33, 130):
        arguments = (random(rows, 72, seed=6), random(136, 72, seed=7))
        yield "linear", ops.linear, ops.linear_reference, arguments, {}
    logits = random(35, 64, seed=8)
    yield "router_topk", ops.router_topk, ops.router_topk_reference, (logits, 8), {}
    yield "router", ops.router, ops.router_reference, (x, random(64, 136, seed=9), 8), {}
    for shape in LAYERS:
        for choice in ("random", "last", "not_mine"):
            rows, weights, experts, gate_up, down = cases.expert_layer(shape, choice, dtype)
            yield "expert_order", ops.expert_order, ops.expert_order_reference, (experts, shape[2]), {}
            order, offsets = ops.expert_order_reference(experts, shape[2])
            kept = order[: int(offsets[-1])]
            moved = ops.permute_reference(rows, kept, shape[1])
            yield "permute", ops.permute, ops.permute_reference, (rows, kept, shape[1]), {}
            yield "grouped_gemm", ops.grouped_gemm, ops.grouped_gemm_reference, (moved, gate_up, offsets), {}
            yield "grouped_swiglu", ops.grouped_swiglu, ops.grouped_swiglu_reference, (moved, gate_up, offsets), {}
            weights_of_kept = weights.masked_fill(experts == shape[2], 0.0)
            back = (torch.zeros(order.numel(), gate_up.shape[1]).to(dtype), order, weights_of_kept)
            back[0][: len(kept)] = random(len(kept), gate_up.shape[1], seed=15)
            yield "unpermute", ops.unpermute, ops.unpermute_reference, back, {}
            layer = (rows, weights, experts, gate_up, down)
            yield "moe_mlp", ops.moe_mlp, ops.moe_mlp_reference, layer, {}
            yield "moe_mlp_int8", _in_bytes(ops.moe_mlp), _in_bytes(ops.moe_mlp_reference), layer, {}
    for queries, keys in ((9, 9), (5, 70), (70, 133)):
        q, k, v = (random(2, n, h, 64, seed=s) for n, h, s in ((queries, 4, 10), (keys, 2, 11), (keys, 2, 12)))
        bounds = torch.tensor([[0, keys], [3, keys - 1]], dtype=torch.int32)
        yield "attention", ops.attention, ops.attention_reference, (q, k, v), {"key_range": bounds}
    hidden, head = random(5, 72, seed=13), random(301, 72, seed=14)
    yield "token_confidence", ops.token_confidence, ops.token_confidence_reference, (hidden, head), {}
    by_row = {"temperature": torch.tensor([0.9, 0.0, 1.4, 0.6, 1.0]), "seed": 3, "forbidden": [300], "mask_token_id": 0}
    bias = torch.arange(10).view(5, 2) * 30, random(5, 2, seed=16).float()
    for cut in ({}, {"top_k": 9, "top_p": 0.9}, {"top_p": 0.8}):
        options = {**by_row, "bias": bias, **cut}
        yield "token_confidence", ops.token_confidence, ops.token_confidence_reference, (hidden, head), options


def _in_bytes(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An expert layer on weights quantised to bytes, where they are."""

    def run(x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
        return function(x, weights, experts, ops.quantize_experts(gate_up_proj, down_proj))

    return run


def check(call: Call) -> None:
    """Run on the GPU and compare the first floating result, in the root mean square."""
    op, function, reference, arguments, options = call
    found = to_cpu(function(*map(to_gpu, arguments), **{name: to_gpu(value) for name, value in options.items()}))
    expected = reference(*arguments, **options)
    found, expected = (value if isinstance(value, tuple) else (value,) for value in (found, expected))
    for mine, other in zip(found, expected, strict=True):
        if mine.is_floating_point() and mine.numel():
            error = (mine.float() - other.float()).norm() / other.float().norm().clamp(min=1e-6)
            assert float(error) < 2e-2, f"{op}: relative error {float(error):.3g}"


def main() -> None:
    """Every call whose op has a kernel; the number of them last."""
    done = 0
    for call in calls():
        if has_cuda_kernel(call[0]):
            check(call)
            done += 1
    torch.cuda.synchronize()
    print(f"{done} calls")


if __name__ == "__main__":
    main()
