"""Loading the model and tokenizer that a command asks for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import CheckpointError
from .device import device_for
from .options import ModelChoice

if TYPE_CHECKING:
    from ..model import LLaDAMoEModel
    from ..model.tokenizer import Tokenizer

EMBEDDED = Path(str(files("llada_moe_ops") / "assets"))
DEFAULT_GEN_LENGTH = 128


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer; ``name`` as the user gave it, "embedded" for the project's own."""

    name: str
    model: LLaDAMoEModel
    tokenizer: Tokenizer
    mask_token_id: int
    eos_token_id: int | None

    @property
    def default_gen_length(self) -> int:
        """Tokens to generate when the user gives no number: the embedded model was trained on short replies."""
        if self.name != "embedded":
            return DEFAULT_GEN_LENGTH
        from ..training.evaluate import REPLY_LENGTH

        return REPLY_LENGTH


def has_embedded() -> bool:
    """Whether the embedded checkpoint is whole."""
    return all((EMBEDDED / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json"))


def find(choice: ModelChoice) -> Path:
    """The local folder of a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    from ..model.source import resolve_folder

    if choice.path_or_id is None and not has_embedded():
        raise CheckpointError(f"{EMBEDDED}: the embedded checkpoint is not there; reinstall, or give --model")
    return resolve_folder(EMBEDDED if choice.path_or_id is None else choice.path_or_id)


def load_model(folder: Path, choice: ModelChoice) -> LLaDAMoEModel:
    """Load a model, with a progress bar on a terminal.

    Raises:
        CheckpointError: a file is missing or damaged.
        ValueError: an unsupported configuration.
    """
    import torch

    from ..model import LLaDAMoEModel

    return LLaDAMoEModel.from_pretrained(
        folder,
        dtype=None if choice.dtype is None else getattr(torch, choice.dtype.value),
        device=device_for(choice, folder),
        quantization=None if choice.quantization is None else choice.quantization.value,
        progress=sys.stderr.isatty(),
    )


def load(choice: ModelChoice) -> Loaded:
    """Load a checkpoint with its tokenizer.

    Raises:
        CheckpointError: a file is missing or damaged, or no mask token is known.
        ValueError: an unsupported configuration.
    """
    from ..model.tokenizer import Tokenizer

    folder = find(choice)
    tokenizer = Tokenizer.from_pretrained(folder)
    model = load_model(folder, choice)
    mask = tokenizer.mask_token_id if model.config.mask_token_id is None else model.config.mask_token_id
    if mask is None:
        raise CheckpointError(f"{folder}: neither config.json nor the tokenizer names a mask token")
    end = tokenizer.eos_token_id if model.config.eos_token_id is None else model.config.eos_token_id
    return Loaded(choice.path_or_id or "embedded", model, tokenizer, mask, end)


def reply_text(tokenizer: Tokenizer, ids: list[int], end: int | None) -> str:
    """The text of a reply up to its first end-of-text."""
    return tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)
