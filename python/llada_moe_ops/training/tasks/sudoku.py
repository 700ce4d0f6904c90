"""Sudoku as infilling: a partly masked grid; any valid completion of the clues is correct."""

from __future__ import annotations

from functools import cache
from random import Random

from .task import MASK, Example

Grid = tuple[tuple[int, ...], ...]

_BASE_GRIDS = 4096


class Sudoku:
    """Grids of size box_rows · box_columns, the clues left by masking cells at random.

    Training grids are random symmetries of a pool of independent grids, which is quick; held-out grids are solved
    from scratch, so that they are not even symmetric to a training grid.
    """

    longest_reply = 0

    def __init__(self, name: str, box_rows: int, box_columns: int, clues: tuple[int, int]) -> None:
        self.name = name
        self.box_rows, self.box_columns = box_rows, box_columns
        self.size = box_rows * box_columns
        self.clues = clues

    def sample(self, random: Random, *, held_out: bool) -> Example:
        """A fresh grid when held out, else a random symmetry of a grid of the pool."""
        if held_out:
            return self.example(self.random_grid(random), random)
        return self.example(self._shuffled(_pool(self)[random.randrange(_BASE_GRIDS)], random), random)

    def example(self, grid: Grid, random: Random) -> Example:
        """Mask a solved grid down to a random number of clues."""
        cells = [str(digit) for row in grid for digit in row]
        clues = random.randint(*self.clues)
        for cell in random.sample(range(len(cells)), len(cells) - clues):
            cells[cell] = MASK
        return Example(self.name, self._text(cells), self.solution_text(grid), True, self.solution_text(grid))

    def solution_text(self, grid: Grid) -> str:
        """The text of a solved grid."""
        return self._text([str(digit) for row in grid for digit in row])

    def _text(self, cells: list[str]) -> str:
        size = self.size
        return "sudoku\n" + "\n".join("".join(cells[row * size : (row + 1) * size]) for row in range(size))

    def check(self, example: Example, answer: str) -> bool:
        """Whether every row, column and box holds each digit once and every clue is kept."""
        lines = answer.split("\n")
        size = self.size
        if lines[0] != "sudoku" or len(lines) != size + 1 or any(len(line) != size for line in lines[1:]):
            return False
        clues = example.text.replace(MASK, ".")
        if len(clues) != len(answer) or any(clue not in (".", cell) for clue, cell in zip(clues, answer, strict=True)):
            return False
        rows = lines[1:]
        units = [set(row) for row in rows] + [{row[column] for row in rows} for column in range(size)]
        for top in range(0, size, self.box_rows):
            for left in range(0, size, self.box_columns):
                box = [line[left : left + self.box_columns] for line in rows[top : top + self.box_rows]]
                units.append(set("".join(box)))
        digits = {str(digit) for digit in range(1, size + 1)}
        return all(unit == digits for unit in units)

    def random_grid(self, random: Random) -> Grid:
        """A solved grid by backtracking over the cell with fewest candidates, digits in random order."""
        size = self.size
        rows, columns, boxes = [0] * size, [0] * size, [0] * size
        grid = [[0] * size for _ in range(size)]
        digits = list(range(size))

        def box_of(row: int, column: int) -> int:
            return row // self.box_rows * self.box_rows + column // self.box_columns

        def solve() -> bool:
            best: tuple[int, int, int] | None = None
            fewest = size + 1
            for row in range(size):
                for column in range(size):
                    if grid[row][column] == 0:
                        used = rows[row] | columns[column] | boxes[box_of(row, column)]
                        free = size - used.bit_count()
                        if free < fewest:
                            best, fewest = (row, column, used), free
            if best is None:
                return True
            row, column, used = best
            for digit in random.sample(digits, size):
                bit = 1 << digit
                if used & bit:
                    continue
                box = box_of(row, column)
                rows[row] |= bit
                columns[column] |= bit
                boxes[box] |= bit
                grid[row][column] = digit + 1
                if solve():
                    return True
                rows[row] ^= bit
                columns[column] ^= bit
                boxes[box] ^= bit
                grid[row][column] = 0
            return False

        solved = solve()
        assert solved
        return tuple(tuple(row) for row in grid)

    def _shuffled(self, grid: Grid, random: Random) -> Grid:
        """Relabel the digits and permute bands, stacks, and the lines within each: the result is a valid grid."""

        def lines(group: int) -> list[int]:
            groups = random.sample(range(self.size // group), self.size // group)
            return [g * group + line for g in groups for line in random.sample(range(group), group)]

        labels = [0, *random.sample(range(1, self.size + 1), self.size)]
        rows, columns = lines(self.box_rows), lines(self.box_columns)
        return tuple(tuple(labels[grid[row][column]] for column in columns) for row in rows)


@cache
def _pool(task: Sudoku) -> list[Grid]:
    random = Random(f"{task.name} grids")
    return [task.random_grid(random) for _ in range(_BASE_GRIDS)]
