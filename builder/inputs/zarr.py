"""Zarr of others, format 2 or 3, in a folder or a zip file, read as data and within the limits.

Both formats are one JSON file per array and one file per chunk.  Reading it here, with numcodecs
for the decompression alone, leaves no way to object arrays (pickle), filters of unknown effect,
or chunks that inflate without a bound.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np

from builder.core.errors import DecodeError, SourceError
from builder.core.paths import printable_path
from builder.inputs.foreign import foreign
from builder.inputs.inflate import check_inflated
from builder.inputs.listing import ZARR_ARRAYS, ZARR_GROUPS, natural_key, read_small, regular_file
from schemas.config import Limits

_JSON_BYTES = 1 << 20
# Picture codecs of the imagecodecs package; they decode into an array of known size.
_PICTURES = ("imagecodecs_jpegxl", "imagecodecs_jpeg2k", "imagecodecs_jpeg", "imagecodecs_webp")


class SafeZarr:
    """An open Zarr group; paths are relative to it, like ``data/img``."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None, limits: Limits) -> None:
        self._path, self._archive, self._limits = path, archive, limits
        self._below = "" if archive is None else _folder_in(archive.namelist())

    def arrays(self, group: str) -> list[str]:
        """List the arrays in a group, in natural order."""
        if self._archive is not None:
            start = f"{self._below}{group}/"
            listed = self._archive.namelist()
            inside = (name[len(start) :] for name in listed if name.startswith(start))
            parts = (name.split("/") for name in inside)
            names = {each[0] for each in parts if len(each) == 2 and each[1] in ZARR_ARRAYS}
        else:
            folder = self._path / group
            entries = os.scandir(folder) if folder.is_dir() else ()
            names = {
                entry.name
                for entry in entries
                if any(os.path.isfile(folder / entry.name / each) for each in ZARR_ARRAYS)
            }
        arrays = (name for name in names if not self._is_group(f"{group}/{name}"))
        return sorted(arrays, key=natural_key)

    def _is_group(self, path: str) -> bool:
        """Tell whether a group of format 3 lies there: its file has the name of an array's."""
        raw = self.read(f"{path}/zarr.json", _JSON_BYTES)
        return raw is not None and b'"group"' in raw and b'"chunk_grid"' not in raw

    def array(self, path: str) -> SafeZarrArray:
        """Open an array.  Raises SourceError for whatever is refused."""
        for name in ZARR_ARRAYS:
            raw = self.read(f"{path}/{name}", _JSON_BYTES)
            if raw is not None:
                with self.guard(path, f"its {name} is refused", SourceError):
                    meta, chunks = json.loads(raw), path
                    if name == "zarr.json":
                        chunks += "/c" if meta["chunk_key_encoding"]["name"] == "default" else ""
                        meta = _as_format_2(meta)
                    return SafeZarrArray(self, path, chunks, meta, self._limits)
        raise self.error(path, f"there is no such array ({' or '.join(ZARR_ARRAYS)})")

    def read(self, name: str, limit: int) -> bytes | None:
        """Read one file of at most ``limit`` bytes; None when there is none.

        Raises SourceError for a larger one, DecodeError for damage.
        """
        if self._archive is None:
            path = self._path / name
            return read_small(path, limit) if os.path.lexists(path) else None
        try:
            info = self._archive.getinfo(self._below + name)
        except KeyError:
            return None
        if info.file_size > limit:
            raise self.error(name, f"{info.file_size} bytes exceed the limit of {limit}")
        # The declared size is not to be trusted.
        with foreign(self._path, name), self._archive.open(info) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise self.error(name, f"it inflates beyond the limit of {limit} bytes")
        return data

    def holds(self, name: str) -> bool:
        """Tell whether there is a file of a name."""
        if self._archive is None:
            return os.path.lexists(self._path / name)
        return self._below + name in self._members

    @cached_property
    def _members(self) -> set[str]:
        return set(self._archive.namelist()) if self._archive else set()

    def error(self, path: str, message: str) -> SourceError:
        """Return an error that names the store and the place in it."""
        return SourceError.at(self._path, f"{printable_path(path)}: {message}")

    def guard(
        self, path: str, what: str, kind: type[SourceError] = DecodeError
    ) -> AbstractContextManager[None]:
        """Guard reading at a place in the store; see ``foreign``."""
        return foreign(self._path, path, what, kind)


