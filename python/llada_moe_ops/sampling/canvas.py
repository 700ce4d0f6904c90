"""The token grid being filled, and which of its positions are to be filled.

Rows are held with their real tokens first, whatever padding the caller used: positions then start at 0 in every row,
so a row's numbers are the same bits alone, in a batch, and under any padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .trace import Widened, repeat


@dataclass
class Canvas:
    """Shapes: B rows, L columns (the longest row's real tokens, or as many as it may grow to).

    Attributes:
        tokens: int64 [B, L].
        to_fill: bool [B, L], what is still masked. A separate record: a literal mask token of the prompt is text.
        filled: bool [B, L], what was to be filled at the start.
        lengths: int64 [B], real tokens of each row.
        padding: int64 [B], columns of padding on the left in the caller's layout.
        layout: int64 [B, L'], the caller's canvas at the start.
        block_starts: int64 [blocks, B], the first position of each block.
        block_length: positions in a block; the last block may reach past a row's end.
    """

    tokens: Tensor
    to_fill: Tensor
    filled: Tensor
    lengths: Tensor
    padding: Tensor
    layout: Tensor
    block_starts: Tensor
    block_length: int

    @classmethod
    def build(
        cls,
        layout: Tensor,
        to_fill: Tensor,
        real: Tensor | None,
        first_block: Tensor,
        blocks: int,
        block_length: int,
        *,
        aligned: bool = False,
        grows: bool = False,
    ) -> Canvas:
        """From the caller's canvas [B, L'], with ``real`` bool [B, L'] (None: no padding).

        ``first_block`` int64 [B] is the column of the first block in the caller's layout. ``aligned`` cuts a row into
        blocks from its first token on, so the first one begins with the end of what stands before ``first_block``.
        ``grows`` keeps the caller's columns behind each row's real ones.
        """
        batch, columns = layout.shape
        index = torch.arange(columns, device=layout.device)
        if real is None:
            lengths, padding = layout.new_full((batch,), columns), layout.new_zeros(batch)
        else:
            lengths, padding = real.sum(1), real.int().argmax(1)
        source = (index + padding[:, None]) % max(columns, 1)
        longest = columns if grows or not batch else int(lengths.max())
        inside = index[:longest] < lengths[:, None]
        tokens = layout.gather(1, source)[:, :longest]
        filled = to_fill.gather(1, source)[:, :longest] & inside
        first = first_block - padding
        if aligned:
            blocks += int((first % block_length).any())
            first = first - first % block_length
        starts = first[None, :] + block_length * torch.arange(blocks, device=layout.device)[:, None]
        return cls(tokens, filled.clone(), filled, lengths, padding, layout.clone(), starts, block_length)

    def attention_mask(self, rows: Tensor) -> Tensor | None:
        """[rows, L] with True at real tokens; None when nothing is padded."""
        lengths = self.lengths[rows]
        columns = self.tokens.shape[1]
        if bool((lengths == columns).all()):
            return None
        return torch.arange(columns, device=lengths.device) < lengths[:, None]

    def block(self, index: int) -> Tensor:
        """The positions of a block, int64 [B, W]; those past the canvas are clamped and masked by :meth:`masked`."""
        offsets = torch.arange(self.block_length, device=self.tokens.device)
        return self.block_starts[index][:, None] + offsets

    def masked(self, positions: Tensor) -> Tensor:
        """Which positions [B, W] are still to be filled."""
        inside = positions < self.lengths[:, None]
        return self.to_fill.gather(1, positions.clamp(max=self.tokens.shape[1] - 1)) & inside

    def written(self, positions: Tensor) -> Tensor:
        """Which positions [B, W] were to be filled and are."""
        inside = positions < self.lengths[:, None]
        places = positions.clamp(max=self.tokens.shape[1] - 1)
        return (self.filled & ~self.to_fill).gather(1, places) & inside

    def commit(self, rows: Tensor, positions: Tensor, tokens: Tensor, remask: Tensor | None = None) -> None:
        """Write tokens [M] at (rows, positions) [M]; they are no longer to be filled, except where ``remask`` [M]."""
        self.tokens[rows, positions] = tokens
        self.to_fill[rows, positions] = False if remask is None else remask

    def widen(self, rows: Tensor, positions: Tensor, more: int) -> Widened:
        """Put ``more`` masks behind each of those at (rows, positions) [N], one a row; what lies behind moves on.

        Returns:
            the same in the caller's layout.
        """
        self.tokens, self.to_fill, self.filled = (
            repeat(values, rows, positions, more) for values in (self.tokens, self.to_fill, self.filled)
        )
        self.lengths = self.lengths.index_add(0, rows, torch.full_like(rows, more))
        return Widened(rows, positions + self.padding[rows], more)

    def commit_block(self, rows: Tensor, starts: Tensor, commit: Tensor, tokens: Tensor) -> None:
        """:meth:`commit` of tokens [A, W] where ``commit`` [A, W], in the blocks of ``rows`` [A] from ``starts`` [A].

        Its sizes are fixed and nothing is read on the host, so a CUDA graph can do it.
        """
        slots = torch.arange(self.tokens.shape[1], device=starts.device) - starts[:, None]
        inside = slots.clamp(0, self.block_length - 1)
        chosen = commit.gather(1, inside) & (slots == inside)
        self.tokens.index_copy_(0, rows, torch.where(chosen, tokens.gather(1, inside), self.tokens[rows]))
        self.to_fill.index_copy_(0, rows, self.to_fill[rows] & ~chosen)

    def end_rows(self, positions: Tensor, end_token: int, unfinished: Tensor) -> tuple[Tensor, Tensor]:
        """End each row whose block ``positions`` [B, W] is complete and holds ``end_token`` among what was filled.

        Everything that was to be filled after the row's first such token becomes ``end_token``. Rows that are
        ``unfinished``, bool [B], wait.

        Returns:
            rows and positions [M] of the tokens that this changed.
        """
        rows, columns = self._ending(positions, end_token, unfinished).nonzero(as_tuple=True)
        self.commit(rows, columns, torch.full_like(rows, end_token))
        return rows, columns

    def end_rows_in_place(self, positions: Tensor, end_token: int, unfinished: Tensor) -> Tensor:
        """:meth:`end_rows` in fixed sizes, for a CUDA graph; where it changed the canvas, bool [B, L]."""
        changed = self._ending(positions, end_token, unfinished)
        self.tokens.masked_fill_(changed, end_token)
        self.to_fill.masked_fill_(changed, False)
        return changed

    def _ending(self, positions: Tensor, end_token: int, unfinished: Tensor) -> Tensor:
        index = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        complete = ~(self.masked(positions).any(1) | unfinished)
        in_block = (index >= positions[:, :1]) & (index <= positions[:, -1:])
        ends = in_block & self.filled & (self.tokens == end_token) & complete[:, None]
        after = ends.int().cumsum(1).bool() & self.filled
        return after & (self.to_fill | (self.tokens != end_token))

    def aligned(self, layout: Tensor) -> Tensor:
        """A canvas in the caller's layout, int64 [B, L'], with the real tokens of each row first, [B, L]."""
        index = torch.arange(self.tokens.shape[1], device=layout.device)
        return layout.gather(1, (index + self.padding[:, None]) % layout.shape[1])

    def sequences(self) -> Tensor:
        """The canvas in the caller's layout, int64 [B, L']."""
        result = self.layout.clone()
        rows, columns = self.filled.nonzero(as_tuple=True)
        result[rows, columns + self.padding[rows]] = self.tokens[rows, columns]
        return result
