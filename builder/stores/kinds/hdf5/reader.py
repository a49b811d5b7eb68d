"""Reading one episode file: lazily, memory-mapped, and without trusting it.

The metadata attribute says which arrays there are; each must be an ordinary dataset of this
very file, of the stated type and shape.  Links to other places, other files' storage, virtual
datasets and object types are refused.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from builder.core.errors import DatasetError
from builder.stores.codecs import load_lz4
from builder.stores.kinds.hdf5.layout import disagreements, locate, surplus
from builder.stores.layout import METADATA, array_path, stored_dtype
from builder.stores.reading import FileReader, blame_limits, mapped
from schemas.dataset import EpisodeMeta


class Hdf5Reader(FileReader):
    """One episode file.  Safe to fork, small to pickle (it opens the file again)."""

    def __init__(self, path: Path, episode_id: str, record: Any = EpisodeMeta) -> None:
        self._open_nothing()
        # Where each contiguous array begins; None for chunked and empty ones.
        self._offsets: dict[tuple[str | None, str], int | None] = {}
        super().__init__(path, episode_id, record)

    def close(self) -> None:
        """Release files; arrays already handed out stay valid, the next access opens again."""
        if self._handle is not None and self._handle_pid == os.getpid():
            self._handle.close()
        self._open_nothing()

    def _open_nothing(self) -> None:
        self._map: mmap.mmap | None = None
        self._handle: Any = None
        self._handle_pid = 0

    def array(self, view: str | None, name: str) -> Any:
        """Return one array; see :class:`builder.stores.base.EpisodeReader`."""
        if self._meta_of(view, name).codec == "lz4":
            load_lz4()
        return super().array(view, name)

    def _metadata(self) -> str:
        with self._damage(METADATA):
            text = self._file().attrs.get(METADATA)
        if not isinstance(text, str):
            raise DatasetError(f"{self.path} is no episode file: it has no attribute {METADATA!r}")
        return text

    def _disagreements(self) -> Iterator[str]:
        with self._damage(METADATA):
            yield from disagreements(self._file(), self.meta, self._text)
            yield from surplus(self.path)

    def _locate(self, view: str | None, name: str) -> int | None:
        if (view, name) not in self._offsets:
            size, array = os.stat(self.path).st_size, self._meta_of(view, name)
            with self._damage(array_path(view, name)):
                self._offsets[view, name] = locate(self._file(), view, name, array, size)
        return self._offsets[view, name]

    def _stored(self, view: str | None, name: str) -> np.ndarray:
        """View a contiguous array in the mapped file."""
        offset, array = self._locate(view, name), self._meta_of(view, name)
        shape = self._stored_shape(view, name)
        if offset is None:
            return np.empty(shape, stored_dtype(array))
        with self._damage(array_path(view, name)):
            if self._map is None:
                self._map = mapped(self.path)
            return np.ndarray(shape, stored_dtype(array), self._map, offset)

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
            blame_limits(error)
            raise DatasetError(
                f"{self.path} is damaged or no episode file: {where}: {error}"
            ) from None
