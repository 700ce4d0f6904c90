"""Keys and values kept between forward passes, so that a pass recomputes only some positions of a canvas."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .model import LLaDAMoEModel


class KeyValueCache:
    """Keys and values of every layer for B rows of L positions, in one buffer that attention reads in place.

    A forward pass with this cache writes the keys and values of its tokens at their positions, then attends to all L:
    the first pass must give every position, later ones those that are to be recomputed. The result is exact only where
    nothing else has changed since: attention is bidirectional.

    Attributes:
        length: L.
    """

    def __init__(self, model: LLaDAMoEModel, batch: int, length: int) -> None:
        config = model.config
        # One position past the end takes what is written outside the canvas; nobody reads it.
        shape = (config.num_hidden_layers, 2, batch, length + 1, config.key_value_heads, config.head_dim)
        self.length = length
        self._hold(torch.zeros(shape, dtype=model.dtype, device=model.device))

    def _hold(self, buffer: Tensor) -> None:
        self._buffer = buffer
        self._layers = buffer[:, :, :, : self.length].unbind()

    @property
    def batch(self) -> int:
        """B."""
        return self._buffer.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._buffer.nbytes

    def select(self, rows: Tensor) -> KeyValueCache:
        """A copy of ``rows`` int64 [B'], in that order."""
        chosen = copy(self)
        chosen._hold(self._buffer[:, :, rows])
        return chosen

    def put(self, rows: Tensor, values: KeyValueCache) -> None:
        """Replace ``rows`` int64 [B'] by those of ``values``."""
        self._buffer[:, :, rows] = values._buffer

    def layer(self, index: int) -> Tensor:
        """The keys and values of a layer, [2, B, L, Hkv, D], in place."""
        return self._layers[index]

    def write(
        self,
        layer: int,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        *,
        key_positions: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Store k and v [B, W, Hkv, D] at ``positions`` [B, W]; returns all keys and values of a layer, [B, L, Hkv, D].

        Positions from L on lie outside the canvas: what is written there is never read. ``key_positions`` are those of
        k where they differ. With ``rows`` int64 [B'] all this is of these rows, and what is returned a copy.
        """
        every = torch.arange(self.batch, device=positions.device) if rows is None else rows
        places = (positions if key_positions is None else key_positions, positions)
        for stored, new, at in zip(self._buffer[layer], (k, v), places, strict=True):
            stored[every[:, None], at.clamp(max=self.length)] = new
        keys, values = self._layers[layer]
        return (keys, values) if rows is None else (keys[rows], values[rows])
