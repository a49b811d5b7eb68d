"""Reading one Zarr episode: memory-mapped, lazily, and without trusting it.

Nothing in ``zarr.json`` is obeyed: it must be, to the byte, what follows from the metadata.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from builder.core.errors import DatasetError
from builder.stores.base import arrays_by_view
from builder.stores.kinds.zarr.layout import META_FILE, Grid, group_json, unpack
from builder.stores.layout import METADATA, U16_ATTRS, array_path, stored_dtype, view_attrs
from builder.stores.reading import FileReader, blame_limits, mapped
from schemas.base import canonical_json
from schemas.dataset import EpisodeMeta

_SMALL_BYTES = 1 << 16


class ZarrReader(FileReader):
    """One episode folder.  Safe to fork, small to pickle (it opens the files again)."""

    def __init__(self, path: Path, episode_id: str, record: Any = EpisodeMeta) -> None:
        self._folder = path.parent
        # Arrays whose zarr.json was compared with the metadata, and how each is stored.
        self._checked: dict[tuple[str | None, str], Grid] = {}
        self._open_nothing()
        super().__init__(path, episode_id, record)

    def close(self) -> None:
        """Release files; arrays already handed out stay valid, the next access opens again."""
        self._open_nothing()

    def _open_nothing(self) -> None:
        self._maps: dict[tuple[str | None, str], np.ndarray] = {}
        self._ends: dict[tuple[str | None, str], np.ndarray] = {}

    def _metadata(self) -> str:
        try:
            with self._damage(META_FILE):
                text = json.loads(_read(self.path))["attributes"][METADATA]
        except RecursionError:
            text = None
        if not isinstance(text, str):
            raise DatasetError(f"{self.path} is no episode: it has no attribute {METADATA!r}")
        return text

    def _grid(self, view: str | None, name: str) -> Grid:
        array = self._meta_of(view, name)
        return Grid(self._stored_shape(view, name), stored_dtype(array), array.codec == "lz4")

    def _locate(self, view: str | None, name: str) -> Path:
        """Check an array's files against its metadata; returns the one with its bytes."""
        where = array_path(view, name)
        folder = self._folder / where
        with self._damage(where):
            if (view, name) not in self._checked:
                self._checked[view, name] = self._checked_grid(view, name)
            grid = self._checked[view, name]
            if not grid.nbytes:
                return folder
            if grid.packed:
                self._packed_ends(view, name, folder / grid.file_name, grid)
                return folder / grid.file_name
            size = _size(folder / grid.file_name)
            if size != grid.file_bytes:
                raise ValueError(f"{grid.file_name} has {size} bytes, expected {grid.file_bytes}")
            return folder / grid.file_name

    def _checked_grid(self, view: str | None, name: str) -> Grid:
        """Compare an array's ``zarr.json`` with the metadata; return how it is stored."""
        folder, meta = _below(self._folder, array_path(view, name)), self._meta_of(view, name)
        if meta.codec not in ("raw", "u16", "jpeg", "lz4"):
            raise ValueError(f"unknown codec {meta.codec!r}")
        grid = self._grid(view, name)
        attributes = U16_ATTRS if meta.codec == "u16" else {}
        if _read(folder / META_FILE).decode() != grid.array_json(attributes):
            raise ValueError(f"{META_FILE} is not what follows from the metadata")
        return grid

    def _packed_ends(self, view: str | None, name: str, path: Path, grid: Grid) -> np.ndarray:
        """Return where each packed row ends; the index must be without gaps."""
        if (view, name) not in self._ends:
            body = _size(path) - 16 * grid.chunks
            if body < 0:
                raise ValueError(f"{path.name} is cut short")
            index = np.fromfile(path, "<u8", offset=body).reshape(-1, 2)
            ends = np.cumsum(index[:, 1], dtype="<u8")
            if not np.array_equal(index, grid.index(ends)) or ends[-1] != body:
                raise ValueError(f"the index of {path.name} is damaged")
            self._ends[view, name] = ends
        return self._ends[view, name]

    def _stored(self, view: str | None, name: str) -> np.ndarray:
        if (view, name) not in self._maps:
            path, grid = self._locate(view, name), self._grid(view, name)
            if not grid.nbytes:
                return np.empty(grid.shape, grid.dtype)
            with self._damage(array_path(view, name)):
                # Each map keeps a file open: small arrays are read instead.
                if grid.file_bytes > _SMALL_BYTES:
                    data: Any = mapped(path)
                else:
                    data = path.read_bytes()
                self._maps[view, name] = np.ndarray(grid.shape, grid.dtype, data)
        return self._maps[view, name]

    def _chunk(self, view: str | None, name: str, row: int) -> np.ndarray:
        where, grid = array_path(view, name), self._grid(view, name)
        out = np.empty(grid.shape[1:], grid.dtype)
        if not grid.nbytes:
            return out
        with self._damage(f"{where}[{row}]"):
            path = self._folder / where / grid.file_name
            ends = self._packed_ends(view, name, path, grid)
            begin, end = int(ends[row - 1]) if row else 0, int(ends[row])
            data = np.fromfile(path, np.uint8, count=end - begin, offset=begin)
            try:
                unpack(data.tobytes(), out)
            except RuntimeError as error:
                raise ValueError(str(error)) from None
        return out

    def _disagreements(self) -> Iterator[str]:
        expected = {Path(META_FILE): group_json({METADATA: canonical_json(json.loads(self._text))})}
        expected[Path("root", META_FILE)] = group_json({})
        for view in self.meta.views:
            expected[Path("root", view.name, META_FILE)] = group_json(view_attrs(view))
        for relative, text in expected.items():
            with contextlib.suppress(OSError):
                if _read(self._folder / relative).decode(errors="replace") == text:
                    continue
            yield f"{self._folder / relative} is missing, was edited or is damaged"
        known = {*expected}
        for view_name, arrays in arrays_by_view(self.meta).items():
            for name in arrays:
                with contextlib.suppress(DatasetError):  # what cannot be read is told elsewhere
                    place, grid = Path(array_path(view_name, name)), self._grid(view_name, name)
                    known |= {place / META_FILE, place / grid.file_name}
                    yield from self._damaged_tail(self._locate(view_name, name), grid)
        for path in sorted(self._folder.rglob("*")):
            if not path.is_dir() and path.relative_to(self._folder) not in known:
                yield f"{path} is in the episode but not in its metadata"

    def _damaged_tail(self, path: Path, grid: Grid) -> Iterator[str]:
        """Compare what follows the rows in a shard, which no digest covers."""
        if grid.nbytes and not grid.packed:
            if np.fromfile(path, np.uint8, offset=grid.nbytes).tobytes() != grid.tail():
                yield f"the index of {path} is damaged"

    @contextlib.contextmanager
    def _damage(self, where: str) -> Iterator[None]:
        """Turn whatever damage makes reading raise into a DatasetError."""
        try:
            yield
        except FileNotFoundError as error:
            message = f"there is no episode {self.episode_id!r}: {self.path} is missing"
            if self.path.exists():
                message = f"{self._folder} is damaged: {where}: {error.filename} is missing"
            raise DatasetError(message) from None
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            blame_limits(error)
            raise DatasetError(f"{self._folder} is damaged: {where}: {error}") from None


def _below(folder: Path, relative: str) -> Path:
    """Go down to a folder, refusing links on the way."""
    for part in relative.split("/"):
        folder = folder / part
        if folder.is_symlink():
            raise ValueError("links to other places are refused")
    return folder


def _size(path: Path) -> int:
    """Return the size of a regular file; raises ValueError for anything else."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is no regular file")
    return status.st_size


def _read(path: Path) -> bytes:
    _size(path)
    return path.read_bytes()
