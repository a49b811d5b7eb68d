"""Listing folders: natural order, links followed but never in circles, nothing decoded."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path

from builder.core.errors import AbsentError, SourceError
from builder.inputs.foreign import announce

_DIGITS = re.compile(r"(\d{1,18})", re.ASCII)
_DECIMAL = re.compile(r"(?<![\d.])(\d+)(?:\.(\d+))?(?!\d|\.\d)", re.ASCII)
# Parts of a pattern: a float as Python writes small and large ones, a decimal number, a sign.
_EXPONENT = r"(?<![^\W_])(?<!\.)(?:0|[1-9]\d*)(?:\.\d+)?e[-+]?\d{1,3}(?![^\W_])"
_FRACTION = r"(?<![\d.])\d+\.\d+(?!\d|\.\d)"
_SIGN = r"(?<![^\W_])(?<!-)-"
_DASH = re.compile(_SIGN + r"\d", re.ASCII)

_LFS_HEAD, _LFS_BYTES = b"version https://git-lfs", 1024

# Stands for the content of a folder that may not be read; no file has this name.
UNREADABLE = "."

# Suffixes, in lower case, of what is taken for a video, a picture and so on.
VIDEO_SUFFIXES = tuple(
    ".mp4 .m4v .mov .qt .3gp .3g2 .mkv .webm .avi .ts .mts .m2ts .m2t .mpg .mpeg .vob .flv .f4v"
    " .wmv .asf .ogv .gif .apng".split()
)
IMAGE_SUFFIXES = tuple(".png .jpg .jpeg .bmp .webp .tif .tiff .ppm .pgm".split())
HDF5_SUFFIXES = (".hdf5", ".h5")
COMPANIONS = tuple(".txt .npy .json .csv .md .yaml .yml .html .log .srt".split())
# Names of the files that make a folder a Zarr group or array, of format 2 and 3.
ZARR_GROUPS = (".zgroup", "zarr.json")
ZARR_ARRAYS = (".zarray", "zarr.json")
PICKLE_SUFFIXES = (".pkl", ".pickle")


def natural_key(name: str) -> tuple[tuple[tuple[str, int], ...], bytes]:
    """Sort key by which ``demo_2`` comes before ``demo_10``; ties are broken by the raw bytes."""
    pieces = _DIGITS.split(name)
    pairs = zip(pieces[::2], [*map(int, pieces[1::2]), -1], strict=True)
    return tuple(pairs), name.encode("utf-8", "surrogatepass")


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Sort the names of one sequence by its numbers: ``im_2`` before ``im_10``, 1.05 before 1.1."""
    names = list(names)
    pattern = number_pattern(names)

    def key(name: str) -> tuple[tuple[tuple[str, Decimal], ...], str]:
        texts, numbers = pattern.split(name), [*pattern.findall(name), "-1"]
        return tuple(zip(texts, map(Decimal, numbers), strict=True)), name

    return sorted(names, key=key)


def number_pattern(names: Sequence[str]) -> re.Pattern[str]:
    """Return what finds the numbers in the names of one sequence, as all together tell.

    Whether ``a.b`` is a decimal number: where the digits after the point differ in number, padding
    (05 beside 1) or stripped zeros (5 and 15, never 10) say so.  A dash is a sign where it begins
    a name, or where names that differ in nothing else have none.
    """
    fractions = [match[2] for name in names for match in _DECIMAL.finditer(name) if match[2]]
    padded = any(len(digits) > 1 and digits[0] == "0" for digits in fractions)
    stripped = not any(len(digits) > 1 and digits[-1] == "0" for digits in fractions)
    kinds = (_EXPONENT, _FRACTION, r"\d+") if padded or stripped else (_EXPONENT, r"\d+")
    unsigned = re.compile("|".join(kinds), re.ASCII)
    if not any(_DASH.search(name) for name in names):
        return unsigned
    signed = re.compile("|".join(f"(?:{_SIGN})?{kind}" for kind in kinds), re.ASCII)
    templates = [{each.sub("#", name) for name in names} for each in (signed, unsigned)]
    begins = any(name.startswith("-") for name in names)
    return signed if begins or len(templates[0]) < len(templates[1]) else unsigned


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
    announce(root / below)
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
    return in_natural_order(name for name in names if name.lower().endswith(suffixes))


def regular_file(path: Path) -> int:
    """Return the size in bytes of a regular file, opening nothing else.

    Raises SourceError for whatever else lies there: opening a FIFO or device could block.
    AbsentError for none, and for what Git LFS leaves in the place of one.
    Whoever opens a file of others asks this first.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        kind = AbsentError if isinstance(error, FileNotFoundError) else SourceError
        raise kind.at(path, f"it cannot be opened: {reason}") from None
    if not os.path.isfile(path):
        raise SourceError.at(path, "it is not a regular file (a folder, FIFO, socket or device)")
    announce(path)
    if status.st_size < _LFS_BYTES and _is_lfs_pointer(path):
        raise AbsentError.at(path, "it was not downloaded, Git LFS left a pointer: git lfs pull")
    return status.st_size


def _is_lfs_pointer(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(_LFS_HEAD)) == _LFS_HEAD
    return False


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
    """Tell whether a path fits one of the globs, or is one of them as it stands; case counts.

    ``*`` crosses slashes, ``**/`` stands for any folders, and for none.
    """
    return any(
        path == glob or fnmatchcase(path, glob) or fnmatchcase(path, glob.replace("**/", ""))
        for glob in globs
    )
