"""Zarr format 2 of others, in a folder or a zip file, read as data and within the limits.

The format is one JSON file per array and one file per chunk.  Reading it here, with numcodecs
for the decompression alone, leaves no way to object arrays (pickle), filters of unknown effect,
or chunks that inflate without a bound.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np

from builder.core.errors import DecodeError, SourceError
from builder.core.paths import printable_path
from builder.inputs.inflate import check_inflated
from builder.inputs.listing import natural_key, read_small, regular_file
from schemas.config import Limits

_JSON_BYTES = 1 << 20
# Picture codecs of the imagecodecs package; they decode into an array of known size.
_PICTURES = ("imagecodecs_jpegxl", "imagecodecs_jpeg2k", "imagecodecs_jpeg", "imagecodecs_webp")


class SafeZarr:
    """An open Zarr group; paths are relative to it, like ``data/img``."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None, limits: Limits) -> None:
        self._path, self._archive, self._limits = path, archive, limits

    def arrays(self, group: str) -> list[str]:
        """List the arrays in a group, in natural order."""
        if self._archive is not None:
            parts = (name.split("/") for name in self._archive.namelist())
            names = {p[1] for p in parts if len(p) == 3 and p[::2] == [group, ".zarray"]}
        else:
            folder = self._path / group
            entries = os.scandir(folder) if folder.is_dir() else ()
            names = {
                entry.name for entry in entries if os.path.isfile(folder / entry.name / ".zarray")
            }
        return sorted(names, key=natural_key)

    def array(self, path: str) -> SafeZarrArray:
        """Open an array.  Raises SourceError for whatever is refused."""
        raw = self.read(f"{path}/.zarray", _JSON_BYTES)
        if raw is None:
            raise self.error(path, "there is no such array of Zarr format 2")
        try:
            meta = json.loads(raw)
            return SafeZarrArray(self, path, meta, self._limits)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self.error(path, f"its .zarray is refused: {error!r}") from None

    def read(self, name: str, limit: int) -> bytes | None:
        """Read one file of at most ``limit`` bytes; None when there is none.

        Raises SourceError for a larger one, DecodeError for damage.
        """
        if self._archive is None:
            path = self._path / name
            return read_small(path, limit) if os.path.lexists(path) else None
        try:
            info = self._archive.getinfo(name)
        except KeyError:
            return None
        if info.file_size > limit:
            raise self.error(name, f"{info.file_size} bytes exceed the limit of {limit}")
        try:
            # The declared size is not to be trusted.
            with self._archive.open(info) as file:
                data = file.read(limit + 1)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError) as error:
            raise self.error(name, f"it cannot be read ({error})", DecodeError) from None
        if len(data) > limit:
            raise self.error(name, f"it inflates beyond the limit of {limit} bytes")
        return data

    def error(self, path: str, message: str, kind: type[SourceError] = SourceError) -> SourceError:
        """Return an error that names the store and the place in it."""
        return kind.at(self._path, f"{printable_path(path)}: {message}")


