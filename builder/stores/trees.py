"""Folders of files as one thing: made durable, or made to exist a second time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from builder.stores.staging import fsync_folder


def fsync_tree(folder: Path) -> None:
    """Make a folder durable, with all files and folders in it.  Raises OSError."""
    for inner, _, names in os.walk(folder):
        for name in names:
            _fsync_file(Path(inner, name))
        fsync_folder(Path(inner))


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file, or a folder of files, exist a second time, durably."""
    if source.is_dir():
        target.mkdir()
        for path in sorted(source.iterdir()):
            link_or_copy(path, target / path.name)
        fsync_folder(target)
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
        _fsync_file(target)


def _fsync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
