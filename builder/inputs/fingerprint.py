"""Which files an episode came from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from builder.core.errors import SourceError
from builder.core.paths import printable_path
from builder.inputs.listing import locate
from builder.inputs.video import fingerprint
from schemas.dataset import Fingerprint


def fingerprints(root: Path, relatives: Iterable[str]) -> dict[str, Fingerprint]:
    """Fingerprint files by their printable path below the source's root.

    Raises SourceError for a file that cannot be read.
    """
    marks = {}
    for relative in relatives:
        relative = os.path.normpath(relative)
        path = locate(root, relative)
        try:
            status = os.stat(path)
            mark = _fingerprint(path, status.st_size, status.st_mtime_ns)
            marks[printable_path(relative)] = mark
        except OSError as error:
            raise SourceError(
                f"{printable_path(path)}: it cannot be read: {error.strerror}"
            ) from None
    return marks


# Many episodes come from one file.
@lru_cache(maxsize=256)
def _fingerprint(path: Path, size: int, changed: int) -> Fingerprint:
    return fingerprint(path)
