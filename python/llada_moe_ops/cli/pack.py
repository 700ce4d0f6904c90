"""``llada-moe pack``."""

from __future__ import annotations

import shutil
from pathlib import Path

from .checkpoint import find, load_model
from .options import ModelChoice


def pack(model: ModelChoice, folder: Path) -> None:
    """Write the packed form of a checkpoint into a new folder."""
    from ..files import write_folder_aside

    # The folder comes first: one that cannot be written should not cost the minutes of loading.
    with write_folder_aside(folder.absolute()) as aside:
        source = find(model)
        load_model(source, model).save_packed(aside)
        for path in (*source.glob("tokenizer*.json"), *source.glob("chat_template.jinja")):
            shutil.copyfile(path, aside / path.name)
