"""Training: tasks with checkable answers, the masked-diffusion objective, the trainer, evaluation."""
