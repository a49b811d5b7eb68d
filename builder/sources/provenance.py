"""Which files an episode came from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from builder.errors import SourceError
from builder.ids import printable_path
from builder.sources.listing import locate
from builder.video import fingerprint
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
            marks[printable_path(relative)] = fingerprint(path)
        except OSError as error:
            raise SourceError(
                f"{printable_path(path)}: it cannot be read: {error.strerror}"
            ) from None
    return marks
