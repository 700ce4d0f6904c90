"""KTransformers' kernels (kt-kernel), which run a model's experts on the CPU; without AMX they use AVX-512."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .peer import Peer, Run, importable

MAX_TOKENS = 2048
CLASSES = {"bf16": "AMXBF16_MOE", "int8": "AMXInt8_MOE", "int4": "AMXInt4_MOE"}


def available() -> str | None:
    """None, or why kt-kernel is missing."""
    return importable("kt_kernel")


def _pool(threads: int) -> Any:
    from kt_kernel import kt_kernel_ext as native

    pool = native.WorkerPoolConfig()
    pool.subpool_count, pool.subpool_numa_map, pool.subpool_thread_count = 1, [0], [threads]
    return native.CPUInfer(pool)


def build(gate_up_proj: Tensor, down_proj: Tensor, format: str) -> Run:
    """A layer quantised and packed by kt-kernel, with threads of its own, as many as PyTorch has now."""
    from kt_kernel import kt_kernel_ext as native

    num_experts, hidden, intermediate = down_proj.shape
    slots = 8
    gate, up = (part.contiguous() for part in gate_up_proj.chunk(2, 1))
    down, on_gpu, identity = (
        down_proj.contiguous(),
        torch.zeros(num_experts, dtype=torch.bool),
        torch.arange(num_experts),
    )
    pool = _pool(torch.get_num_threads())
    config = native.moe.MOEConfig(num_experts, slots, hidden, intermediate, on_gpu.data_ptr())
    config.layer_idx, config.pool, config.max_len = 0, pool.backend_, MAX_TOKENS
    for name, weight in (("gate", gate), ("up", up), ("down", down)):
        setattr(config, f"{name}_proj", weight.data_ptr())
        if format == "bf16":
            setattr(config, f"{name}_projs", [[expert.data_ptr() for expert in weight]])
    layer = getattr(native.moe, CLASSES[format])(config)
    pool.submit(layer.load_weights_task(identity.data_ptr()))
    pool.sync()

    # The layer reads these by address as long as it lives.
    alive = (on_gpu, identity)

    def run(x: Tensor, weights: Tensor, experts: Tensor, _: object = alive) -> Tensor:
        y, tokens = torch.empty_like(x), torch.tensor([x.shape[0]], dtype=torch.int32)
        pointers = (tokens, experts, weights, x, y)
        count, chosen, scale, source, result = (value.data_ptr() for value in pointers)
        pool.submit(layer.forward_task(count, slots, chosen, scale, source, result, False))
        pool.sync()
        return y

    return run


PEERS = (Peer("KTransformers", tuple(CLASSES), available, build, max_tokens=MAX_TOKENS, spins=True),)
