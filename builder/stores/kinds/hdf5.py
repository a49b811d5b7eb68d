"""Episodes as HDF5 files: ``episodes/<id>.hdf5``, one file each, format version 1.

The metadata attribute says which arrays there are; each must be an ordinary dataset of this
very file, of the stated type and shape.  Links to other places, other files' storage, virtual
datasets and object types are refused.
"""

import contextlib
import io
import json
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from builder.core.errors import DatasetError
from builder.core.own_files import METADATA
from builder.core.records import parse_record, stored_form
from builder.core.registry import import_extra
from builder.stores.atomic import write_all
from builder.stores.base import arrays_by_view
from builder.stores.codecs import U16_ATTRS, stored_dtype
from builder.stores.inside import open_inside
from builder.stores.ranged import Head, SparseFile, check_kept, kept_arrays, stored_bytes
from builder.stores.reading import (
    FileReader,
    array_path,
    blame_environment,
    mapped,
    open_hdf5,
    view_attrs,
)
from builder.stores.writing import FileStore, FileWriter, Put
from schemas.base import canonical_json
from schemas.dataset import ArrayMeta, EpisodeMeta

# Data begin at multiples of a cache line, so that a memory map of any dtype is aligned.
ALIGNMENT = 64

LZ4_FILTER, FLETCHER32_FILTER = 32004, 3

# Bytes at both ends of a file that hold its groups and its metadata, if those are not large; and
# what the header of an array takes, with the gap after it.
_ENDS, _HEADER = 8192, 640


