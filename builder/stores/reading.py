"""Reading one episode lazily and without trusting it: what is the same in every format."""

from __future__ import annotations

import errno
import math
import mmap
import os
import stat
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.core.errors import DatasetError, UnreadableError
from builder.core.lru_cache import LruCache
from builder.core.records import parse_record
from builder.core.unreadable import errno_of, unreadable_now
from builder.stores.atomic import NO_LOCKS
from builder.stores.base import EpisodeReader, arrays_by_view
from builder.stores.codecs import FixedPoint, Rows, decode_jpeg, stored_dtype
from schemas.dataset import ArrayMeta, EpisodeMeta, ViewMeta

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from typing_extensions import Self

_PIECE_BYTES = 4 << 20
_MAX_CACHED = 4096
"""Readers in a cache, with no file open: their metadata take some 25 KB each."""


def array_path(view: str | None, name: str) -> str:
    """Return where an array lies in an episode."""
    return f"root/{name}" if view is None else f"root/{view}/{name}"


def view_attrs(view: Any) -> dict[str, Any]:
    """Copy a view's geometry for people who look into the file; it is never the truth.

    A layer's views have none: theirs is the base's.
    """
    if not isinstance(view, ViewMeta):
        return {}
    geometry = view.geometry
    (height, width), (source_height, source_width) = geometry.img_shape, geometry.source_shape
    return {
        "height": height,
        "width": width,
        "source_height": source_height,
        "source_width": source_width,
        "scale_xy": np.asarray(geometry.affine.scale_xy, "<f8"),
        "pad_xy": np.asarray(geometry.content_box[:2], "<i8"),
    }


