"""Files, or folders of them, as one thing: made durable, doubled, moved out of the way."""

from __future__ import annotations

import os
import shutil
from itertools import chain, count
from pathlib import Path

from builder.stores.atomic import fsync_folder, make_folders, output_errors


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


def move_aside(path: Path, folder: Path, place: Path | str) -> Path:
    """Move a damaged file, or folder, to ``damaged/<place>`` of the dataset ``folder``, durably.

    What is there already is kept: the next one of a place goes to ``damaged.2/``, and so on.
    Returns where it is now.  Raises OutputError.
    """
    names = chain(["damaged"], (f"damaged.{number}" for number in count(2)))
    target = next(each for name in names if not os.path.lexists(each := folder / name / place))
    with output_errors(target):
        make_folders(target.parent)
        os.rename(path, target)
        fsync_folder(target.parent)
        fsync_folder(path.parent)
    return target


def _fsync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
