"""A whole training run: workers, trainer, checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from .export import export_checkpoint
from .trainer import TrainConfig, Trainer
from .workers import Workers, run_workers


def train(config: TrainConfig, folder: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Train a recipe in a folder and write the checkpoint there, in the published format with its tokenizer.

    Args:
        config: the recipe.
        folder: holds the state, the log and the result; an interrupted run in it is resumed exactly.
        progress: show a progress bar with loss and tokens/s on standard error.

    Returns:
        the folder of the checkpoint.

    Raises:
        CheckpointError: the folder's state does not fit the recipe.
        OSError: the folder cannot be written.
    """
    run_workers(config.workers, _train, config, os.fspath(folder), progress)
    return Path(folder)


def _train(workers: Workers, config: TrainConfig, folder: str, progress: bool) -> None:
    trainer = Trainer(config, folder, workers)
    model = trainer.run(progress=progress)
    if workers.is_first:
        export_checkpoint(model, trainer.tokenizer, folder)
