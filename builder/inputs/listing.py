"""Listing folders: natural order, links followed but never in circles, nothing decoded."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from builder.core.errors import SourceError

_DIGITS = re.compile(r"(\d{1,18})", re.ASCII)

# Stands for the content of a folder that may not be read; no file has this name.
UNREADABLE = "."

# Suffixes, in lower case, of what is taken for a video, a picture and so on.
VIDEO_SUFFIXES = tuple(
    ".mp4 .m4v .mov .3gp .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .flv .wmv .asf .ogv"
    " .gif .apng".split()
)
IMAGE_SUFFIXES = tuple(".png .jpg .jpeg .bmp .webp .tif .tiff .ppm .pgm".split())
HDF5_SUFFIXES = (".hdf5", ".h5")
PICKLE_SUFFIXES = (".pkl", ".pickle")


def natural_key(name: str) -> tuple[tuple[tuple[str, int], ...], bytes]:
    """Sort key by which ``demo_2`` comes before ``demo_10``; ties are broken by the raw bytes."""
    pieces = _DIGITS.split(name)
    pairs = zip(pieces[::2], [*map(int, pieces[1::2]), -1], strict=True)
    return tuple(pairs), name.encode("utf-8", "surrogatepass")


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below ``root`` with its files, both in natural order.

    Folders are relative to ``root`` ("" is the root itself), files are names.  Hidden entries
    are left out.  A folder that may not be read has one file, ``UNREADABLE``, so that it is
    reported and not lost.  Raises SourceError when the root cannot be listed.
    """
    try:
        yield from _walk(root, "", ())
    except OSError as error:
        raise SourceError.at(
            root,
            f"the folder cannot be listed ({error.strerror}); "
            f"source.path must be a readable folder",
        ) from None


def files(
    root: Path, suffixes: tuple[str, ...], what: str, wanted: Callable[[str], bool] | None = None
) -> Iterator[str]:
    """Yield the relative paths of the files with these suffixes below ``root``, or of one file.

    ``wanted`` chooses by relative path instead.  Raises SourceError when there is nothing at
    ``root``, or no such file; ``what`` names them.
    """
    if not os.path.lexists(root):
        raise SourceError.at(
            root,
            f"there is no such file or folder; source.path must be one {what}, or a folder of them",
        )
    if not root.is_dir():
        yield root.name
        return
    empty = True
    for folder, names in walk(root):
        for name in names:
            relative = f"{folder}/{name}" if folder else name
            if wanted(relative) if wanted else has_suffix(name, suffixes):
                empty = False
                yield relative
    if empty:
        raise SourceError.at(
            root, f"no {what} found; looked for {', '.join(suffixes)} here and in all folders below"
        )


def folders_with(root: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the folders below ``root`` that directly hold files with these suffixes."""
    for folder, names in walk(root):
        if any(has_suffix(name, suffixes) for name in names):
            yield folder


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Tell whether a file is of a kind, by its name; ``UNREADABLE`` may be of any."""
    return name == UNREADABLE or name.lower().endswith(suffixes)


def locate(root: Path, relative: str) -> Path:
    """Return the path of a file that :func:`files` listed."""
    return root / relative if root.is_dir() else root


def _walk(
    root: Path, below: str, trail: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, list[str]]]:
    status = os.stat(root / below)
    here = (status.st_dev, status.st_ino)
    if here in trail:
        return
    listing = None
    try:
        if not below or os.access(root / below, os.R_OK | os.X_OK):
            listing = os.scandir(root / below)
    except PermissionError:
        if not below:
            raise
    if listing is None:
        yield below, [UNREADABLE]
        return
    with listing as entries:
        # DirEntry.is_dir raises for a link to itself; that is a broken file, not a broken source.
        children = [
            (entry.name, os.path.isdir(entry)) for entry in entries if entry.name[:1] != "."
        ]
    children.sort(key=lambda pair: natural_key(pair[0]))
    yield below, [name for name, is_folder in children if not is_folder]
    for name, is_folder in children:
        if is_folder:
            yield from _walk(root, f"{below}/{name}" if below else name, (*trail, here))


def names_in(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """List the files with these suffixes in one folder, in natural order.

    Raises SourceError when it cannot be listed.
    """
    try:
        names = [name for name in os.listdir(folder) if name[:1] != "."]
    except OSError as error:
        raise SourceError.at(folder, f"the folder cannot be listed ({error.strerror})") from None
    return sorted((name for name in names if name.lower().endswith(suffixes)), key=natural_key)


def regular_file(path: Path) -> int:
    """Return the size in bytes of a regular file, opening nothing.

    Raises SourceError for whatever else lies there: opening a FIFO or device could block.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError.at(path, f"it cannot be opened: {reason}") from None
    if not os.path.isfile(path):
        raise SourceError.at(path, "it is not a regular file (a folder, FIFO, socket or device)")
    return status.st_size


def total_bytes(paths: Iterable[Path]) -> float:
    """Return the bytes of the files together; what cannot be looked at counts nothing."""
    total = 0
    for path in paths:
        with suppress(OSError, ValueError):
            total += os.stat(path).st_size
    return float(total)


def read_small(path: Path, limit: int) -> bytes:
    """Read a whole regular file of at most ``limit`` bytes.  Raises SourceError."""
    size = regular_file(path)
    if size > limit:
        raise SourceError.at(
            path, f"{size} bytes exceed the limit of {limit} for a file that is read whole"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError.at(path, f"it cannot be read: {error.strerror}") from None


def matches(path: str, globs: tuple[str, ...]) -> bool:
    """Tell whether a path fits one of the globs; ``*`` crosses slashes, case counts."""
    return any(fnmatchcase(path, glob) for glob in globs)
