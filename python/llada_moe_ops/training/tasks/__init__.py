"""Tasks whose answers can be checked exactly and for which any-order generation shines."""

from .arithmetic import DIGITS, Arithmetic, MissingOperator
from .strings import StringTask
from .sudoku import Sudoku
from .task import HELD_OUT_ONE_IN, MASK, Example, Task, draw, is_held_out

TASKS: dict[str, Task] = {
    "sudoku6": Sudoku("sudoku6", 2, 3, clues=(10, 20)),
    "sudoku9": Sudoku("sudoku9", 3, 3, clues=(32, 45)),
    "sort": StringTask("sort"),
    "reverse": StringTask("reverse"),
    "arithmetic": Arithmetic("arithmetic"),
    "operator": MissingOperator(),
}

# What accuracies are reported on: every number of the arithmetic questions has the full number of digits.
EVALUATION_TASKS: dict[str, Task] = {**TASKS, "arithmetic": Arithmetic("arithmetic", digits=DIGITS)}

__all__ = ["EVALUATION_TASKS", "HELD_OUT_ONE_IN", "MASK", "TASKS", "Example", "Task", "draw", "is_held_out"]
