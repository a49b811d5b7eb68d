"""Episodes as Zarr format 3: ``episodes.zarr/<id>/``, a group each, of a fixed number of files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from builder.core.errors import OutputError
from builder.core.records import stored_form
from builder.stores.atomic import fsync_folder, write_all
from builder.stores.columns import Put
from builder.stores.kinds.zarr.layout import META_FILE, Grid, group_json, pack
from builder.stores.kinds.zarr.reader import ZarrReader
from builder.stores.layout import METADATA, U16_ATTRS, view_attrs
from builder.stores.writing import FileStore, FileWriter
from schemas.dataset import EpisodeMeta


class ZarrWriter(FileWriter):
    """One episode being written.  Leaving the context without commit leaves nothing."""

    suffix: ClassVar = ".zarr"

    def _create(self) -> None:
        self._places: list[ZarrPlace] = []
        for parent in self.path.parents:
            if (parent / META_FILE).exists():
                raise OutputError(f"{self.path} lies inside an episode; choose another id")
        self._root = self._staged.folder / "root"
        self._lay_out(self._place)

    def _place(self, view: str | None) -> ZarrPlace:
        place = ZarrPlace(self._root if view is None else self._root / view)
        self._places.append(place)
        return place

    def _finish(self, meta: EpisodeMeta) -> None:
        for place in self._places:
            place.finish()
        for view in meta.views:
            _write_text(self._root / view.name / META_FILE, group_json(view_attrs(view)))
            fsync_folder(self._root / view.name)
        _write_text(self._root / META_FILE, group_json({}))
        fsync_folder(self._root)
        text = group_json({METADATA: stored_form(meta)})
        _write_text(self._staged.folder / META_FILE, text)
        fsync_folder(self._staged.folder)

    def _release(self) -> None:
        for place in self._places:
            place.close()


class ZarrStore(FileStore):
    """One Zarr group per episode, the folder ``episodes.zarr/<id>``."""

    place = "episodes.zarr"
    meta_file: ClassVar = META_FILE
    writer: ClassVar = ZarrWriter
    reader: ClassVar = ZarrReader


class ZarrPlace:
    """A group that arrays are created in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        self._arrays: list[_ArrayFolder] = []
        folder.mkdir(parents=True, exist_ok=True)

    def create(self, name: str, shape: tuple[int, ...], dtype: np.dtype, codec: str) -> Put:
        """Create an array; lz4 packs each row by itself."""
        if dtype.itemsize > 8:
            raise ValueError(f"{name}: Zarr has no dtype {dtype}")
        grid = Grid(shape, dtype, packed=codec == "lz4")
        attributes = U16_ATTRS if codec == "u16" else {}
        array = _ArrayFolder(self.folder / name, grid, grid.array_json(attributes))
        self._arrays.append(array)
        return array.put

    def finish(self) -> None:
        """Make all arrays complete and durable."""
        for array in self._arrays:
            array.finish()

    def close(self) -> None:
        """Release the files."""
        for array in self._arrays:
            array.close()


class _ArrayFolder:
    """One array being written: its rows go straight to their place in the file."""

    def __init__(self, folder: Path, grid: Grid, text: str) -> None:
        self.folder, self.grid = folder, grid
        self._at, self._file = 0, -1
        self._ends: list[int] = []
        folder.mkdir()
        _write_text(folder / META_FILE, text)
        if grid.nbytes:
            path = folder / grid.file_name
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def put(self, at: int, rows: np.ndarray) -> None:
        """Take the next rows."""
        if self._file < 0:
            return
        if not self.grid.packed:
            self._append(rows.tobytes())
            return
        for row in rows:
            self._append(pack(row))
            self._ends.append(self._at)

    def _append(self, data: bytes) -> None:
        write_all(self._file, data, self._at)
        self._at += len(data)

    def finish(self) -> None:
        """Write the index of a shard; then everything is on the disk."""
        if self._file >= 0:
            if self.grid.packed:
                self._append(self.grid.index(np.array(self._ends, "<u8")).tobytes())
            elif self.grid.sharded:
                self._append(self.grid.tail())
            os.fsync(self._file)
            self.close()
        fsync_folder(self.folder)

    def close(self) -> None:
        """Release the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _write_text(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(descriptor, text.encode(), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
