"""``python -m llada_moe_ops.training RECIPE FOLDER``: train from a recipe, resuming what the folder holds."""

from __future__ import annotations

import argparse

from .run import train
from .trainer import TrainConfig


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m llada_moe_ops.training", description="Train from a recipe.")
    parser.add_argument("recipe", help="JSON recipe, such as assets/recipe.json")
    parser.add_argument("folder", help="folder of the run; an interrupted run there is resumed exactly")
    arguments = parser.parse_args()
    train(TrainConfig.from_file(arguments.recipe), arguments.folder)


if __name__ == "__main__":
    main()
