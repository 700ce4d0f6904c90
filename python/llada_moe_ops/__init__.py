"""Kernels, model and sampler for mixture-of-experts masked-diffusion language models (LLaDA-MoE)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "KeyValueCache",
    "LLaDAMoEConfig",
    "LLaDAMoEModel",
    "Request",
    "Tokenizer",
    "__version__",
    "generate",
    "generate_requests",
    "infill",
    "ops",
    "score",
]

if TYPE_CHECKING:
    from . import ops
    from .files import CheckpointError
    from .model import KeyValueCache, LLaDAMoEConfig, LLaDAMoEModel
    from .model.tokenizer import Tokenizer
    from .sampling import Request, generate, generate_requests, infill, score

_HOMES = {
    "CheckpointError": "files",
    "KeyValueCache": "model",
    "LLaDAMoEConfig": "model",
    "LLaDAMoEModel": "model",
    "Request": "sampling",
    "Tokenizer": "model.tokenizer",
    "generate": "sampling",
    "generate_requests": "sampling",
    "infill": "sampling",
    "score": "sampling",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line starts without loading torch."""
    from importlib import import_module

    if name == "ops":
        return import_module(".ops", __name__)
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
