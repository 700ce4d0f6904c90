"""What ends a row before everything in it is filled: end-of-text, and sequences that the request names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import Canvas


@dataclass(frozen=True)
class StopSequences:
    """Sequences of tokens, and strings in the text of the tokens, of which the first to be complete ends a row.

    Attributes:
        tokens: sequences of ids, none empty.
        strings: none empty; they may begin and end within a token.
        decode: the text of ids; needed for strings.
    """

    tokens: Sequence[Sequence[int]] = ()
    strings: Sequence[str] = ()
    decode: Callable[[list[int]], str] | None = None

    def end(self, ids: list[int]) -> int | None:
        """How many of ``ids`` there are up to the end of the first stop in them; None where there is none."""
        ends = [end for sequence in self.tokens if (end := _end(ids, list(sequence))) is not None]
        if self.strings and self._has_string(ids):
            ends.append(bisect_left(range(len(ids)), True, key=lambda count: self._has_string(ids[:count])))
        return min(ends, default=None)

    def _has_string(self, ids: list[int]) -> bool:
        assert self.decode is not None
        text = self.decode(ids)
        return any(string in text for string in self.strings)


def _end(ids: list[int], sequence: list[int]) -> int | None:
    ends = range(len(sequence), len(ids) + 1)
    return next((end for end in ends if ids[end - len(sequence) : end] == sequence), None)


@dataclass(frozen=True)
class Stopping:
    """What ends each row.

    Attributes:
        end_token: end-of-text, which fills a row after its end.
        at_end_token: bool [B], the rows that end at an end-of-text.
        sequences: one per row, None for a row without; empty when no row has any.
    """

    end_token: int
    at_end_token: Tensor
    sequences: Sequence[StopSequences | None] = ()

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can do it: sequences are looked for on the host."""
        return not any(self.sequences)

    def end_rows(self, canvas: Canvas, active: Tensor, positions: Tensor, unfinished: Tensor) -> tuple[Tensor, Tensor]:
        """End rows whose block is finished and that hold what ends them; what was to be filled after it is end-of-text.

        Args:
            active: int64 [A], the rows that took part in the step.
            positions: int64 [B, W], the block.
            unfinished: bool [B], the rows that are not done with it.

        Returns:
            rows and positions [M] of the tokens that this changed.
        """
        rows, columns = canvas.end_rows(positions, self.end_token, unfinished | ~self.at_end_token)
        changed = [(rows, columns)]
        for row in active.tolist() if any(self.sequences) else ():
            sequences = self.sequences[row]
            if sequences is None or bool(unfinished[row] | canvas.masked(positions)[row].any()):
                continue
            (places,) = canvas.filled[row].nonzero(as_tuple=True)
            done = places[places <= positions[row, -1]]
            reply, reason = self.reply(row, canvas.tokens[row, done].tolist())
            if reason == "stop":
                columns = places[len(reply) :]
                columns = columns[canvas.to_fill[row, columns] | (canvas.tokens[row, columns] != self.end_token)]
                rows = torch.full_like(columns, row)
                canvas.commit(rows, columns, torch.full_like(columns, self.end_token))
                changed.append((rows, columns))
        rows, columns = map(torch.cat, zip(*changed, strict=True))
        return rows, columns

    def reply(self, row: int, ids: list[int]) -> tuple[list[int], str]:
        """Of what a row has been filled with, the tokens up to its end; and whether that is "end", "stop" or "length".

        A stop belongs to the reply, end-of-text does not.
        """
        before = ids[: ids.index(self.end_token)] if bool(self.at_end_token[row]) and self.end_token in ids else ids
        sequences = self.sequences[row] if self.sequences else None
        end = None if sequences is None else sequences.end(before)
        return before[:end], "stop" if end is not None else "end" if len(before) < len(ids) else "length"
