"""The model: configuration, layers, checkpoint files, tokenizer."""

from .config import LLaDAMoEConfig
from .key_value_cache import KeyValueCache
from .model import LLaDAMoEModel

__all__ = ["KeyValueCache", "LLaDAMoEConfig", "LLaDAMoEModel"]