class SafeZarrArray:
    """A checked array; ``rows(first, last)`` reads a part of its first axis."""

    def __init__(self, store: SafeZarr, path: str, meta: dict[str, Any], limits: Limits) -> None:
        self._store, self.path, self._limits = store, path, limits
        if meta["zarr_format"] != 2:
            raise ValueError(f"zarr_format {meta['zarr_format']}, only 2 is read")
        self.dtype = np.dtype(str(meta["dtype"]))
        if not isinstance(meta["dtype"], str) or self.dtype.kind not in "biuf":
            raise ValueError(f"the type {meta['dtype']!r}; only plain numbers are read")
        self.shape = tuple(map(int, meta["shape"]))
        self.chunks = tuple(map(int, meta["chunks"]))
        fit = self.shape and len(self.shape) == len(self.chunks)
        if not fit or min(self.shape) < 0 or min(self.chunks) < 1:
            raise ValueError(f"shape {self.shape} and chunks {self.chunks} do not fit")
        if meta.get("filters"):
            raise ValueError(f"the filters {meta['filters']!r:.100}; none are supported")
        self._bytes = math.prod(self.chunks) * self.dtype.itemsize
        if self._bytes > limits.max_chunk_bytes:
            raise ValueError(f"chunks of {self._bytes} bytes exceed limits.max_chunk_bytes")
        self._order = "F" if meta.get("order") == "F" else "C"
        self._separator = "/" if meta.get("dimension_separator") == "/" else "."
        self._config = meta["compressor"]
        self._codec = _codec(self._config)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, decompressed."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def rows(self, first: int, last: int) -> np.ndarray:
        """Read rows ``first:last``, little endian.  Raises SourceError."""
        if (last - first) * self.row_bytes > self._limits.max_array_bytes:
            raise self._store.error(self.path, "the rows exceed limits.max_array_bytes")
        out = np.empty((last - first, *self.shape[1:]), self.dtype.newbyteorder("<"))
        size = self.chunks[0]
        inner = [range(-(-n // c)) for n, c in zip(self.shape[1:], self.chunks[1:], strict=True)]
        for row in range(first // size, -(-last // size)):
            for rest in product(*inner):
                chunk = self._chunk((row, *rest))
                starts = [i * c for i, c in zip((row, *rest), self.chunks, strict=True)]
                stops = [
                    min(s + c, n) for s, c, n in zip(starts, self.chunks, self.shape, strict=True)
                ]
                low, high = max(first, starts[0]), min(last, stops[0])
                part = out[(slice(low - first, high - first), *map(slice, starts[1:], stops[1:]))]
                inside = map(slice, part.shape[1:])
                part[...] = chunk[(slice(low - starts[0], high - starts[0]), *inside)]
        return out

    def _chunk(self, index: tuple[int, ...]) -> np.ndarray:
        name = f"{self.path}/{self._separator.join(map(str, index))}"
        raw = self._store.read(name, self._limits.max_chunk_bytes + (1 << 20))
        if raw is None:
            raise self._store.error(
                name,
                "the chunk was never written: it is lost, or was left out for holding nothing but "
                "the fill value; get it again, or write the data with write_empty_chunks",
            )
        kind = None if self._config is None else self._config["id"]
        if kind is not None and kind not in _PICTURES:
            try:
                check_inflated(kind, raw, self._limits.max_chunk_bytes)
            except ValueError as error:
                raise self._store.error(name, str(error)) from None
        try:
            if kind in _PICTURES:
                out = np.empty([n for n in self.chunks if n != 1] or [1], self.dtype)
                values = np.asarray(self._codec.decode(raw, out=out))
            else:
                values = np.frombuffer(raw if kind is None else self._codec.decode(raw), self.dtype)
        except Exception as error:
            # Codecs raise what they like.
            message = f"the chunk is damaged: {error}"
            raise self._store.error(name, message, DecodeError) from None
        return values.reshape(self.chunks, order=self._order)  # type: ignore[call-overload]


def _codec(config: dict[str, Any] | None) -> Any:
    if config is None:
        return None
    kind = config["id"]
    if kind in _PICTURES:
        try:
            from imagecodecs.numcodecs import register_codecs
        except ImportError:
            raise ValueError(f"the codec {kind} needs: pip install imagecodecs") from None
        register_codecs(verbose=False)
    elif kind not in ("zlib", "gzip", "blosc", "lz4", "zstd"):
        raise ValueError(
            f"the codec {kind!r}; supported are zlib, gzip, blosc, lz4, zstd and {_PICTURES}"
        )
    return numcodecs.get_codec(dict(config))


@contextmanager
def open_zarr(path: Path, limits: Limits) -> Iterator[SafeZarr]:
    """Open a folder, or a zip file, with a Zarr group.  Raises SourceError."""
    if path.is_dir():
        yield SafeZarr(path, None, limits)
        return
    regular_file(path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DecodeError.at(path, f"not a whole zip file ({error}); get the file again") from None
    with archive:
        yield SafeZarr(path, archive, limits)