class Hdf5Writer(FileWriter):
    """One episode being written.  Leaving the context without commit leaves nothing."""

    suffix: ClassVar = ".h5"
    _file: Any = None
    _descriptor = -1

    def _create(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._descriptor = open_inside(self._staged.folder, self._staged.root, flags)
        self._output = _Output(self._descriptor)
        self._file = h5py.File(
            self._output,
            "w",
            # Checksummed headers, and files that HDF5 1.10 and later can read.
            libver=("v110", "v110"),
            alignment_threshold=1,
            alignment_interval=ALIGNMENT,
            # No chunk waits in a cache: a full disk shows at once.
            rdcc_nbytes=0,
        )
        root = self._file.create_group("root")
        groups = {view: root.create_group(view) for view in self._views}
        self._lay_out(lambda view: Hdf5Group(root if view is None else groups[view]))

    def _finish(self, meta: EpisodeMeta) -> None:
        for view in meta.views:
            self._file[f"root/{view.name}"].attrs.update(view_attrs(view))
        self._file.attrs[METADATA] = stored_form(meta)
        self._file.close()
        self._output.check()
        os.fsync(self._descriptor)

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the disk, now or a moment ago, into an OutputError."""
        with super()._errors():
            yield
            self._output.check()


class Hdf5Group:
    """A group being written."""

    def __init__(self, group: Any) -> None:
        self.group, self.name = group, group.name

    def create(self, name: str, shape: tuple[int, ...], dtype: np.dtype, codec: str) -> Put:
        """Create a dataset: contiguous, or for lz4 in one chunk per row."""
        if codec == "lz4":
            dataset = self.group.create_dataset(
                name,
                shape=shape,
                dtype=dtype,
                chunks=(1, *shape[1:]),
                # The checksum covers the packed bytes, which our own digest does not.
                fletcher32=True,
                **import_extra("hdf5plugin").LZ4(),
            )
        else:
            dataset = _create_contiguous(self.group, name, shape, dtype)
        if codec == "u16":
            dataset.attrs.update(U16_ATTRS)

        def put(at: int, rows: np.ndarray) -> None:
            if shape:
                dataset[at : at + len(rows)] = rows
            else:
                dataset[()] = rows[0]

        return put


def _create_contiguous(group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Create a dataset whose place in the file is fixed and never filled beforehand."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    kind = h5py.h5t.py_create(dtype, logical=True)
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    return h5py.Dataset(h5py.h5d.create(group.id, name.encode(), kind, space, plist))


class _Output(io.RawIOBase):
    """The file HDF5 writes to.  It never lets HDF5 see an error.

    HDF5 can crash the process when a disk fills up under it.  So the first error is kept for
    :meth:`check`, and from then on writes are taken and forgotten; the file is never published.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at = descriptor, 0
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the error that a write met, if any."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write all of ``data``."""
        size = len(data)
        self._try(write_all, self._descriptor, memoryview(data), self._at)
        self._at += size
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size."""
        size = self._at if size is None else size
        self._try(os.ftruncate, self._descriptor, size)
        return size

    def _try(self, function: Any, *args: Any) -> None:
        if self._error is None:
            try:
                function(*args)
            except OSError as error:
                self._error = error

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``; zeros where nothing was written."""
        data = os.pread(self._descriptor, len(buffer), self._at)
        buffer[:] = data.ljust(len(buffer), b"\0")
        self._at += len(buffer)
        return len(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        self._at = offset + (os.fstat(self._descriptor).st_size if base is None else base)
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at


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
            import_extra("hdf5plugin")  # registers the filter
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

    def _place(self, view: str | None, name: str) -> tuple[Path, int] | None:
        offset = self._locate(view, name)
        return None if offset is None else (self.path, offset)

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
            self.check_current()
            # A handle must not be shared with the process this one was forked from.
            self._handle = open_hdf5(self.path)
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
            blame_environment(error, self.path)
            self.check_current()
            raise DatasetError(
                f"{self.path} is damaged or no episode file: {where}: {error}"
            ) from None


def locate(file: Any, view: str | None, name: str, array: ArrayMeta, size: int) -> int | None:
    """Check a dataset against the metadata; return its offset, None if chunked or empty.

    ``size`` is the file's, in bytes.  Raises ValueError saying what is wrong with it.
    """
    found = _member(file.id, array_path(view, name))
    shape: tuple[int, ...] = array.shape
    if array.codec == "jpeg":
        shape = found.shape if len(found.shape) == 1 else (-1,)
    dtype, plist = stored_dtype(array), found.get_create_plist()
    if (found.dtype, found.shape) != (dtype, shape):
        raise ValueError(f"expected {dtype} {shape}, got {found.dtype} {found.shape}")
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise ValueError("virtual datasets and external storage are refused")
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    if array.codec == "lz4":
        chunks = plist.get_chunk() if plist.get_layout() == h5py.h5d.CHUNKED else None
        if chunks != (1, *shape[1:]) or filters != [LZ4_FILTER, FLETCHER32_FILTER]:
            raise ValueError(f"expected one LZ4 chunk per row, got {chunks}, {filters}")
        return None
    if array.codec not in ("raw", "u16", "jpeg"):
        raise ValueError(f"unknown codec {array.codec!r}")
    offset, length = found.get_offset(), math.prod(shape) * dtype.itemsize
    if plist.get_layout() != h5py.h5d.CONTIGUOUS or (offset is None and length):
        raise ValueError("expected contiguous storage")
    if offset is not None and offset + length > size:
        raise ValueError(f"it ends at byte {offset + length}, the file at {size}")
    return offset


def _member(place: Any, path: str) -> Any:
    """Return a dataset that is really there: no soft, external or missing link on the way."""
    for part in path.split("/"):
        link = _link_type(place, part) if isinstance(place, h5py.h5g.GroupID) else None
        if link is None:
            raise ValueError("it is listed in the metadata but missing")
        if link != h5py.h5l.TYPE_HARD:
            raise ValueError("links to other places are refused")
        place = h5py.h5o.open(place, part.encode())
    if not isinstance(place, h5py.h5d.DatasetID):
        raise ValueError(f"expected a dataset, got a {type(place).__name__}")
    return place


def _link_type(group: Any, name: str) -> int | None:
    return group.links.get_info(name.encode()).type if group.links.exists(name.encode()) else None


def disagreements(file: Any, meta: EpisodeMeta, text: str) -> Iterator[str]:
    """Compare what is stored twice, and look for what should not be there."""
    if text != canonical_json(json.loads(text)):
        yield f"attribute {METADATA} is not in its stored form: it was edited or damaged"
    expected = {"root": {view.name for view in meta.views} | set(meta.arrays)}
    expected |= {f"root/{view.name}": set(view.arrays) for view in meta.views}
    for place, names in {"": {"root"}, **expected}.items():
        for extra in sorted(set(_group(file, place) or ()) - names):
            yield f"{place}/{extra} is in the file but not in its metadata"
    for view in meta.views:
        group = _group(file, f"root/{view.name}")
        yield from _attributes(group, view_attrs(view))
        for name, array in view.arrays.items():
            if array.codec == "u16" and group is not None and name in group:
                yield from _attributes(group[name], U16_ATTRS)


def surplus(path: Path) -> Iterator[str]:
    """Tell of bytes after the end that the file itself states; HDF5 does not look at them.

    The place of that number is fixed by the HDF5 file format, in superblocks of version 2 and 3:
    what follows 8 bytes of signature, 4 of versions, sizes and flags, and two addresses.
    """
    with path.open("rb") as file:
        head, size = file.read(36), os.fstat(file.fileno()).st_size
    end = int.from_bytes(head[28:36], "little")
    if head[:8] == b"\x89HDF\r\n\x1a\n" and head[8] in (2, 3) and head[9] == 8 and size > end:
        yield f"bytes were appended: the episode ends at byte {end}, its file at {size}"


def _attributes(item: Any, expected: dict[str, Any]) -> Iterator[str]:
    if item is None:
        return
    found = dict(item.attrs)
    for key, value in expected.items():
        if key not in found or not np.array_equal(found[key], value):
            yield f"{item.name}: attribute {key} is {found.get(key)}, expected {value}"


def _group(file: Any, place: str) -> Any:
    """Return a group without following links; None when there is none."""
    found = file
    for part in filter(None, place.split("/")):
        if _link_type(found.id, part) != h5py.h5l.TYPE_HARD:
            return None
        found = found[part]
        if not isinstance(found, h5py.Group):
            return None
    return found


class Hdf5Store(FileStore):
    """One HDF5 file per episode, ``episodes/<id>.hdf5``."""

    place = "episodes"
    suffix: ClassVar = ".hdf5"
    writer: ClassVar = Hdf5Writer
    reader: ClassVar = Hdf5Reader

    def head(self, file: SparseFile, where: str) -> Head | None:
        """Read the head of an episode file that lies elsewhere, in few requests.

        None when arrays are packed in chunks: such a file has to be fetched whole.  Raises
        DatasetError, naming the file as ``where``.
        """
        with self._far(file, where) as (opened, meta, text):
            head = _head(opened, file, meta, text)
        return head and check_kept(head, meta, where)

    def metadata(self, file: SparseFile, where: str) -> EpisodeMeta:
        """Read the metadata of an episode file that lies elsewhere.  Raises DatasetError."""
        with self._far(file, where) as (_, meta, _):
            return meta

    @contextlib.contextmanager
    def _far(self, file: SparseFile, where: str) -> Iterator[tuple[Any, EpisodeMeta, str]]:
        file.ahead([(0, _ENDS), (file.size - _ENDS, file.size)])
        try:
            with h5py.File(file, "r") as opened:
                text = opened.attrs.get(METADATA)
                if not isinstance(text, str):
                    raise ValueError(f"it has no attribute {METADATA!r}")
                yield opened, parse_record(self.record, text, where), text
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            file.check()
            raise DatasetError(f"{where} is damaged or no episode file: {error}") from None
        file.check()


def _head(opened: Any, file: SparseFile, meta: EpisodeMeta, text: str) -> Head | None:
    arrays = {
        (view, name): array
        for view, named in arrays_by_view(meta).items()
        for name, array in named.items()
    }
    if any(array.codec == "lz4" for array in arrays.values()):
        return None
    kept = kept_arrays(meta, file.size)
    spans = []
    for (view, name), array in arrays.items():
        place, _, _ = array_path(view, name).rpartition("/")
        group = _group(opened, place)
        if group is not None and _link_type(group.id, name) == h5py.h5l.TYPE_HARD:
            # A header lies just before its array.
            begin, inside = group.id.links.get_info(name.encode()).u, (view, name) in kept
            spans.append((begin, begin + _HEADER + (stored_bytes(array) if inside else 0)))
    file.ahead(spans)
    offsets = {key: locate(opened, *key, array, file.size) for key, array in arrays.items()}
    found = {
        key: file.read_at(begin, begin + stored_bytes(arrays[key]))
        for key in kept
        if (begin := offsets[key]) is not None
    }
    return Head(text, file.size, offsets, found)
