"""Where a checkpoint is: a local folder, or a repository of the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..files import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json", "chat_template.jinja"]


def resolve_folder(path_or_id: str | os.PathLike[str]) -> Path:
    """The local folder of a checkpoint; a hub id (``owner/name``) is downloaded, or found in the hub's cache.

    Raises:
        CheckpointError: no such folder, or a hub id that cannot be reached or does not exist.
    """
    path = Path(path_or_id)
    if path.is_dir():
        return path
    text = os.fspath(path_or_id)
    if path.exists():
        raise CheckpointError(f"{text}: is a file; give the folder that holds config.json and *.safetensors")
    if not _HUB_ID.fullmatch(text):
        raise CheckpointError(f"{text}: no such folder (a hub id has the form owner/name)")
    return _download(text)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise CheckpointError(
            f"{hub_id}: no such folder here, and the hub cannot be reached (offline) and its cache does not hold it; "
            "give the path of a local folder with config.json and *.safetensors instead, such as ./llada-moe"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{hub_id}: cannot be downloaded ({str(error).splitlines()[0]})") from error
