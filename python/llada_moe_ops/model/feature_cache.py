"""Passes that recompute the tokens of a response which have changed most, layer by layer (dLLM-Cache, 2506.06295).

    response tokens  ── norm ── q, k, v ── cosine of v with the kept v ── the lowest ones, "chosen"
    chosen           ── attention on all kept keys and values ── o_proj ──► outputs ──► all: residual + outputs
    chosen           ── norm ── experts ──────────────────────────────────► outputs ──► all: residual + outputs

Values are kept new for every token of the pass, keys and outputs for the chosen ones. In the first layer, where values
tell only whether a token is another than before, all are chosen, as in the published code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from .key_value_cache import KeyValueCache

if TYPE_CHECKING:
    from .model import Layer, LLaDAMoEModel


class FeatureCache:
    """Keys and values of B canvases of L positions, and both halves' outputs in every layer for S response tokens each.

    Attributes:
        length: L.
        slots: S, places for the tokens of a row's response, by rising position.
    """

    def __init__(self, model: LLaDAMoEModel, batch: int, length: int, slots: int) -> None:
        self.model, self.length, self.slots = model, length, slots
        self._keys_values = KeyValueCache(model, batch, length)
        # One slot past the end takes what rows that recompute fewer tokens than others have too many.
        shape = (len(model.layers), 2, batch, slots + 1, model.config.hidden_size)
        self._outputs = torch.zeros(shape, dtype=model.dtype, device=model.device)

    @torch.inference_mode()
    def run(
        self,
        rows: Tensor | None,
        tokens: Tensor,
        positions: Tensor,
        key_range: Tensor,
        counts: Tensor | None,
        added: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states [B', S, H] of the response.

        Args:
            rows: int64 [B'], which canvases these are; None: all, whose keys and values attention then reads in place.
            tokens: int64 [B', G + S]: G given ones, which are recomputed, and the response.
            positions: int64 [B', G + S]; from L on they are padding.
            key_range: int32 [B', 2], each row's first position and the one past its last.
            counts: int64 [B'], response tokens that each layer recomputes; None: all.
            added: as for :meth:`LLaDAMoEModel.hidden`.
        """
        model = self.model
        residual, update = model.embed(tokens, added), None
        given = tokens.shape[1] - self.slots
        for index in range(len(model.layers)):
            update, residual = self._layer(
                index, update, residual, rows, positions, key_range, given, counts if index else None
            )
        return model.norm.add(update, residual)[0][:, given:]

    def _layer(
        self,
        index: int,
        update: Tensor | None,
        residual: Tensor,
        rows: Tensor | None,
        positions: Tensor,
        key_range: Tensor,
        given: int,
        counts: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """:meth:`Layer.forward`, recomputing what is chosen."""
        layer: Layer = self.model.layers[index]  # type: ignore[assignment]
        h, residual = layer.input_layernorm.add(update, residual)
        q, k, v = layer.self_attn.project(h, positions)
        chosen, key_positions = None, positions
        if counts is not None:
            chosen = self._most_changed(index, v[:, given:], rows, positions[:, given:], counts)
            kept = torch.ones(len(positions), self.slots + 1, dtype=torch.bool, device=positions.device)
            kept = kept.scatter(1, chosen, False)[:, :-1]
            response = positions[:, given:].masked_fill(kept, self.length)
            key_positions = torch.cat([positions[:, :given], response], 1)
        keys, values = self._keys_values.write(index, k, v, positions, key_positions=key_positions, rows=rows)
        q = self._take(q, chosen, given)
        attended = layer.self_attn.o_proj(ops.attention(q, keys, values, key_range=key_range).flatten(2))
        update = self._merge(index, 0, rows, attended, chosen, given)
        h, residual = layer.post_attention_layernorm.add(update, residual)
        out = layer.feed_forward(self._take(h, chosen, given))
        return self._merge(index, 1, rows, out, chosen, given), residual

    def _most_changed(self, layer: int, v: Tensor, rows: Tensor | None, positions: Tensor, counts: Tensor) -> Tensor:
        """Slots [B', most] whose values point elsewhere than the kept ones, the row's most changed first; S: none."""
        values = self._keys_values.layer(layer)[1]
        values = values if rows is None else values[rows]
        padding = positions >= self.length
        old = values[torch.arange(len(v), device=v.device)[:, None], positions.masked_fill(padding, 0)]
        # In double, where such sums do not depend on their order, so a row's choice is the same in any batch.
        new, old = v.flatten(2).double(), old.flatten(2).double()
        product = (new * old).sum(-1)
        norms = (new.square().sum(-1) * old.square().sum(-1)).sqrt()
        similarity = product / norms.clamp(min=torch.finfo(norms.dtype).tiny)
        order = similarity.masked_fill(padding, torch.inf).argsort(dim=1, stable=True)
        rank = torch.arange(int(counts.max()), device=v.device)
        return order[:, : len(rank)].masked_fill(rank >= counts[:, None], self.slots)

    def _take(self, x: Tensor, chosen: Tensor | None, given: int) -> Tensor:
        """The given tokens of x [B', G + S, ...] and the chosen ones."""
        if chosen is None:
            return x
        every = torch.arange(len(x), device=x.device)[:, None]
        response = x[:, given:][every, chosen.clamp(max=self.slots - 1)]
        return torch.cat([x[:, :given], response], 1)

    def _merge(
        self, layer: int, half: int, rows: Tensor | None, out: Tensor, chosen: Tensor | None, given: int
    ) -> Tensor:
        """Keep the outputs of the chosen tokens; those of all [B', G + S, H]."""
        stored = self._outputs[layer, half]
        every = torch.arange(len(out), device=out.device) if rows is None else rows
        if chosen is None:
            stored[every, : self.slots] = out[:, given:]
            return out
        stored[every[:, None], chosen] = out[:, given:]
        return torch.cat([out[:, :given], stored[every, : self.slots]], 1)
