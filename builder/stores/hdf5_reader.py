"""Reading one episode file: lazily, memory-mapped, and without trusting it.

The metadata attribute says which arrays there are; each must be an ordinary dataset of this
very file, of the stated type and shape.  Links to other places, other files' storage, virtual
datasets and object types are refused.
"""

from __future__ import annotations

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
        self._refused: dict[tuple[str | None, str], str] = {}
        self._other: list[str] = []
        try:
            with _open_file(path) as file:
                self._load(file)
        except FileNotFoundError:
            raise DatasetError(f"there is no episode {episode_id!r}: {path} is missing") from None
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise DatasetError(f"{path} is damaged or no episode file: {error}") from None

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.episode_id)

    def __enter__(self) -> Hdf5Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release files; arrays already handed out stay valid, the next access opens again."""
        self._map = None
        if self._handle is not None and self._handle_pid == os.getpid():
            self._handle.close()
        self._handle = None

    def _load(self, file: Any) -> None:
        text = file.attrs.get(METADATA)
        if not isinstance(text, str):
            raise DatasetError(f"{self.path} is no episode file: it has no attribute {METADATA!r}")
        self.meta = parse_record(EpisodeMeta, text, str(self.path))
        if self.meta.id != self.episode_id:
            raise DatasetError(
                f"{self.path} holds episode {self.meta.id!r}, expected {self.episode_id!r}: "
                "was it moved or renamed? Put it back"
            )
        size = os.stat(self.path).st_size
        for view, arrays in arrays_by_view(self.meta).items():
            for name, array in arrays.items():
                try:
                    self._offsets[view, name] = locate(file, view, name, array, size)
                except (ValueError, KeyError, OSError, RuntimeError, TypeError) as error:
                    reason = error.args[0] if error.args else repr(error)
                    self._refused[view, name] = f"{array_path(view, name)}: {reason}"
        self._other = list(disagreements(file, self.meta, text))

    def problems(self) -> list[str]:
        """List arrays that cannot be read, and copies that disagree with the metadata."""
        return [*self._refused.values(), *self._other]

    def array(self, view: str | None, name: str) -> Any:
        """Return one array: read-only, memory-mapped where it is stored plainly.

        See :class:`builder.stores.base.EpisodeReader`.  Raises DatasetError when the file does
        not hold it as the metadata says.
        """
        array = self._meta_of(view, name)
        if array.codec == "jpeg":
            offsets = self.array(view, f"{name}_offsets")
            _, height, width, _ = array.shape
            data = self._stored(view, name)
            row = partial(self._jpeg_row, data, offsets, (height, width), name)
            return Rows(array.shape, "uint8", row)
        if array.codec == "lz4":
            load_lz4()
            return Rows(array.shape, array.dtype, partial(self._chunk, view, name))
        stored = self._stored(view, name)
        return FixedPoint(stored) if array.codec == "u16" else stored

    def stored_bytes(self, view: str | None, name: str) -> Iterator[bytes]:
        """Yield, in bounded pieces, the bytes that ``ArrayMeta.sha256`` is taken over."""
        if self._meta_of(view, name).codec == "lz4":
            for row in range(len(rows := self.array(view, name))):
                yield rows[row].tobytes()
            return
        stored = self._stored(view, name).reshape(-1)
        step = max(1, _PIECE_BYTES // stored.itemsize)
        for at in range(0, stored.size, step):
            yield stored[at : at + step].tobytes()

    def _meta_of(self, view: str | None, name: str) -> ArrayMeta:
        arrays = self.meta.arrays if view is None else self.meta.view(view).arrays
        if name not in arrays:
            where = self.meta.id if view is None else f"view {view!r} of {self.meta.id}"
            raise KeyError(f"no array {name!r} in {where}; it has {sorted(arrays)}")
        if (view, name) in self._refused:
            raise DatasetError(f"{self.path} is damaged: {self._refused[view, name]}")
        return arrays[name]

    def _stored(self, view: str | None, name: str) -> np.ndarray:
        """View a contiguous array in the mapped file."""
        array, offset = self._meta_of(view, name), self._offsets[view, name]
        dtype = stored_dtype(array)
        shape = array.shape
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r")
        if array.codec == "jpeg":
            shape = (int(self.array(view, f"{name}_offsets")[-1]),)
        if offset is None:
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, self._map.data, offset)

    def _jpeg_row(
        self, data: np.ndarray, offsets: np.ndarray, shape: tuple[int, int], name: str, row: int
    ) -> np.ndarray:
        begin, end = int(offsets[row]), int(offsets[row + 1])
        if not 0 <= begin <= end <= len(data):
            raise DatasetError(f"{self.path} is damaged: {name}_offsets jump at row {row}")
        return decode_jpeg(data[begin:end], shape, f"{self.path}: {name}[{row}]")

    def _chunk(self, view: str | None, name: str, row: int) -> np.ndarray:
        if self._handle is None or self._handle_pid != os.getpid():
            # A handle must not be shared with the process this one was forked from.
            self._handle, self._handle_pid = _open_file(self.path), os.getpid()
        try:
            return self._handle[array_path(view, name)][row]
        except OSError as error:
            where = f"{array_path(view, name)}[{row}]"
            raise DatasetError(f"{self.path} is damaged: {where}: {error}") from None


def _open_file(path: Path) -> Any:
    # Committed files never change, so there is nothing to lock (and some filesystems cannot).
    return h5py.File(path, "r", locking=False)
