"""The training log: a CSV with one row per step, and the plot of its losses."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ..files import write_aside

LOG_FILE = "training.csv"
PLOT_FILE = "loss.png"
_SMOOTHING = 50


class TrainingLog:
    """Rows are appended as they come; columns are fixed by the tasks there are."""

    def __init__(self, folder: Path) -> None:
        from .tasks import TASKS

        self.path = folder / LOG_FILE
        self.plot_path = folder / PLOT_FILE
        self.columns = ["step", "tokens", "seconds", "learning_rate", "gradient_norm", "loss"]
        self.columns += [f"loss_{name}" for name in TASKS]

    def truncate(self, step: int) -> None:
        """Drop rows past a step: those a killed run wrote after its last saved state."""
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        with write_aside(self.path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add one step's row."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def rows(self) -> list[dict[str, str]]:
        """All complete rows."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if None not in row.values()]

    def plot(self) -> None:
        """Draw the losses, each smoothed over a few steps; without matplotlib (the ``train`` extra) do nothing."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return
        rows = self.rows()
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for column in self.columns[5:]:
            points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
            chunks = [points[first : first + _SMOOTHING] for first in range(0, len(points), _SMOOTHING)]
            axes.plot(
                [chunk[-1][0] for chunk in chunks],
                [sum(value for _, value in chunk) / len(chunk) for chunk in chunks],
                label=column.replace("loss_", ""),
                linewidth=2.0 if column == "loss" else 1.0,
            )
        axes.set(xlabel="step", ylabel="loss", yscale="log")
        axes.legend(ncols=2)
        with write_aside(self.plot_path) as aside:
            figure.savefig(aside, format="png", dpi=120)
