"""Fingerprints of files: which files an episode was made of, and whether they have changed."""

import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from builder.core.errors import SourceError
from builder.core.paths import printable_path
from builder.inputs.listing import locate
from schemas.dataset import Fingerprint

_MIB = 1 << 20


def fingerprint(path: str | os.PathLike[str]) -> Fingerprint:
    """Size and SHA-256 of the first and the last MiB (of the whole, up to two) of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(file.read(_MIB))
        file.seek(max(_MIB, size - _MIB))
        digest.update(file.read(_MIB))
    return Fingerprint(size=size, sha256=digest.hexdigest())


def fingerprints(root: Path, relatives: Iterable[str]) -> dict[str, Fingerprint]:
    """Fingerprint files by their printable path below the source's root.

    Raises SourceError for a file that cannot be read.
    """
    prints = {}
    for relative in relatives:
        relative = os.path.normpath(relative)
        path = locate(root, relative)
        try:
            status = os.stat(path)
            prints[printable_path(relative)] = _fingerprint(
                path, status.st_size, status.st_mtime_ns
            )
        except OSError as error:
            raise SourceError.at(path, f"it cannot be read: {error.strerror}") from None
    return prints


# Many episodes come from one file.
@lru_cache(maxsize=256)
def _fingerprint(path: Path, size: int, changed: int) -> Fingerprint:
    return fingerprint(path)