class SafeZarrArray:
    """A checked array; ``rows(first, last)`` reads a part of its first axis."""

    def __init__(
        self, store: SafeZarr, path: str, chunks: str, meta: dict[str, Any], limits: Limits
    ) -> None:
        self._store, self.path, self._limits, self._place = store, path, limits, chunks
        if meta["zarr_format"] != 2:
            raise ValueError(f"zarr_format {meta['zarr_format']}; only 2 and 3 are read")
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
        self._fill = meta.get("fill_value")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, decompressed."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def never_written(self, first: int, last: int) -> int:
        """Count the chunks of rows ``first:last`` that are not there.  Raises SourceError."""
        self._check_bytes(first, last)
        return sum(not self._store.holds(self._name(index)) for index in self._chunks(first, last))

    def rows(self, first: int, last: int, fill: bool = False) -> np.ndarray:
        """Read rows ``first:last``, little endian.  Raises SourceError.

        Chunks that were never written hold the fill value of the array; without ``fill`` they
        are refused, since they may have been lost as well.
        """
        self._check_bytes(first, last)
        out = np.empty((last - first, *self.shape[1:]), self.dtype.newbyteorder("<"))
        for index in self._chunks(first, last):
            chunk = self._chunk(index, fill)
            starts = [i * c for i, c in zip(index, self.chunks, strict=True)]
            stops = [min(s + c, n) for s, c, n in zip(starts, self.chunks, self.shape, strict=True)]
            low, high = max(first, starts[0]), min(last, stops[0])
            part = out[(slice(low - first, high - first), *map(slice, starts[1:], stops[1:]))]
            inside = map(slice, part.shape[1:])
            part[...] = chunk[(slice(low - starts[0], high - starts[0]), *inside)]
        return out

    def _check_bytes(self, first: int, last: int) -> None:
        if (last - first) * self.row_bytes > self._limits.max_array_bytes:
            raise self._store.error(self.path, "the rows exceed limits.max_array_bytes")

    def _chunks(self, first: int, last: int) -> Iterator[tuple[int, ...]]:
        """List the chunks with rows ``first:last``."""
        size = self.chunks[0]
        inner = [range(-(-n // c)) for n, c in zip(self.shape[1:], self.chunks[1:], strict=True)]
        for row in range(first // size, -(-last // size)):
            yield from ((row, *rest) for rest in product(*inner))

    def _name(self, index: tuple[int, ...]) -> str:
        between = "/" if self._place == self.path else self._separator
        return f"{self._place}{between}{self._separator.join(map(str, index))}"

    def _chunk(self, index: tuple[int, ...], fill: bool) -> np.ndarray:
        name = self._name(index)
        raw = self._store.read(name, self._limits.max_chunk_bytes + (1 << 20))
        if raw is None and fill and self._fill is not None:
            try:
                return np.full(self.chunks, float(self._fill)).astype(self.dtype)
            except (ValueError, TypeError, OverflowError) as error:
                raise self._store.error(self.path, f"its fill value ({error})") from None
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
        with self._store.guard(name, "the chunk is damaged"):
            if kind in _PICTURES:
                out = np.empty([n for n in self.chunks if n != 1] or [1], self.dtype)
                values = np.asarray(self._codec.decode(raw, out=out))
            else:
                values = np.frombuffer(raw if kind is None else self._codec.decode(raw), self.dtype)
            return values.reshape(self.chunks, order=self._order)  # type: ignore[call-overload]


def _folder_in(names: list[str]) -> str:
    """Return the folder of a zip file that is the group: the zip itself, or one it was made of."""
    folders = [name.rpartition("/")[0] for name in names if name.split("/")[-1] in ZARR_GROUPS]
    shortest = min(folders, key=lambda folder: (folder.count("/"), len(folder)), default="")
    return f"{shortest}/" if shortest else ""


# Codecs from bytes to bytes that numcodecs knows by the same name, with nothing to set.
_FORMAT_3 = ("gzip", "zstd", "blosc")


def _as_format_2(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of an array of format 3 as format 2 says the same.

    After the specification of Zarr version 3.  Raises ValueError for what has no equal there.
    """
    if meta["zarr_format"] != 3 or meta["node_type"] != "array":
        raise ValueError(f"zarr_format {meta['zarr_format']}, {meta['node_type']}")
    grid, keys = meta["chunk_grid"], meta["chunk_key_encoding"]
    if grid["name"] != "regular" or keys["name"] not in ("default", "v2"):
        raise ValueError(f"the chunk grid {grid['name']!r} or keys {keys['name']!r}")
    separator = "/" if keys["name"] == "default" else "."
    first, *rest = meta["codecs"]
    known = [codec["name"] for codec in rest if codec["name"] in _FORMAT_3]
    if first["name"] != "bytes" or len(rest) > 1 or len(known) != len(rest):
        names = [codec["name"] for codec in meta["codecs"]]
        raise ValueError(
            f"the codecs {names}; supported are bytes, then one of {', '.join(_FORMAT_3)} or none: "
            f"write the data again without others, and without shards"
        )
    endian = first.get("configuration", {}).get("endian", "little")
    dtype = np.dtype(str(meta["data_type"])).newbyteorder("<" if endian == "little" else ">")
    return {
        "zarr_format": 2,
        "dtype": dtype.str,
        "shape": meta["shape"],
        "chunks": grid["configuration"]["chunk_shape"],
        "compressor": {"id": known[0]} if known else None,
        "fill_value": meta.get("fill_value"),
        "dimension_separator": keys.get("configuration", {}).get("separator", separator),
    }


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
    with foreign(path, what="not a whole zip file; get the file again"):
        archive = zipfile.ZipFile(path)
    with archive:
        yield SafeZarr(path, archive, limits)
