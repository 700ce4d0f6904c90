"""The model: configuration, layers, checkpoint files, tokenizer."""

from .config import LLaDAMoEConfig
from .model import LLaDAMoEModel

__all__ = ["LLaDAMoEConfig", "LLaDAMoEModel"]
