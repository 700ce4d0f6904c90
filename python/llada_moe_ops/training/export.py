"""Writes a trained model as a checkpoint in the published format, with its tokenizer."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ..files import write_aside
from ..model import LLaDAMoEModel
from .vocabulary import CHAT_TEMPLATE, END_OF_TEXT, MASK_TOKEN


def export_checkpoint(
    model: LLaDAMoEModel,
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write weights in ``dtype``, ``config.json``, ``tokenizer.json`` and ``tokenizer_config.json``.

    Raises:
        OSError: the folder cannot be written.
    """
    target = Path(folder)
    copy.deepcopy(model).to(dtype).save_pretrained(target)
    settings = {
        "chat_template": CHAT_TEMPLATE,
        "eos_token": END_OF_TEXT,
        "mask_token": MASK_TOKEN,
        "pad_token": END_OF_TEXT,
        "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, text in (
        ("tokenizer.json", tokenizer.to_str(pretty=True)),
        ("tokenizer_config.json", json.dumps(settings, indent=2)),
    ):
        with write_aside(target / name) as aside:
            aside.write_text(text + "\n", encoding="utf-8")
