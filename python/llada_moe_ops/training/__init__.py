"""Training: tasks with checkable answers, the masked-diffusion objective, the trainer, evaluation."""

from .evaluate import Accuracy, Decoding, evaluate
from .run import train
from .trainer import TrainConfig, Trainer

__all__ = ["Accuracy", "Decoding", "TrainConfig", "Trainer", "evaluate", "train"]
