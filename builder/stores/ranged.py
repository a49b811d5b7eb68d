"""Arrays read by byte ranges of episode files that lie elsewhere.

Of such a file its head is kept here: the metadata, where its arrays begin, and the small ones
whole.  Of the others the bytes that a key asks for are fetched, several keys at once under
:func:`fetched_ahead`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from builder.core.errors import DatasetError
from builder.stores.base import arrays_by_view
from builder.stores.codecs import FixedPoint, Rows, stored_dtype
from builder.stores.reading import FileReader, array_path
from schemas.dataset import ArrayMeta, EpisodeMeta

Range = tuple[str, int, int]
"""A file, as the place it lies at knows it; the first byte; the one after the last."""

GetRanges = Callable[[Sequence[Range]], list[bytes]]
"""Fetches ranges, all at once.  Raises DatasetError unless every one comes whole."""

Key = tuple[str | None, str]
"""An array of an episode: its view, None for the episode as a whole, and its name."""

# What a head keeps whole: arrays of one axis, the query points, and others while their sum is
# small, by itself or against the file.
_KEPT_BYTES, _KEPT_SHARE, _KEPT_MOST = 64 << 10, 0.02, 1 << 20

_BLOCK = 4096

_HELD: ContextVar[Mapping[Range, bytes]] = ContextVar("ranges that were fetched ahead")


class FarFile(Protocol):
    """One episode file that lies elsewhere."""

    name: str
    """As it is known there."""

    @property
    def get(self) -> GetRanges:
        """What fetches its ranges, and those of the other files at that place."""

    def whole(self) -> FileReader:
        """Fetch the file whole, if it is not here yet, and open it."""

    def used(self, count: int, size: int) -> FileReader | None:
        """Take note of ``count`` bytes fetched of ``size``; returns the whole file if that pays."""


class SparseFile(io.RawIOBase):
    """A file elsewhere, opened for HDF5 to read: what was not fetched ahead comes in blocks.

    Errors never reach HDF5, which may not survive them; :meth:`check` raises the first.
    """

    def __init__(self, get: GetRanges, name: str, size: int) -> None:
        self._get, self.name, self.size = get, name, size
        self._at, self._error = 0, None  # type: int, Exception | None
        self._parts: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the error that a read met, if any."""
        if self._error is not None:
            raise self._error

    def ahead(self, spans: Iterable[tuple[int, int]]) -> None:
        """Fetch spans (begin, end) at once, as far as the file goes."""
        cut = ((max(0, begin), min(self.size, end)) for begin, end in spans)
        wanted = [(begin, end) for begin, end in cut if begin < end]
        found = self._get([(self.name, *span) for span in wanted])
        self._parts += [(begin, data) for (begin, _), data in zip(wanted, found, strict=True)]

    def read_at(self, begin: int, end: int) -> bytes:
        """Return the bytes from ``begin`` to ``end``."""
        out = bytearray()
        while begin < end:
            here = (each for each in self._parts if each[0] <= begin < each[0] + len(each[1]))
            start, data = max(here, key=lambda part: part[0] + len(part[1]), default=(0, b""))
            if not data:
                first = begin // _BLOCK * _BLOCK
                self.ahead([(first, max(end, first + _BLOCK))])
                continue
            piece = data[begin - start : end - start]
            out += piece
            begin += len(piece)
        return bytes(out)

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``, with zeros after an error and behind the end."""
        end, found = min(self.size, self._at + len(buffer)), b""
        if self._error is None:
            try:
                found = self.read_at(self._at, end)
            except Exception as error:  # told by check()
                self._error = error
        buffer[:] = found.ljust(len(buffer), b"\0")
        self._at += len(buffer)
        return len(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence, self.size)
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at


@dataclass(frozen=True)
class Head:
    """What is kept of an episode file: enough to read the rest of it by ranges."""

    text: str
    """The metadata, in stored form."""
    size: int
    offsets: dict[Key, int | None]
    """Where each array begins; None for an empty one."""
    kept: dict[Key, bytes]

    def to_bytes(self) -> bytes:
        """Return what :meth:`read` reads: a line of JSON, then the kept arrays one by one."""
        arrays = [[*key, at, len(self.kept.get(key, b""))] for key, at in self.offsets.items()]
        line = json.dumps({"text": self.text, "size": self.size, "arrays": arrays})
        kept = (self.kept.get(key, b"") for key in self.offsets)
        return b"".join([line.encode(), b"\n", *kept])

    @classmethod
    def read(cls, path: Path) -> Head:
        """Read a head.  Raises DatasetError where there is none, or a damaged one."""
        try:
            line, _, rest = path.read_bytes().partition(b"\n")
            found = json.loads(line)
            offsets, kept, begin = {}, {}, 0
            for view, name, offset, length in found["arrays"]:
                offsets[view, name] = offset
                if length:
                    kept[view, name] = rest[begin : begin + length]
                    begin += length
            if begin != len(rest):
                raise ValueError(f"got {len(rest)} bytes of arrays, expected {begin}")
            return cls(found["text"], found["size"], offsets, kept)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} is damaged: {error}; delete it") from None


def kept_arrays(meta: EpisodeMeta, size: int) -> set[Key]:
    """Choose the arrays of a file of ``size`` bytes that are kept whole in its head."""
    left = min(max(_KEPT_BYTES, int(size * _KEPT_SHARE)), _KEPT_MOST)
    kept = set[Key]()
    arrays = ((v, *item) for v, named in arrays_by_view(meta).items() for item in named.items())
    for view, name, array in sorted(arrays, key=lambda each: stored_bytes(each[2])):
        left -= stored_bytes(array)
        if len(array.shape) <= 1 or name == "queries" or (left >= 0 and array.codec != "jpeg"):
            kept.add((view, name))
    return kept


def stored_bytes(array: ArrayMeta) -> int:
    """Return the bytes an array takes in its file, unless it is compressed."""
    return math.prod(array.shape) * stored_dtype(array).itemsize


def check_kept(head: Head, meta: EpisodeMeta, where: str) -> Head:
    """Compare the kept arrays with their digests; returns the head.  Raises DatasetError."""
    arrays = arrays_by_view(meta)
    for (view, name), data in head.kept.items():
        if hashlib.sha256(data).hexdigest() != arrays[view][name].sha256:
            raise DatasetError(
                f"{where} is damaged: {array_path(view, name)} is not what its digest says; run "
                "letterset repair on that dataset"
            )
    return head


class RangedReader(FileReader):
    """One stored episode that is read by ranges.  ``path`` is that of its head."""

    def __init__(self, path: Path, episode_id: str, record: Any, far: FarFile) -> None:
        self.far = far
        self._local: FileReader | None = None
        self._head = Head.read(path)
        super().__init__(path, episode_id, record)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.path, self.episode_id, self._record, self.far)

    def local(self) -> FileReader | None:
        """Return the reader of the whole file, if it was fetched by this one."""
        return self._local

    def used(self, count: int) -> None:
        """Take note of ``count`` bytes that were fetched."""
        if self._local is None and (whole := self.far.used(count, self._head.size)):
            self._take(whole)

    def stored(self, key: Key) -> np.ndarray:
        """Map an array of the whole file, as it is stored."""
        return self._whole()._stored(*key)

    def problems(self) -> list[str]:
        """List what disagrees; the file is fetched whole for it."""
        return self._whole().problems()

    def stored_bytes(self, view: str | None, name: str) -> Iterator[bytes]:
        """Yield the bytes that a digest is taken over; the file is fetched whole for it."""
        self._meta_of(view, name)
        return self._whole().stored_bytes(view, name)

    def _whole(self) -> FileReader:
        return self._local or self._take(self.far.whole())

    def _take(self, whole: FileReader) -> FileReader:
        if whole.meta.digest != self.meta.digest:
            raise DatasetError(
                f"{whole.path} was replaced since it was opened: open the dataset again"
            )
        self._local = whole
        return whole

    def _open_nothing(self) -> None:
        pass  # nothing is ever open

    def _metadata(self) -> str:
        return self._head.text

    def _locate(self, view: str | None, name: str) -> int | None:
        return self._head.offsets[view, name]

    def _stored(self, view: str | None, name: str) -> Any:
        dtype, shape = stored_dtype(self._meta_of(view, name)), self._stored_shape(view, name)
        if (offset := self._head.offsets[view, name]) is None:
            return np.empty(shape, dtype)
        if (kept := self._head.kept.get((view, name))) is not None:
            return np.frombuffer(kept, dtype).reshape(shape)
        return RangeArray(self, (view, name), offset, shape, dtype)

    def _chunk(self, view: str | None, name: str, row: int) -> np.ndarray:
        packed: Rows = self._whole().array(view, name)
        return packed[row]

    def _disagreements(self) -> Iterator[str]:
        return iter(())  # those of the whole file are told by problems()


class RangeArray:
    """An array (...,) in C order of which the bytes are fetched that a key asks for.

    What precedes the first full slice, index array or ellipsis in a key is fetched exactly; a
    stepped slice with what lies between.
    """

    def __init__(
        self, reader: RangedReader, key: Key, offset: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)
        self._reader, self._key, self._offset = reader, key, offset

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.asarray(self[...])
        return values if dtype is None else values.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        if self._reader.local() is not None:
            return self._reader.stored(self._key)[key]
        wanted, shape, rest = self._span(key)
        data = _HELD.get({}).get(wanted)
        if data is None:
            (data,) = fetch([(self, wanted)]).values()
        return np.frombuffer(data, self.dtype).reshape(shape)[rest]

    def wanted(self, key: Any) -> Range | None:
        """Return the range that a key needs; None when it lies here."""
        return None if self._reader.local() is not None else self._span(key)[0]

    @property
    def reader(self) -> RangedReader:
        """The reader it is of."""
        return self._reader

    def _span(self, key: Any) -> tuple[Range, tuple[int, ...], Any]:
        """Return the range for a key, the shape of what it holds, and the key into that."""
        keys, shape, begin = list(key if isinstance(key, tuple) else (key,)), self.shape, 0
        while keys and shape and not isinstance(keys[0], bool | np.bool_):
            row = math.prod(shape[1:]) * self.dtype.itemsize
            if isinstance(keys[0], int | np.integer):
                at = range(shape[0])[keys.pop(0)]  # raises IndexError
                begin, shape = begin + at * row, shape[1:]
                continue
            if isinstance(keys[0], slice):
                rows = range(shape[0])[keys[0]]
                first, last = (min(rows[0], rows[-1]), max(rows[0], rows[-1])) if rows else (0, -1)
                begin, shape = begin + first * row, (last - first + 1, *shape[1:])
                keys[0] = slice(None, None, rows.step)
            break
        begin += self._offset
        end = begin + math.prod(shape) * self.dtype.itemsize
        return (self._reader.far.name, begin, end), shape, tuple(keys)


def fetch(wanted: Sequence[tuple[RangeArray, Range]]) -> dict[Range, bytes]:
    """Fetch ranges of arrays, those at one place at once.  Raises DatasetError."""
    places: dict[GetRanges, dict[Range, RangeArray]] = {}
    for array, span in wanted:
        places.setdefault(array.reader.far.get, {})[span] = array
    found: dict[Range, bytes] = {}
    for get, arrays in places.items():
        full = [span for span in arrays if span[1] < span[2]]
        found |= {span: b"" for span in arrays}
        for span, data in zip(full, get(full), strict=True):
            found[span] = data
            arrays[span].reader.used(len(data))
    return found


@contextmanager
def fetched_ahead(pieces: Iterable[tuple[Any, Any]]) -> Iterator[None]:
    """Fetch what ``array[key]`` needs of all pieces (array, key) at once, and hold it meanwhile.

    Pieces that lie here, and those that are held already, cost nothing.  Raises DatasetError.
    """
    held = _HELD.get({})
    ranges = (pair for array, key in pieces for pair in _ranges(array, key))
    missing = [(array, span) for array, span in ranges if span not in held]
    token = _HELD.set({**held, **fetch(missing)} if missing else held)
    try:
        yield
    finally:
        _HELD.reset(token)


def _ranges(array: Any, key: Any) -> Iterator[tuple[RangeArray, Range]]:
    if isinstance(array, FixedPoint):
        yield from _ranges(array.stored, key)
    elif isinstance(array, Rows) and array.packed is not None and isinstance(key, int | slice):
        rows = range(len(array))[key]
        for row in [rows] if isinstance(rows, int) else rows:
            yield from _ranges(*array.packed(row))
    elif isinstance(array, RangeArray) and (span := array.wanted(key)) is not None:
        yield array, span