def blocks(array: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, rows) of an array, in pieces of bounded size; a scalar whole."""
    if not array.shape:
        yield 0, np.asarray(array)
        return
    row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    rows = max(1, _PIECE_BYTES // max(1, row_bytes))
    for at in range(0, len(array), rows):
        yield at, np.asarray(array[at : at + rows])


class ReopenableReader(EpisodeReader):
    """A reader of files that can be reopened without parsing and verifying the metadata again."""

    def __init__(self, path: Path) -> None:
        self.path, self._stamp = path, file_stamp(path)

    @abstractmethod
    def _open_nothing(self) -> None:
        """Begin without any open file, leaving those of the reader this was copied from alone."""

    def reopen(self) -> Self | None:
        """Return a copy with no file open; None when the file changed since it was opened."""
        if self._stamp is None or file_stamp(self.path) != self._stamp:
            return None
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._open_nothing()
        return twin


class FileReader(ReopenableReader):
    """One stored episode.  Safe to fork, small to pickle (it opens the file again)."""

    meta: Any = None

    def __init__(self, path: Path, episode_id: str, record: Any = EpisodeMeta) -> None:
        super().__init__(path)
        self.episode_id, self._record = episode_id, record
        self._text = self._metadata()
        self.meta = parse_record(record, self._text, str(path))
        if self.meta.id != episode_id:
            raise DatasetError(
                f"{path} holds episode {self.meta.id!r}, expected {episode_id!r}: "
                "was it moved or renamed? Put it back"
            )

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.path, self.episode_id, self._record)

    @abstractmethod
    def _metadata(self) -> str:
        """Read the metadata's stored form; raises DatasetError."""

    @abstractmethod
    def _locate(self, view: str | None, name: str) -> Any:
        """Check that an array is there as the metadata says; raises DatasetError."""

    @abstractmethod
    def _stored(self, view: str | None, name: str) -> np.ndarray:
        """Map an array that is not lz4 as it is stored; raises DatasetError."""

    @abstractmethod
    def _chunk(self, view: str | None, name: str, row: int) -> np.ndarray:
        """Unpack one row of an lz4 array; raises DatasetError."""

    @abstractmethod
    def _disagreements(self) -> Iterator[str]:
        """Compare what is stored twice, and look for what should not be there."""

    def check_current(self) -> None:
        """Raise DatasetError when another episode has taken the place of this one.

        What was read of it so far, and what is mapped of it, stays as it was.
        """
        stamp = file_stamp(self.path)
        if self.meta is None or stamp in (self._stamp, None):
            return
        opened, words = self.__reduce__()
        with closing(opened(*words)) as now:
            if now.meta.digest != self.meta.digest:
                raise DatasetError(
                    f"{self.path} was replaced since it was opened: open the dataset again"
                )
        self._stamp = stamp

    def close(self) -> None:
        """Release files; arrays already handed out stay valid, the next access opens again."""
        self._open_nothing()

    def problems(self) -> list[str]:
        """List arrays that are damaged, and copies that disagree with the metadata.

        Raises UnreadableError.
        """
        found = []
        for view, arrays in arrays_by_view(self.meta).items():
            for name in arrays:
                try:
                    self._locate(view, name)
                except UnreadableError:
                    raise
                except DatasetError as error:
                    found.append(str(error))
        try:
            found.extend(self._disagreements())
        except UnreadableError:
            raise
        except DatasetError as error:  # damage between the arrays, which are looked at one by one
            found.append(str(error))
        return found

    def array(self, view: str | None, name: str) -> Any:
        """Return one array: read-only, memory-mapped where it is stored plainly.

        See :class:`builder.stores.base.EpisodeReader`.  Raises DatasetError when the file does
        not hold it as the metadata says.
        """
        array = self._meta_of(view, name)
        self.check_current()
        if array.codec == "jpeg":
            _, height, width, _ = array.shape
            data, offsets = self._stored(view, name), self.array(view, f"{name}_offsets")
            packed = partial(self._jpeg_place, data, offsets, name)
            row = partial(self._jpeg_row, packed, (height, width), name)
            return Rows(array.shape, "uint8", row, packed)
        if array.codec == "lz4":
            self._locate(view, name)
            return Rows(array.shape, array.dtype, partial(self._chunk, view, name))
        stored = self._stored(view, name)
        return FixedPoint(stored) if array.codec == "u16" else stored

    def stored_bytes(self, view: str | None, name: str) -> Iterator[bytes]:
        """Yield, in bounded pieces, the bytes that ``ArrayMeta.sha256`` is taken over."""
        if self._meta_of(view, name).codec == "lz4":
            rows = self.array(view, name)
            yield from (rows[at].tobytes() for at in range(len(rows)))
        elif (place := self._place(view, name)) is not None:
            yield from self._pieces(view, name, *place)
        else:
            stored = self._stored(view, name).reshape(-1)
            step = max(1, _PIECE_BYTES // stored.itemsize)
            yield from (stored[at : at + step].tobytes() for at in range(0, stored.size, step))

    def _place(self, view: str | None, name: str) -> tuple[Path, int] | None:
        """Return the file, and the offset in it, of an array that is not lz4; None if empty.

        A store whose files do not hold the bytes as they are mapped need not say.
        """
        return None

    def _pieces(self, view: str | None, name: str, path: Path, offset: int) -> Iterator[bytes]:
        """Read, not map: a disk that fails ends a process that reads mapped pages."""
        dtype = stored_dtype(self._meta_of(view, name))
        left = math.prod(self._stored_shape(view, name)) * dtype.itemsize
        with self._damage(array_path(view, name)), path.open("rb", buffering=0) as file:
            file.seek(offset)
            while left:
                piece = file.read(min(left, _PIECE_BYTES))
                if not piece:
                    raise ValueError(f"{path.name} is cut short")
                left -= len(piece)
                yield piece

    def _damage(self, where: str) -> AbstractContextManager[None]:
        """Turn what damage makes reading raise into a DatasetError naming ``where``."""
        return readable(self.path)

    def _meta_of(self, view: str | None, name: str) -> ArrayMeta:
        arrays = self.meta.arrays if view is None else self.meta.view(view).arrays
        if name not in arrays:
            where = self.meta.id if view is None else f"view {view!r} of {self.meta.id}"
            raise KeyError(f"no array {name!r} in {where}; it has {sorted(arrays)}")
        return arrays[name]

    def _stored_shape(self, view: str | None, name: str) -> tuple[int, ...]:
        """Shape of what ``_stored`` returns."""
        array = self._meta_of(view, name)
        if array.codec == "jpeg":
            return (max(0, int(self.array(view, f"{name}_offsets")[-1])),)
        return array.shape

    def _jpeg_place(
        self, data: np.ndarray, offsets: np.ndarray, name: str, row: int
    ) -> tuple[np.ndarray, slice]:
        begin, end = int(offsets[row]), int(offsets[row + 1])
        if not 0 <= begin <= end <= len(data):
            raise DatasetError(f"{self.path} is damaged: {name}_offsets jump at row {row}")
        return data, slice(begin, end)

    def _jpeg_row(
        self,
        packed: Callable[[int], tuple[np.ndarray, slice]],
        shape: tuple[int, int],
        name: str,
        row: int,
    ) -> np.ndarray:
        data, place = packed(row)
        return decode_jpeg(data[place], shape, f"{self.path}: {name}[{row}]")


class ReaderCache:
    """LRU cache of episode readers whose metadata was parsed and verified.

    Opening such an episode once more skips both unless its file changed.
    """

    def __init__(self) -> None:
        self._readers = LruCache[tuple[str | None, str], EpisodeReader](_MAX_CACHED)

    def open(
        self, open_new: Callable[[str], EpisodeReader], episode_id: str, layer: str | None = None
    ) -> EpisodeReader:
        """Return a reader of an episode, or of a layer's.

        ``open_new`` is called for one that is not cached or whose file changed; what it raises
        is raised.
        """
        cached = self._readers.pop((layer, episode_id))
        reader = (cached and cached.reopen()) or open_new(episode_id)
        # A copy is kept, with no file open: whoever holds the reader may open files with it.
        if copy := reader.reopen():
            self._readers[layer, episode_id] = copy
        return reader


def mapped(path: Path) -> mmap.mmap:
    """Map a file into memory, read-only.  Raises OSError, ValueError for an empty file.

    What ``numpy.memmap`` maps the same takes it longer, as it resolves the path.
    """
    refuse_special(path)
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written or replaced; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


# What says of a file that it is not there, or is something else.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


def blame_environment(error: BaseException, path: Path) -> None:
    """Raise UnreadableError when not what is in a file is at fault, but what kept it from us.

    Only digests, and parsing what was read, can say that something is damaged.  Raises OSError
    when this process has too many files open.
    """
    number = errno_of(error)
    if number is None or number in _ABSENT:
        return
    if number in (errno.EMFILE, errno.ENFILE):
        raise OSError(
            number,
            "too many open files: raise ulimit -n, or open_dataset(path, max_open=N) with fewer",
        ) from None
    raise UnreadableError(f"{path} {unreadable_now(number)}") from None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what keeps a file from being read into an UnreadableError.

    An OSError remains for one that is not there, or is a folder.  Raises DatasetError for what
    nobody may open.
    """
    refuse_special(path)
    try:
        yield
    except OSError as error:
        blame_environment(error, path)
        raise


def refuse_special(path: Path) -> None:
    """Raise DatasetError for a FIFO, socket or device: to open one could wait for ever."""
    with suppress(OSError):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DatasetError(f"{path} is no regular file (a FIFO, socket or device); remove it")


def is_file(path: Path) -> bool:
    """Tell whether there is a regular file; raises UnreadableError where nobody can tell."""
    return _is(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder; raises UnreadableError where nobody can tell."""
    return _is(path, stat.S_ISDIR)


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(os.stat(path).st_mode)
    except OSError as error:
        blame_environment(error, path)
        return False


def files_in(folder: Path, suffix: str) -> list[Path]:
    """List what is in a folder with names that end in ``suffix``, sorted; [] without a folder.

    Raises UnreadableError: what cannot be listed is not empty.
    """
    if not is_folder(folder):
        return []
    with readable(folder):
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(suffix))


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file of a dataset for reading.  Raises what h5py raises.

    It is locked for readers as h5py does by default: locking otherwise would keep users from
    opening it too.
    """
    import h5py

    refuse_special(path)
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return h5py.File(path, "r", locking=False)


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk down a folder as ``os.walk`` does; raises UnreadableError for one it would skip."""

    def cannot_list(error: OSError) -> None:
        blame_environment(error, Path(error.filename))

    yield from os.walk(folder, onerror=cannot_list)
