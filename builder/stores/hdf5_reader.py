"""Reading one episode file: lazily, memory-mapped, and without trusting it.

The metadata attribute says which arrays there are; each must be an ordinary dataset of this
very file, of the stated type and shape.  Links to other places, other files' storage, virtual
datasets and object types are refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from builder.errors import DatasetError
from builder.records import parse_record
from builder.stores.base import arrays_by_view
from builder.stores.codecs import FixedPoint, Rows, decode_jpeg, load_lz4
from builder.stores.hdf5_layout import METADATA, array_path, disagreements, locate, stored_dtype
from schemas.dataset import ArrayMeta, EpisodeMeta

_PIECE_BYTES = 4 << 20


class Hdf5Reader:
    """One episode file.  Safe to fork, small to pickle (it opens the file again)."""

    meta: EpisodeMeta

    def __init__(self, path: Path, episode_id: str) -> None:
        self.path, self.episode_id = path, episode_id
        self._map: np.ndarray | None = None
        self._handle: Any = None
        self._handle_pid = 0
        # Where each contiguous array begins; None for chunked and empty ones.
        self._offsets: dict[tuple[str | None, str], int | None] = {}
        self._text = self._metadata()
        self.meta = parse_record(EpisodeMeta, self._text, str(path))
        if self.meta.id != episode_id:
            raise DatasetError(
                f"{path} holds episode {self.meta.id!r}, expected {episode_id!r}: "
                "was it moved or renamed? Put it back"
            )

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.episode_id)

    def close(self) -> None:
        """Release files; arrays already handed out stay valid, the next access opens again."""
        self._map = None
        if self._handle is not None and self._handle_pid == os.getpid():
            self._handle.close()
        self._handle = None

    def problems(self) -> list[str]:
        """List arrays that cannot be read, and copies that disagree with the metadata."""
        found = []
        for view, arrays in arrays_by_view(self.meta).items():
            for name in arrays:
                try:
                    self._locate(view, name)
                except DatasetError as error:
                    found.append(str(error))
        with self._damage(METADATA):
            found += disagreements(self._file(), self.meta, self._text)
        return found

    def array(self, view: str | None, name: str) -> Any:
        """Return one array: read-only, memory-mapped where it is stored plainly.

        See :class:`builder.stores.base.EpisodeReader`.  Raises DatasetError when the file does
        not hold it as the metadata says.
        """
        array = self._meta_of(view, name)
        if array.codec == "jpeg":
            _, height, width, _ = array.shape
            data, offsets = self._stored(view, name), self.array(view, f"{name}_offsets")
            row = partial(self._jpeg_row, data, offsets, (height, width), name)
            return Rows(array.shape, "uint8", row)
        if array.codec == "lz4":
            load_lz4()
            self._locate(view, name)
            return Rows(array.shape, array.dtype, partial(self._chunk, view, name))
        stored = self._stored(view, name)
        return FixedPoint(stored) if array.codec == "u16" else stored

    def stored_bytes(self, view: str | None, name: str) -> Iterator[bytes]:
        """Yield, in bounded pieces, the bytes that ``ArrayMeta.sha256`` is taken over."""
        if self._meta_of(view, name).codec == "lz4":
            rows = self.array(view, name)
            yield from (rows[at].tobytes() for at in range(len(rows)))
            return
        stored = self._stored(view, name).reshape(-1)
        step = max(1, _PIECE_BYTES // stored.itemsize)
        yield from (stored[at : at + step].tobytes() for at in range(0, stored.size, step))

    def _metadata(self) -> str:
        with self._damage(METADATA):
            text = self._file().attrs.get(METADATA)
        if not isinstance(text, str):
            raise DatasetError(f"{self.path} is no episode file: it has no attribute {METADATA!r}")
        return text

    def _meta_of(self, view: str | None, name: str) -> ArrayMeta:
        arrays = self.meta.arrays if view is None else self.meta.view(view).arrays
        if name not in arrays:
            where = self.meta.id if view is None else f"view {view!r} of {self.meta.id}"
            raise KeyError(f"no array {name!r} in {where}; it has {sorted(arrays)}")
        return arrays[name]

    def _locate(self, view: str | None, name: str) -> int | None:
        if (view, name) not in self._offsets:
            size, array = os.stat(self.path).st_size, self._meta_of(view, name)
            with self._damage(array_path(view, name)):
                self._offsets[view, name] = locate(self._file(), view, name, array, size)
        return self._offsets[view, name]

    def _stored(self, view: str | None, name: str) -> np.ndarray:
        """View a contiguous array in the mapped file."""
        offset, array = self._locate(view, name), self._meta_of(view, name)
        shape: tuple[int, ...] = array.shape
        if array.codec == "jpeg":
            shape = (int(self.array(view, f"{name}_offsets")[-1]),)
        if offset is None:
            return np.empty(shape, stored_dtype(array))
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r")
        with self._damage(array_path(view, name)):
            return np.ndarray(shape, stored_dtype(array), self._map.data, offset)

    def _jpeg_row(
        self, data: np.ndarray, offsets: np.ndarray, shape: tuple[int, int], name: str, row: int
    ) -> np.ndarray:
        begin, end = int(offsets[row]), int(offsets[row + 1])
        if not 0 <= begin <= end <= len(data):
            raise DatasetError(f"{self.path} is damaged: {name}_offsets jump at row {row}")
        return decode_jpeg(data[begin:end], shape, f"{self.path}: {name}[{row}]")

    def _chunk(self, view: str | None, name: str, row: int) -> np.ndarray:
        path = array_path(view, name)
        with self._damage(f"{path}[{row}]"):
            return self._file()[path][row]

    def _file(self) -> Any:
        if self._handle is None or self._handle_pid != os.getpid():
            # A handle must not be shared with the process this one was forked from.  Locking
            # otherwise than h5py does by default would keep users from opening the file too.
            self._handle = h5py.File(self.path, "r", locking="best-effort")
            self._handle_pid = os.getpid()
        return self._handle

    @contextlib.contextmanager
    def _damage(self, where: str) -> Iterator[None]:
        """Turn whatever a damaged file makes HDF5 raise into a DatasetError."""
        try:
            yield
        except FileNotFoundError:
            message = f"there is no episode {self.episode_id!r}: {self.path} is missing"
            raise DatasetError(message) from None
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise DatasetError(
                f"{self.path} is damaged or no episode file: {where}: {error}"
            ) from None
