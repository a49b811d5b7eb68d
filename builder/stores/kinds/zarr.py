"""Episodes as Zarr format 3: ``episodes.zarr/<id>/``, a group each, of a fixed number of files.

Arrays are written so that their bytes lie in one file in row order: an array is a folder with
``zarr.json`` and, unless it is empty, one file: the array itself, or, for larger ones, one shard
with some rows per chunk, in order, and its index at the end.  Both can be written as a stream and
memory-mapped, which no general library does; any reader of Zarr 3 can read them.

``zarr.json`` follows from the metadata alone.  Nothing in it is obeyed: it must be, to the byte,
what follows.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from builder.core.errors import DatasetError, OutputError, UnreadableError
from builder.core.own_files import METADATA
from builder.core.records import stored_form
from builder.core.registry import import_extra
from builder.stores.atomic import fsync_folder, write_all
from builder.stores.base import arrays_by_view
from builder.stores.codecs import U16_ATTRS, stored_dtype
from builder.stores.reading import (
    FileReader,
    array_path,
    blame_environment,
    mapped,
    view_attrs,
)
from builder.stores.writing import FileStore, FileWriter, Put
from schemas.base import canonical_json
from schemas.dataset import EpisodeMeta

META_FILE = "zarr.json"

# Smaller arrays are one chunk; the others are shards of chunks of about so many bytes.
_WHOLE_BYTES = 1 << 20
_CHUNK_BYTES = 256 << 10
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
# Each memory map keeps a file open: arrays up to this size are read instead.
_SMALL_BYTES = 1 << 16


class ZarrWriter(FileWriter):
    """One episode being written.  Leaving the context without commit leaves nothing."""

    suffix: ClassVar = ".zarr"

    def _create(self) -> None:
        self._arrays: list[_ZarrArray] = []
        for parent in self.path.parents:
            if (parent / META_FILE).exists():
                raise OutputError(f"{self.path} lies inside an episode; choose another id")
        self._root = self._staged.folder / "root"
        self._lay_out(lambda view: ZarrGroup(self._root / (view or ""), self._arrays))

    def _finish(self, meta: EpisodeMeta) -> None:
        for array in self._arrays:
            array.finish()
        for view in meta.views:
            _write_text(self._root / view.name / META_FILE, _json("group", view_attrs(view)))
            fsync_folder(self._root / view.name)
        _write_text(self._root / META_FILE, _json("group", {}))
        fsync_folder(self._root)
        text = _json("group", {METADATA: stored_form(meta)})
        _write_text(self._staged.folder / META_FILE, text)
        fsync_folder(self._staged.folder)

    def _release(self) -> None:
        for array in self._arrays:
            array.close()


class ZarrGroup:
    """A group being written; its arrays are added to ``arrays``."""

    def __init__(self, folder: Path, arrays: list[_ZarrArray]) -> None:
        self.folder, self.name, self._arrays = folder, folder.name, arrays
        folder.mkdir(parents=True, exist_ok=True)

    def create(self, name: str, shape: tuple[int, ...], dtype: np.dtype, codec: str) -> Put:
        """Create an array; lz4 packs each row by itself."""
        if dtype.itemsize > 8:
            raise ValueError(f"{name}: Zarr has no dtype {dtype}")
        grid = Grid(shape, dtype, packed=codec == "lz4")
        array = _ZarrArray(self.folder / name, grid, grid.array_json(codec))
        self._arrays.append(array)
        return array.put


class _ZarrArray:
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


class ZarrReader(FileReader):
    """One episode folder.  Safe to fork, small to pickle (it opens the files again)."""

    def __init__(self, path: Path, episode_id: str, record: Any = EpisodeMeta) -> None:
        self._folder = path.parent
        # Arrays whose zarr.json was compared with the metadata, and how each is stored.
        self._checked: dict[tuple[str | None, str], Grid] = {}
        self._open_nothing()
        super().__init__(path, episode_id, record)

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
        if _read(folder / META_FILE).decode() != grid.array_json(meta.codec):
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

    def _place(self, view: str | None, name: str) -> tuple[Path, int] | None:
        return (self._locate(view, name), 0) if self._grid(view, name).nbytes else None

    def _stored(self, view: str | None, name: str) -> np.ndarray:
        if (view, name) not in self._maps:
            path, grid = self._locate(view, name), self._grid(view, name)
            if not grid.nbytes:
                return np.empty(grid.shape, grid.dtype)
            with self._damage(array_path(view, name)):
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
            self.check_current()
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
        text = canonical_json(json.loads(self._text))
        expected = {Path(META_FILE): _json("group", {METADATA: text})}
        expected[Path("root", META_FILE)] = _json("group", {})
        for view in self.meta.views:
            expected[Path("root", view.name, META_FILE)] = _json("group", view_attrs(view))
        for relative, text in expected.items():
            if _text(self._folder / relative) != text:
                yield f"{self._folder / relative} is missing, was edited or is damaged"
        known = {*expected}
        for view_name, arrays in arrays_by_view(self.meta).items():
            for name in arrays:
                try:
                    place, grid = Path(array_path(view_name, name)), self._grid(view_name, name)
                    known |= {place / META_FILE, place / grid.file_name}
                    yield from self._bad_tail(self._locate(view_name, name), grid)
                except UnreadableError:
                    raise
                except DatasetError:
                    pass  # damage is told elsewhere
        for path in sorted(self._folder.rglob("*")):
            if not path.is_dir() and path.relative_to(self._folder) not in known:
                yield f"{path} is in the episode but not in its metadata"

    def _bad_tail(self, path: Path, grid: Grid) -> Iterator[str]:
        """Look at what follows the rows in a shard, which no digest covers."""
        if not grid.nbytes or grid.packed:
            return
        with self._damage(path.name):
            tail = np.fromfile(path, np.uint8, offset=grid.nbytes).tobytes()
        if tail != grid.tail():
            yield f"the index of {path} is damaged"

    @contextlib.contextmanager
    def _damage(self, where: str) -> Iterator[None]:
        """Turn whatever damage makes reading raise into a DatasetError."""
        try:
            yield
        except FileNotFoundError as error:
            self.check_current()
            message = f"there is no episode {self.episode_id!r}: {self.path} is missing"
            if self.path.exists():
                message = f"{self._folder} is damaged: {where}: {error.filename} is missing"
            raise DatasetError(message) from None
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            blame_environment(error, self._folder)
            self.check_current()
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


def _text(path: Path) -> str | None:
    """Read a text; None when it is not there.  Raises UnreadableError."""
    try:
        return _read(path).decode(errors="replace")
    except (OSError, ValueError) as error:
        blame_environment(error, path)
        return None


@dataclass(frozen=True)
class Grid:
    """How an array of a stored ``shape`` and ``dtype`` is cut into chunks of ``rows`` rows."""

    shape: tuple[int, ...]
    dtype: np.dtype
    packed: bool
    """Whether each row is compressed by itself."""

    @property
    def nbytes(self) -> int:
        """Bytes of the array, unpacked."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def sharded(self) -> bool:
        """Whether chunks lie in a shard with an index."""
        return self.packed or self.nbytes > _WHOLE_BYTES

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, unpacked."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def rows(self) -> int:
        """Rows per chunk."""
        if self.packed:
            return 1
        if self.sharded:
            return max(1, _CHUNK_BYTES // self.row_bytes)
        return max(1, self.shape[0]) if self.shape else 1

    @property
    def chunks(self) -> int:
        """Chunks in the shard."""
        return -(-self.shape[0] // self.rows) if self.shape else 1

    @property
    def file_name(self) -> str:
        """Name of the one file beside ``zarr.json``."""
        return ".".join(["c", *"0" * len(self.shape)])

    def index(self, ends: np.ndarray) -> np.ndarray:
        """Return a shard's index, (chunks, 2) uint64: offset and size of each chunk."""
        index = np.empty((self.chunks, 2), "<u8")
        index[0, 0], index[1:, 0] = 0, ends[:-1]
        index[:, 1] = ends - index[:, 0]
        return index

    @property
    def file_bytes(self) -> int:
        """Bytes of the file of an array that is not packed."""
        if not self.sharded:
            return self.nbytes
        return self.chunks * (self.rows * self.row_bytes + 16)

    def tail(self) -> bytes:
        """Return what follows the rows of an array that is not packed: padding and index."""
        if not self.sharded:
            return b""
        size = self.rows * self.row_bytes
        index = self.index(np.arange(1, self.chunks + 1, dtype="<u8") * size)
        return bytes(self.chunks * size - self.nbytes) + index.tobytes()

    def codecs(self) -> list[dict[str, Any]]:
        """Return the codec chain of the array."""
        inner = [_BYTES]
        if self.packed:
            # The checksum covers the packed bytes, which our own digest does not.
            inner = [_BYTES, _blosc(self.dtype.itemsize), {"name": "crc32c"}]
        if not self.sharded:
            return inner
        configuration = {
            "chunk_shape": self._chunk_shape(self.rows),
            "codecs": inner,
            "index_codecs": [_BYTES],
            "index_location": "end",
        }
        return [{"name": "sharding_indexed", "configuration": configuration}]

    def _chunk_shape(self, rows: int) -> list[int]:
        return [rows, *(max(1, side) for side in self.shape[1:])] if self.shape else []

    def array_json(self, codec: str) -> str:
        """Return the text of the array's ``zarr.json``."""
        data = {
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": self._chunk_shape(self.rows * self.chunks or 1)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "codecs": self.codecs(),
            "data_type": self.dtype.name,
            "fill_value": False if self.dtype.kind == "b" else 0,
            "shape": self.shape,
        }
        return _json("array", U16_ATTRS if codec == "u16" else {}, **data)


def _json(kind: str, attributes: dict[str, Any], **data: Any) -> str:
    """Return the text of the ``zarr.json`` of an array or a group."""
    record = {"zarr_format": 3, "node_type": kind, "attributes": attributes, **data}
    return json.dumps(record, indent=1, sort_keys=True, default=np.ndarray.tolist) + "\n"


def _blosc(itemsize: int) -> dict[str, Any]:
    settings = {"typesize": itemsize, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle"}
    return {"name": "blosc", "configuration": {**settings, "blocksize": 0}}


def pack(row: np.ndarray) -> bytes:
    """Compress one row; raises MissingExtraError."""
    blosc, crc32c = import_extra("numcodecs").blosc, import_extra("google_crc32c").value
    # The array, not its bytes: they would not tell older numcodecs the size of an item.
    data = blosc.compress(np.ascontiguousarray(row), b"lz4", 5, 0, 0)
    return data + crc32c(data).to_bytes(4, "little")


def unpack(data: bytes, row: np.ndarray) -> None:
    """Decompress into ``row``.  Raises ValueError for damage, MissingExtraError."""
    blosc, crc32c = import_extra("numcodecs").blosc, import_extra("google_crc32c").value
    body, checksum = data[:-4], data[-4:]
    if crc32c(body).to_bytes(4, "little") != checksum:
        raise ValueError("its checksum does not fit")
    blosc.decompress(body, row)


class ZarrStore(FileStore):
    """One Zarr group per episode, the folder ``episodes.zarr/<id>``."""

    place = "episodes.zarr"
    meta_file: ClassVar = META_FILE
    writer: ClassVar = ZarrWriter
    reader: ClassVar = ZarrReader
