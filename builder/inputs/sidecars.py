"""Arrays and a text, kept in an episode folder beside its videos or images."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from builder.core.errors import SourceError
from builder.core.lazy import Lazy
from builder.core.paths import safe_names, safe_text
from builder.inputs.foreign import foreign
from builder.inputs.listing import names_in, read_small, regular_file
from schemas.config import Limits

_TEXT_BYTES = 1 << 20
_JSON_BYTES = 1 << 30


class Sidecars(NamedTuple):
    """Per-frame arrays by name, read when they are asked for, a text, and the files of both."""

    arrays: Mapping[str, np.ndarray]
    text: str | None
    files: tuple[str, ...]


def read_sidecars(folder: Path, limits: Limits) -> Sidecars:
    """Find ``<name>.npy`` (one row per frame) and read ``text.txt`` of a folder.

    Asking for an array raises SourceError when it is not plain numbers, or beyond the limit.
    """
    names = names_in(folder, (".npy",))
    stems = safe_names(name.removesuffix(".npy") for name in names)
    arrays = Lazy(
        {
            stem: partial(read_npy, folder / name, limits)
            for name, stem in zip(names, stems.values(), strict=True)
        }
    )
    texts = [name for name in names_in(folder, (".txt",)) if name == "text.txt"]
    text = read_text(folder / texts[0]) if texts else None
    return Sidecars(arrays, text, (*names, *texts))


def read_text(path: Path) -> str | None:
    """Read a small text file."""
    return safe_text(read_small(path, _TEXT_BYTES).decode("utf-8", "replace"))


def read_json(path: Path, limit: int = _JSON_BYTES) -> Any:
    """Read a JSON file of at most ``limit`` bytes.  Raises SourceError."""
    data = read_small(path, limit)
    with foreign(path, what="not a JSON file", kind=SourceError):
        return json.loads(data)


def read_npy(path: Path, limits: Limits) -> np.ndarray:
    """Read an array of plain numbers, little endian; pickles are refused.  Raises SourceError."""
    regular_file(path)
    with foreign(path, what="not a whole .npy of numbers", kind=SourceError):
        mapped = np.lib.format.open_memmap(path, mode="r")
    if mapped.dtype.kind not in "biuf":
        raise SourceError.at(path, f"its type {mapped.dtype} is not plain numbers")
    if mapped.nbytes > limits.max_array_bytes:
        raise SourceError.at(
            path,
            f"{mapped.nbytes} bytes exceed the limit of "
            f"{limits.max_array_bytes} (limits.max_array_bytes)",
        )
    return np.array(mapped, mapped.dtype.newbyteorder("<"))
