"""Arrays of numbers in NumPy's files: declared sizes are limits before they are allocations."""

import math
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np

# Versions of the header; the third has names of fields in it, so it is not of plain numbers.
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_numbers(stream: IO[bytes], limit: int) -> np.ndarray:
    """Read an array of numbers as ``np.save`` writes it, of at most ``limit`` bytes.

    Raises ValueError, also for a header that says something else than what follows.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"a header of version {version}, which is not one of plain numbers")
        shape, in_columns, dtype = _HEADERS[version](stream)
    except Exception as error:  # Python's own parser reads it, and fails in its own ways
        raise ValueError(f"the header is no npy header: {error}") from None
    if dtype.kind not in "biuf":
        raise ValueError(f"its type {dtype} is not plain numbers")
    size = math.prod(shape) * dtype.itemsize
    if size > limit or min(shape, default=0) < 0:
        raise ValueError(f"it declares {shape}, {size} bytes; the limit is {limit}")
    data = stream.read(size)
    if len(data) != size:
        raise ValueError(f"it declares {shape}, {size} bytes, and holds {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if in_columns else "C")


def open_archive(file: Any) -> ZipFile:
    """Open an npz archive: a path, or a file.  Raises ValueError."""
    try:
        return ZipFile(file)
    except Exception as error:
        raise ValueError(f"it is no npz archive: {error}") from None


def array_names(archive: ZipFile) -> list[str]:
    """Name the arrays of an archive."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_member(archive: ZipFile, name: str, limit: int) -> np.ndarray:
    """Read one array of an archive, of at most ``limit`` bytes.  Raises ValueError."""
    try:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # others inflate without bound
            raise ValueError(f"compression method {member.compress_type} is refused")
        with archive.open(member) as stream:
            return read_numbers(stream, limit)
    except Exception as error:
        raise ValueError(f"array {name!r}: {error}") from None
