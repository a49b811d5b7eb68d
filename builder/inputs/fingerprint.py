"""Fingerprints of files: which files an episode was made of, and whether they have changed."""

import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from builder.core.errors import SourceError
from builder.core.paths import printable_path
from builder.core.working import still_working
from builder.inputs.listing import locate
from schemas.dataset import Fingerprint

MIB = 1 << 20


def fingerprint(path: str | os.PathLike[str]) -> Fingerprint:
    """Size and SHA-256 of the first and the last MiB (of the whole, up to two) of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(file.read(MIB))
        file.seek(max(MIB, size - MIB))
        digest.update(file.read(MIB))
    return Fingerprint(size=size, sha256=digest.hexdigest())


def file_sha256(path: Path) -> str:
    """Hash a whole file, in pieces.  Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            still_working()
    return digest.hexdigest()


def fingerprints(root: Path, relatives: Iterable[str]) -> dict[str, Fingerprint]:
    """Fingerprint files by their printable path below the source's root.

    Raises SourceError for a file that cannot be read.
    """
    prints = {}
    for relative in relatives:
        relative = os.path.normpath(relative)
        path = locate(root, relative)
        try:
            prints[printable_path(relative)] = known_fingerprint(path)
        except OSError as error:
            raise SourceError.at(path, f"it cannot be read: {error.strerror}") from None
    return prints


def known_fingerprint(path: Path) -> Fingerprint:
    """Fingerprint a file; one that is asked for again is read once more only when it changed.

    Many episodes come from one file.  Raises OSError.
    """
    return _fingerprint(path, stamp(path))


def stamp(path: Path) -> tuple[int, ...]:
    """Return what is another where a file is another, or was written to since.  Raises OSError."""
    found = os.stat(path)
    # No time is compared with another: clocks of machines differ.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=256)
def _fingerprint(path: Path, state: tuple[int, ...]) -> Fingerprint:
    return fingerprint(path)
