"""Arrays on their way into an episode: buffered, in order, hashed as they pass."""

from __future__ import annotations

import contextlib
import hashlib
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import TypeAdapter

from builder.stores.base import ArraySpec, Encoded
from builder.stores.codecs import encode_jpeg, encode_u16
from builder.stores.layout import STORED_DTYPES
from schemas.dataset import ArrayMeta, Name

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_BUFFER_BYTES = 1 << 20

Put = Callable[[int, np.ndarray], None]
"""Takes rows (rows, ...) as they are stored, each call at the row where the last one ended."""


class Place(Protocol):
    """Where the arrays of one view, or of the root, go; ``name`` is for messages."""

    name: str

    def create(self, name: str, shape: tuple[int, ...], dtype: np.dtype, codec: str) -> Put:
        """Create an array of this stored shape and dtype.  A scalar () gets one row."""
        ...


def make_column(place: Place, name: str, spec: ArraySpec, scratch_folder: Path) -> Column:
    """Create the array ``name``; raises ValueError for an impossible spec."""
    _NAME.validate_python(name)
    if np.dtype(spec.dtype).kind not in "biuf":
        raise ValueError(f"{name}: only numbers can be stored, got dtype {spec.dtype}")
    kinds = {"raw": Column, "lz4": Column, "u16": Column, "jpeg": JpegColumn}
    if spec.codec not in kinds:
        raise ValueError(f"{name}: unknown codec {spec.codec!r}; there are {', '.join(kinds)}")
    return kinds[spec.codec](place, name, spec, scratch_folder)


class Column:
    """One array being written: raw, LZ4 row by row, or u16 fixed point."""

    def __init__(self, place: Place, name: str, spec: ArraySpec, scratch_folder: Path) -> None:
        self.place, self.name, self.spec = place, name, spec
        self.dtype = np.dtype(spec.dtype).newbyteorder("<")
        self._scratch_folder = scratch_folder
        # A scalar is one row of nothing.
        self.shape = spec.shape or (1,)
        self._written = 0
        self._sha = hashlib.sha256()
        self._open()

    def _open(self) -> None:
        stored = np.dtype(STORED_DTYPES.get(self.spec.codec, self.dtype))
        self._put = self.place.create(self.name, self.spec.shape, stored, self.spec.codec)
        row_bytes = stored.itemsize * math.prod(self.shape[1:])
        rows = min(self.shape[0], max(1, _BUFFER_BYTES // max(1, row_bytes)))
        self._buffer = np.empty((rows, *self.shape[1:]), stored)
        self._buffered = self._flushed = 0

    def write(self, at: int, block: np.ndarray | Encoded) -> None:
        """Take the next rows; raises ValueError for a gap or a block that does not fit."""
        if isinstance(block, Encoded):
            raise ValueError(f"{self.place.name}/{self.name} has codec {self.spec.codec}, not jpeg")
        block = np.asarray(block)
        if not self.spec.shape:
            block = block.reshape(1)
        if (
            at != self._written
            or block.ndim != len(self.shape)
            or block.shape[1:] != self.shape[1:]
            or at + len(block) > self.shape[0]
            or block.dtype.newbyteorder("<") != self.dtype
        ):
            raise ValueError(
                f"{self.place.name}/{self.name} is {self.dtype} {self.shape} and has "
                f"{self._written} rows so far; got {block.dtype} {block.shape} for row {at}"
            )
        self._take(block)
        self._written += len(block)

    def _take(self, block: np.ndarray) -> None:
        if self.spec.codec == "u16":
            block = encode_u16(block, f"{self.place.name}/{self.name}")
        while len(block):
            if not self._buffered and len(block) >= len(self._buffer):
                self._flush(np.ascontiguousarray(block, self._buffer.dtype))
                return
            rows = min(len(block), len(self._buffer) - self._buffered)
            self._buffer[self._buffered : self._buffered + rows] = block[:rows]
            self._buffered += rows
            block = block[rows:]
            if self._buffered == len(self._buffer):
                self._flush(self._buffer)
                self._buffered = 0

    def _flush(self, rows: np.ndarray) -> None:
        self._sha.update(rows.data)
        self._put(self._flushed, rows)
        self._flushed += len(rows)

    def finish(self) -> dict[str, ArrayMeta]:
        """Describe the complete array; may be called again.  Raises ValueError if rows miss."""
        self._check_complete()
        if self._buffered:
            self._flush(self._buffer[: self._buffered])
            self._buffered = 0
        return {self.name: self._meta()}

    def _check_complete(self) -> None:
        if self._written != self.shape[0]:
            raise ValueError(
                f"{self.place.name}/{self.name} has {self._written} of {self.shape[0]} rows"
            )

    def _meta(self) -> ArrayMeta:
        return ArrayMeta(
            dtype=self.dtype.name,
            shape=self.spec.shape,
            sha256=self._sha.hexdigest(),
            codec=self.spec.codec,
            per_frame=self.spec.per_frame,
        )

    def close(self) -> None:
        """Release what is held besides the file."""


class JpegColumn(Column):
    """Frames (T, H, W, 3) uint8 RGB as JPEG files one after another.

    ``<name>_offsets`` (T+1,) int64 says where each begins.  Their total size is known only at
    the end and contiguous storage cannot grow, so they wait in a nameless scratch file.
    """

    def _open(self) -> None:
        if self.dtype != np.uint8 or len(self.shape) != 4 or self.shape[3] != 3:
            raise ValueError(
                f"{self.name}: jpeg is for frames (T, H, W, 3) uint8, got {self.dtype} {self.shape}"
            )
        self._scratch = tempfile.TemporaryFile(dir=self._scratch_folder)
        self._offsets = [0]
        self._metas: dict[str, ArrayMeta] = {}

    def write(self, at: int, block: np.ndarray | Encoded) -> None:
        """Take the next frames, or one that is encoded already."""
        if not isinstance(block, Encoded):
            super().write(at, block)
            return
        if at != self._written or at >= self.shape[0]:
            raise ValueError(
                f"{self.place.name}/{self.name} has {self._written} of {self.shape[0]} frames; "
                f"got one for row {at}"
            )
        self._append(block.data)
        self._written += 1

    def _take(self, block: np.ndarray) -> None:
        for frame in block:
            self._append(encode_jpeg(frame, self.spec.quality))

    def _append(self, data: bytes) -> None:
        self._scratch.write(data)
        self._sha.update(data)
        self._offsets.append(self._offsets[-1] + len(data))

    def finish(self) -> dict[str, ArrayMeta]:
        """Move the frames into the file and describe both arrays; may be called again."""
        if not self._metas:
            self._check_complete()
            self._copy()
            spec = ArraySpec((len(self._offsets),), "int64")
            offsets = Column(self.place, f"{self.name}_offsets", spec, self._scratch_folder)
            offsets.write(0, np.array(self._offsets, "<i8"))
            self._metas = {self.name: self._meta(), **offsets.finish()}
        return self._metas

    def _copy(self) -> None:
        size = self._offsets[-1]
        put = self.place.create(self.name, (size,), np.dtype(np.uint8), "raw")
        self._scratch.seek(0)
        for at in range(0, size, _BUFFER_BYTES):
            put(at, np.frombuffer(self._scratch.read(_BUFFER_BYTES), np.uint8))

    def close(self) -> None:
        """Drop the scratch file."""
        # What a full disk did not take is not needed any more.
        with contextlib.suppress(OSError):
            self._scratch.close()
