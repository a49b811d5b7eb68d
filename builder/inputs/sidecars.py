"""Arrays and a text, kept in an episode folder beside its videos or images."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from builder.core.errors import SourceError
from builder.core.paths import safe_names, safe_text
from builder.inputs.listing import names_in, read_small, regular_file
from schemas.config import Limits

_TEXT_BYTES = 1 << 20


class Sidecars(NamedTuple):
    """Per-frame arrays by name, a text, and the files both came from."""

    arrays: dict[str, np.ndarray]
    text: str | None
    files: tuple[str, ...]


def read_sidecars(folder: Path, limits: Limits) -> Sidecars:
    """Read ``<name>.npy`` (one row per frame) and ``text.txt`` of a folder.

    Raises SourceError for arrays that are not plain numbers, or beyond the limit.
    """
    names = names_in(folder, (".npy",))
    stems = safe_names(name.removesuffix(".npy") for name in names)
    arrays = {
        stem: read_npy(folder / name, limits)
        for name, stem in zip(names, stems.values(), strict=True)
    }
    texts = [name for name in names_in(folder, (".txt",)) if name == "text.txt"]
    text = read_text(folder / texts[0]) if texts else None
    return Sidecars(arrays, text, (*names, *texts))


def read_text(path: Path) -> str | None:
    """Read a small text file."""
    return safe_text(read_small(path, _TEXT_BYTES).decode("utf-8", "replace"))


def read_npy(path: Path, limits: Limits) -> np.ndarray:
    """Read an array of plain numbers, little endian; pickles are refused.  Raises SourceError."""
    regular_file(path)
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise SourceError.at(path, f"not a whole .npy of numbers ({error})") from None
    if mapped.dtype.kind not in "biuf":
        raise SourceError.at(path, f"its type {mapped.dtype} is not plain numbers")
    if mapped.nbytes > limits.max_array_bytes:
        raise SourceError.at(
            path,
            f"{mapped.nbytes} bytes exceed the limit of "
            f"{limits.max_array_bytes} (limits.max_array_bytes)",
        )
    return np.array(mapped, mapped.dtype.newbyteorder("<"))
