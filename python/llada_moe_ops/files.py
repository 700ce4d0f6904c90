"""Files that are either whole or untouched, and the error for those that cannot be read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CheckpointError(ValueError):
    """A checkpoint file is missing, damaged or does not fit; the message names the file and what to do."""


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success it replaces ``path``, on any failure it is removed.

    A reader sees the old file or the new one, never half of one, also after a crash or a full disk.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def write_folder_aside(path: Path) -> Iterator[Path]:
    """As :func:`write_aside` for a folder, which must not be there yet, or be empty.

    Raises:
        FileExistsError: ``path`` is a file, or a folder that holds something.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path}: is there already; give a new folder, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        aside.mkdir()
        yield aside
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
