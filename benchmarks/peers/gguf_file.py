"""A llama.cpp file (GGUF) of its LLaDA-MoE architecture, written a tensor at a time: it may exceed the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llada_moe_ops import LLaDAMoEConfig
from torch import Tensor

BLOCK = 32
BLOCK_BYTES = {"bf16": 64, "q8_0": 34, "q4_0": 18}
CHUNK = 1 << 24
Source = Callable[[str, tuple[int, ...]], Tensor]
"""(tensor name in GGUF, shape) -> its values."""


def encode(values: Tensor, format: str) -> np.ndarray[Any, Any]:
    """[..., K] -> bytes [..., K / 32 · bytes a block]."""
    width = values.shape[-1] // BLOCK * BLOCK_BYTES[format]
    encoded = np.empty((values.numel() // values.shape[-1], width), np.uint8)
    rows = max(CHUNK // values.shape[-1], 1)
    for start in range(0, len(encoded), rows):
        part = values.reshape(-1, values.shape[-1])[start : start + rows]
        encoded[start : start + rows] = ENCODERS[format](part).numpy().reshape(-1, width)
    return encoded.reshape(*values.shape[:-1], width)


def _bf16(values: Tensor) -> Tensor:
    return values.bfloat16().contiguous().view(torch.uint8)


def _q8_0(values: Tensor) -> Tensor:
    """Blocks of 32: an f16 scale, then 32 int8."""
    blocks = values.float().reshape(-1, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    quantised = (blocks / scale.clamp_min(1e-30)).round_().to(torch.int8)
    return torch.cat([scale.half().view(torch.uint8), quantised.view(torch.uint8)], -1)


def _q4_0(values: Tensor) -> Tensor:
    """Blocks of 32: an f16 scale (the largest value is -8), then value n in the low and n + 16 in the high nibble."""
    blocks = values.float().reshape(-1, BLOCK)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = largest / -8
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    nibbles = (blocks * inverse + 8.5).floor_().clamp_(0, 15).to(torch.uint8)
    low, high = nibbles.chunk(2, -1)
    return torch.cat([scale.half().view(torch.uint8), low | (high << 4)], -1)


ENCODERS = {"bf16": _bf16, "q8_0": _q8_0, "q4_0": _q4_0}


def tensors(config: LLaDAMoEConfig) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Name, shape and whether it has the file's format; the rest (norms, router) is fp32, as llama.cpp converts it."""
    hidden, intermediate, experts = config.hidden_size, config.expert_intermediate_size, config.num_experts
    yield "token_embd.weight", (config.vocab_size, hidden), True
    for layer in range(config.num_hidden_layers):
        prefix = f"blk.{layer}."
        yield f"{prefix}attn_norm.weight", (hidden,), False
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"{prefix}{name}.weight", (hidden, hidden), True
        for name in ("attn_q_norm", "attn_k_norm"):
            yield f"{prefix}{name}.weight", (config.head_dim,), False
        yield f"{prefix}ffn_norm.weight", (hidden,), False
        yield f"{prefix}ffn_gate_inp.weight", (experts, hidden), False
        for name in ("ffn_gate_exps", "ffn_up_exps"):
            yield f"{prefix}{name}.weight", (experts, intermediate, hidden), True
        yield f"{prefix}ffn_down_exps.weight", (experts, hidden, intermediate), True
    yield "output_norm.weight", (hidden,), False
    yield "output.weight", (config.vocab_size, hidden), True


def write(path: Path, config: LLaDAMoEConfig, format: str, source: Source) -> None:
    """Write the file; tensors that the source gives as the same object are encoded once."""
    import gguf

    kinds = {"bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
    kind = kinds.get(format, gguf.GGMLQuantizationType.Q4_0)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLADA_MOE])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.expert_intermediate_size)
    writer.add_expert_feed_forward_length(config.expert_intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, shape, formatted in tensors(config):
        width = shape[-1] // BLOCK * BLOCK_BYTES[format] if formatted else shape[-1] * 4
        stored = kind if formatted else gguf.GGMLQuantizationType.F32
        size = int(np.prod(shape[:-1])) * width
        writer.add_tensor_info(name, (*shape[:-1], width), np.dtype(np.uint8), size, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    encoded: dict[int, np.ndarray[Any, Any]] = {}
    for name, shape, formatted in tensors(config):
        values = source(name, shape)
        if not formatted:
            writer.write_tensor_data(values.float().contiguous().view(torch.uint8).numpy())
            continue
        if id(values) not in encoded:
            encoded[id(values)] = encode(values, format)
        writer.write_tensor_data(encoded[id(values)])
    writer.close()


def random_source(initializer_range: float) -> Source:
    """Random numbers, the same for every tensor of a shape: timing does not depend on them, writing gigabytes does."""
    made: dict[tuple[int, ...], Tensor] = {}

    def source(name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            return torch.ones(shape)
        if shape not in made:
            made[shape] = torch.empty(shape, dtype=torch.bfloat16).normal_(0, initializer_range)
        return made[shape]

    return source
