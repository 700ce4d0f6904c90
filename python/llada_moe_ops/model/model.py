"""LLaDA-MoE: embedding, layers of bidirectional attention and experts, head. Reads top to bottom.

Shapes: B batch, L length, H hidden, n query heads, D head size, E experts, k experts per token, V vocabulary.
Every product goes through :mod:`llada_moe_ops.ops`, so a row's result does not depend on the batch around it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import ops
from ..ops import Int8Experts, PackedExperts, PackedLinear
from .config import LLaDAMoEConfig
from .inputs import Place, check_inputs
from .key_value_cache import KeyValueCache
from .modules import Linear, RMSNorm, SwiGLU
from .whole_layer import Pass, attend, pick, run_experts, whole_layers


class Attention(nn.Module):
    """Bidirectional multi-head attention with per-head normalisation of queries and keys, and rotary embedding."""

    def __init__(self, config: LLaDAMoEConfig, index: int) -> None:
        super().__init__()
        self.config, self.index = config, index
        hidden, size = config.hidden_size, config.head_dim
        query_size, key_size = config.num_attention_heads * size, config.key_value_heads * size
        self.qkv_sizes = (query_size, key_size, key_size)
        # The published q_proj, k_proj and v_proj as one product: x is packed (and quantised) once.
        self.qkv_proj = Linear(hidden, sum(self.qkv_sizes), config.attention_bias)
        self.o_proj = Linear(config.num_attention_heads * size, hidden, config.attention_bias)
        self.q_norm = RMSNorm(size, config.rms_norm_eps) if config.qk_layernorm else None
        self.k_norm = RMSNorm(size, config.rms_norm_eps) if config.qk_layernorm else None

    def forward(self, x: Tensor, place: Place) -> Tensor:
        q, k, v = self.project(x, place.positions)
        if place.cache is not None:
            k, v = place.cache.write(self.index, k, v, place.positions)
        return self.o_proj(place.keys.attend(q, k, v).flatten(2))

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, W, Hq, D], keys and values [B, W, Hkv, D] of normalised x [B, W, H] at positions [B, W]."""
        config = self.config
        batch, length = x.shape[:2]
        q, k, v = (
            part.view(batch, length, size // config.head_dim, config.head_dim)
            for part, size in zip(self.qkv_proj(x).split(self.qkv_sizes, -1), self.qkv_sizes, strict=True)
        )
        q, k = ops.qk_norm_rope(
            q,
            k,
            None if self.q_norm is None else self.q_norm.weight,
            None if self.k_norm is None else self.k_norm.weight,
            positions,
            theta=config.rope_theta,
            rotary_dim=config.rotary_dim,
            eps=config.rms_norm_eps,
            clip=config.clip_qkv,
        )
        if config.clip_qkv is not None:
            v = v.clamp(-config.clip_qkv, config.clip_qkv)
        return q, k, v


class Experts(nn.Module):
    """The router and its experts: parameters gate_up_proj [E, 2I, H] and down_proj [E, H, I], or packed."""

    def __init__(self, config: LLaDAMoEConfig) -> None:
        super().__init__()
        self.config = config
        experts, hidden, intermediate = config.num_experts, config.hidden_size, config.expert_intermediate_size
        self.gate = nn.Parameter(torch.empty(experts, hidden))
        self.expert_bias = nn.Parameter(torch.empty(experts)) if config.moe_router_enable_expert_bias else None
        self.gate_up_proj: nn.Parameter | None = nn.Parameter(torch.empty(experts, 2 * intermediate, hidden))
        self.down_proj: nn.Parameter | None = nn.Parameter(torch.empty(experts, hidden, intermediate))
        self.packed: PackedExperts | Int8Experts | None = None

    def forward(self, x: Tensor, router_logits: list[Tensor] | None = None) -> Tensor:
        rows = x.flatten(0, 1)
        weights, experts = self._route(rows, router_logits)
        if self.packed is not None:
            out = ops.moe_mlp(rows, weights, experts, self.packed)
        else:
            assert self.gate_up_proj is not None
            assert self.down_proj is not None
            out = ops.moe_mlp(rows, weights, experts, self.gate_up_proj, self.down_proj)
        return out.view_as(x)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and experts [T, k] from router logits [T, E]."""
        return ops.router_topk(logits, self.config.num_experts_per_tok, **self.options)

    def _route(self, rows: Tensor, router_logits: list[Tensor] | None) -> tuple[Tensor, Tensor]:
        if router_logits is None:
            weights, experts = ops.router(rows, self.gate, self.config.num_experts_per_tok, **self.options)
        else:
            router_logits.append(ops.linear(rows, self.gate))
            weights, experts = self.choose(router_logits[-1])
        return weights.to(rows.dtype), experts

    @property
    def options(self) -> dict[str, Any]:
        """What the router is told besides k."""
        config = self.config
        return {
            "bias": self.expert_bias,
            "renormalize": bool(config.norm_topk_prob),
            "scale": config.routed_scaling_factor or 1.0,
        }

    def pack(self) -> None:
        """Replace the experts' parameters by their packed form."""
        if self.packed is None:
            assert self.gate_up_proj is not None
            assert self.down_proj is not None
            self.set_packed(ops.pack_experts(self.gate_up_proj.detach(), self.down_proj.detach()))

    def set_packed(self, packed: PackedExperts | Int8Experts) -> None:
        """Hold the experts in packed form."""
        self.gate_up_proj = self.down_proj = None
        self.packed = packed

    def plain_weights(self) -> tuple[Tensor, Tensor]:
        """gate_up_proj [E, 2I, H] and down_proj [E, H, I], unpacked where packed."""
        if self.packed is not None:
            return self.packed.unpack()
        assert self.gate_up_proj is not None
        assert self.down_proj is not None
        return self.gate_up_proj.detach(), self.down_proj.detach()


class Layer(nn.Module):
    """One residual layer: attention, then experts (or a dense SwiGLU), plus the shared expert where there is one."""

    def __init__(self, config: LLaDAMoEConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: Experts | SwiGLU
        self.shared_expert: SwiGLU | None = None
        if config.is_expert_layer(index):
            self.mlp = Experts(config)
            if config.shared_expert_intermediate_size is not None:
                self.shared_expert = SwiGLU(config.hidden_size, config.shared_expert_intermediate_size)
        else:
            assert config.dense_intermediate_size is not None
            self.mlp = SwiGLU(config.hidden_size, config.dense_intermediate_size)

    def forward(
        self,
        update: Tensor | None,
        residual: Tensor,
        place: Place,
        shared: Pass | None,
        router_logits: list[Tensor] | None,
        wanted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(what this layer adds to the residual stream, the stream before that); the next norm sums them, in one pass.

        ``update`` and ``residual`` are the same of the layer before; the first has no update. Where only some of the
        positions are ``wanted``, as for :meth:`LLaDAMoEModel.hidden`, both are [1, R, H] of these.
        """
        whole = attend(self, Attention, update, residual, shared)
        if whole is None:
            h, residual = self.input_layernorm.add(update, residual)
            whole = self.self_attn(h, place), residual
        update, residual = whole if wanted is None else pick(*whole, wanted)
        whole = None if router_logits is not None else run_experts(self, Experts, update, residual, shared)
        if whole is not None:
            return whole
        h, residual = self.post_attention_layernorm.add(update, residual)
        return self.feed_forward(h, router_logits), residual

    def feed_forward(self, h: Tensor, router_logits: list[Tensor] | None = None) -> Tensor:
        """What experts, or a dense layer, make of normalised h [B, L, H]."""
        out: Tensor = self.mlp(h, router_logits)
        return out if self.shared_expert is None else out + self.shared_expert(h)


@dataclass
class ModelOutput:
    """What a forward pass returns: ``logits`` [B, L, V] in the model's dtype."""

    logits: Tensor


class LLaDAMoEModel(nn.Module):
    """LLaDA-MoE (arXiv 2509.24389): predicts the token under every mask at once, attending in both directions.

    Built from a configuration the weights are trainable parameters; :meth:`from_pretrained` packs them for inference.
    """

    def __init__(self, config: LLaDAMoEConfig) -> None:
        super().__init__()
        self.config = config
        self.quantization: str | None = None
        self._columns: tuple[tuple[int, torch.dtype], Tensor | PackedLinear] | None = None
        self.embed_tokens = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head_projection = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        quantization: str | None = None,
        pack: bool = True,
        progress: bool = False,
    ) -> LLaDAMoEModel:
        """Load a checkpoint in the published format from a folder or a hub id, or map one that was packed.

        Args:
            path_or_id: folder with ``config.json`` and ``*.safetensors``, or a hub id such as ``owner/name``.
            dtype: torch.float32 or torch.bfloat16; None takes the checkpoint's own, the only one of a packed one. With
                a quantization on a GPU torch.bfloat16, whatever the checkpoint's.
            device: where the model runs: "cpu", "cuda" or "cuda:1".
            quantization: "int8" or "int4" weights of the experts (the other projections and the head are int8 under
                either), with activations quantised row by row; None keeps ``dtype``, or what a packed checkpoint has.
                On a GPU "int8" alone, which holds the experts in bytes and all else, activations too, in ``dtype``.
            pack: for inference: weights are packed as they are read (on a GPU they stay as they are); False keeps
                trainable parameters.
            progress: show a progress bar on standard error.

        Raises:
            CheckpointError: a file is missing or damaged, or a tensor is missing, unexpected or of the wrong shape.
            ValueError: an unsupported configuration, dtype, device or quantization.
        """
        from .checkpoint import load_pretrained

        return load_pretrained(
            path_or_id, dtype=dtype, device=device, quantization=quantization, pack=pack, progress=progress
        )

    def save_pretrained(self, folder: str | os.PathLike[str], *, max_shard_bytes: int = 5 * 10**9) -> None:
        """Write ``config.json`` and safetensors in the published layout (one file, or shards with an index).

        Each file is written aside and renamed, so that an older checkpoint in ``folder`` survives a failure.

        Raises:
            OSError: the folder cannot be written.
            ValueError: the model is quantised.
        """
        from .checkpoint import save_pretrained

        save_pretrained(self, folder, max_shard_bytes=max_shard_bytes)

    def save_packed(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and the packed weights as they are held, for :meth:`from_pretrained` to map.

        Raises:
            OSError: the folder cannot be written.
            ValueError: the model is not packed, or ``folder`` holds a checkpoint in the published format.
        """
        from .packed import save_packed

        save_packed(self, folder)

    @property
    def lm_head(self) -> Tensor | PackedLinear:
        """The head's weight [V, H] as the ops take it; the embedding when the two are tied."""
        return self.embed_tokens if self.head_projection is None else self.head_projection.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return self.embed_tokens.dtype

    def pack(self) -> LLaDAMoEModel:
        """Pack every projection and expert for inference; the model can no longer be trained. Returns self.

        Packed weights are what the CPU's kernels read: on a GPU they stay as they are.
        """
        for module in self._packable() if self.device.type == "cpu" else ():
            module.pack()
        return self.requires_grad_(False)

    def _packable(self) -> Iterator[Linear | Experts]:
        return (module for module in list(self.modules()) if isinstance(module, (Linear, Experts)))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> LLaDAMoEModel:
        """Fill the weights for training: normal with ``initializer_range``, norms one, biases zero. Returns self."""
        for name, parameter in self.named_parameters():
            if name.endswith(("norm.weight", "layernorm.weight")):
                parameter.fill_(1.0)
            elif parameter.dim() == 1:
                parameter.zero_()
            else:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)
        return self

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
        *,
        block_size: int | None = None,
        added: Tensor | None = None,
        router_logits: list[Tensor] | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """The final hidden states [B, W, H], normalised, before the head; [R, H] of those that are wanted.

        Args:
            input_ids: int64 [B, W], each below the vocabulary's size.
            attention_mask: [B, L], 1 at real tokens; padded tokens are attended to by nobody. None: all are real. L is
                W, or with a cache the cache's length.
            positions: int64 [B, W]; None means 0 … W−1 in every row. Left padding needs no shift: rotary embedding
                is relative. With a cache also the places in it; positions from L on are padding.
            cache: keys and values of the whole canvas; those of ``input_ids`` are written to it, then all L are
                attended to. None: ``input_ids`` is the whole canvas.
            block_size: for models trained block-causally: a position attends to its own block of so many positions,
                counted from 0, and to earlier ones. With a cache, ``input_ids`` are whole blocks, a run of them in each
                row, or without positions the first W of the canvas; None attends to everything.
            added: float32 [B, W, H], added to the tokens' embeddings before these are rounded to the model's dtype.
            router_logits: a list that receives each expert layer's router logits [B·W, E] (for training losses).
            wanted: int64 [R], in 0 … B·W − 1: of which positions, counted row by row, hidden states are returned. The
                last layer's experts run for these alone; their bits are the same.

        Raises:
            TypeError, ValueError: an argument of the wrong type, dtype, shape or range; the message names it.
        """
        check_inputs(self.config, input_ids, attention_mask, positions, cache, block_size, added, wanted)
        place = Place.build(input_ids, attention_mask, positions, cache, block_size)
        return self.run(input_ids, place, router_logits, added, wanted)

    def run(
        self,
        input_ids: Tensor,
        place: Place,
        router_logits: list[Tensor] | None = None,
        added: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """:meth:`hidden` of checked inputs: no value is read on the host, so a GPU need not be waited for."""
        residual = self.embed(input_ids, added)
        update = None
        shared = Pass.of(self.config, residual, place)
        wholes = whole_layers(self.layers, (Layer, Attention, Experts), shared)
        for index, (layer, whole) in enumerate(zip(self.layers, wholes, strict=True), 1):
            picked = wanted if index == len(wholes) else None
            if whole is None or router_logits is not None:
                update, residual = layer(update, residual, place, shared, router_logits, picked)
            else:
                update, residual = whole(update, residual, picked)
        hidden = self.norm.add(update, residual)[0]
        return hidden if wanted is None else hidden[0]

    def embed(self, input_ids: Tensor, added: Tensor | None = None) -> Tensor:
        """Embeddings [B, W, H] of tokens [B, W], with ``added`` as for :meth:`hidden`."""
        embedded = functional.embedding(input_ids, self.embed_tokens)
        return embedded if added is None else (embedded + added).to(embedded.dtype)

    @torch.no_grad()
    def expected_embedding(self, probabilities: Tensor) -> Tensor:
        """Σ p_v · embedding of v, [R, H], of probabilities [R, V] in the model's dtype; a row's bits are its own.

        The product needs the embedding by columns: a copy of it, kept from the first call on unless it is trained.
        """
        embedding = self.embed_tokens
        held = self._columns
        if held is None or held[0] != (embedding.data_ptr(), embedding.dtype) or embedding.requires_grad:
            columns = embedding.detach().T.contiguous()
            held = (embedding.data_ptr(), embedding.dtype), columns if columns.is_cuda else ops.pack_linear(columns)
            self._columns = held
        return ops.linear(probabilities, held[1])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> ModelOutput:
        """Logits for every position; arguments and errors as :meth:`hidden`."""
        return ModelOutput(logits=self.head(self.hidden(input_ids, attention_mask, positions, cache)))

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of final hidden states [..., H]."""
        return ops.linear(hidden, self.lm_head)
