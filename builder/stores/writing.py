"""What stores of files share: where episodes lie, and how one is written whole or not at all.

From the top down: ``FileStore.begin`` makes a ``FileWriter``, which stages the episode under a
temporary name; each of its arrays has an ``ArrayWriter``, which checks, encodes, buffers and
hashes the rows and hands them to what the format's group returned from ``create``; ``commit``
compares the digests, writes the metadata and renames.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from builder.core.errors import DatasetError
from builder.stores.atomic import (
    leftovers,
    link_or_copy,
    move_aside,
    output_errors,
    refuse_existing,
    stage,
)
from builder.stores.base import ArraySpec, Encoded, arrays_by_view
from builder.stores.codecs import STORED_DTYPES, encode_jpeg, encode_u16
from builder.stores.inside import entry, opened_folder, sync_folder
from builder.stores.reading import FileReader, is_file, walk
from schemas.base import Record
from schemas.dataset import ArrayMeta, EpisodeId, EpisodeMeta, Name

_EPISODE_ID: TypeAdapter[str] = TypeAdapter(EpisodeId)
_NAME: TypeAdapter[str] = TypeAdapter(Name)

_BUFFER_BYTES = 1 << 20

Layout = Mapping[str | None, Mapping[str, ArraySpec]]
Put = Callable[[int, np.ndarray], None]
"""Takes rows (rows, ...) as they are stored, each call at the row where the last one ended."""

W = TypeVar("W", bound="FileWriter")


class FileStore:
    """Episodes as files or folders below ``folder/<place>``; temporaries in ``folder/tmp``.

    A subclass names its ``place``, ``writer`` and ``reader``.  Where an episode is a file,
    ``suffix`` is what it ends in; where it is a folder, ``meta_file`` in it makes it an episode.
    ``record`` is what is stored about an episode; layers have their own, and another place.
    """

    place: str
    suffix: ClassVar[str] = ""
    meta_file: ClassVar[str] = ""
    writer: ClassVar[type[FileWriter]]
    reader: ClassVar[type[FileReader]]

    class Config(Record):
        """No settings of its own."""

    def __init__(
        self, folder: Path | str, *, place: str | None = None, record: Any = EpisodeMeta
    ) -> None:
        self.folder, self.record = Path(folder), record
        self.place = self.place if place is None else place

    def path(self, episode_id: str) -> Path:
        """Return where an episode is, there or not.  Raises DatasetError for an unsafe id."""
        try:
            checked = _EPISODE_ID.validate_python(episode_id)
        except ValidationError as error:
            raise DatasetError(f"{episode_id!r}: {error.errors()[0]['msg']}") from None
        return self.folder / self.place / f"{checked}{self.suffix}"

    def begin(self, episode_id: str, layout: Layout, *, replace: bool = False) -> FileWriter:
        """Start an episode with the given arrays by view (None: the root).

        Raises OutputError when it exists and ``replace`` is False, or when the folder cannot be
        written, and ValueError for a layout that cannot be stored.
        """
        return self.writer(self, episode_id, layout, replace)

    def open(self, episode_id: str) -> FileReader:
        """Open a committed episode.  Raises DatasetError naming the file."""
        return self.reader(self.path(episode_id) / self.meta_file, episode_id, self.record)

    def has(self, episode_id: str) -> bool:
        """Tell whether a committed episode is there; does not verify it.

        Raises UnreadableError where nobody can tell.
        """
        return is_file(self.path(episode_id) / self.meta_file)

    def ids(self) -> Iterator[str]:
        """Yield the ids of all committed episodes, sorted; temporaries never.

        Raises UnreadableError for a folder that cannot be listed.
        """
        root = self.folder / self.place
        found = []
        for folder, below, names in walk(root):
            inner = Path(folder).relative_to(root)
            if self.meta_file in names:
                found.append(inner.as_posix())
                below.clear()
            elif not self.meta_file:
                files = (name for name in names if name.endswith(self.suffix))
                found += [(inner / name).as_posix().removesuffix(self.suffix) for name in files]
        yield from sorted(found)

    def leftovers(self, *, remove: bool = False) -> list[Path]:
        """List (and remove) the temporary files of dead runs; never those of live ones."""
        return leftovers(self.folder / "tmp", remove=remove)

    def adopt(self, other: FileStore, episode_id: str) -> None:
        """Take an episode of another store of this kind over, as links where that is possible.

        Episodes are never written in place, so that a link is as good as a copy.  Raises
        OutputError, also when there is such an episode here.
        """
        self.adopt_unsynced(other, episode_id)
        self.sync([episode_id])

    def adopt_unsynced(self, other: FileStore, episode_id: str) -> None:
        """Do as :meth:`adopt` does; its name is durable, and to be listed, after :meth:`sync`.

        One sync for many episodes costs as much as one for each of them.
        """
        # A link to a link would point elsewhere from here.
        source, final = other.path(episode_id).resolve(), self.path(episode_id)
        refuse_existing(final)
        if not self.meta_file:  # a file is linked whole in one step, without replacing any
            with output_errors(final), entry(final, self.folder, make=True) as name:
                with contextlib.suppress(OSError):  # another disk, or one without links
                    os.link(source, name.name, dst_dir_fd=name.folder)
                    return
            refuse_existing(final)
        with stage(self.folder / "tmp", ".link") as staged:
            with output_errors(final):
                link_or_copy(source, staged.folder)
            staged.publish_folder(final, sync=False)

    def sync(self, ids: Iterable[str]) -> None:
        """Make the names of adopted episodes durable.  Raises OutputError."""
        for folder in sorted({self.path(each).parent for each in ids}):
            with output_errors(folder), opened_folder(folder, self.folder) as opened:
                sync_folder(opened)

    def set_aside(self, episode_id: str) -> Path:
        """Move a damaged episode out of the way; see :class:`builder.stores.base.Store`."""
        path = self.path(episode_id)
        return move_aside(path, self.folder, path.relative_to(self.folder / self.place))


class FileWriter(ABC):
    """One episode being written.  Leaving the context without commit leaves nothing."""

    suffix: ClassVar[str]
    """Of the temporary name."""

    def __init__(
        self, store: FileStore, episode_id: str, layout: Layout, replace: bool = False
    ) -> None:
        self.episode_id, self._replace = episode_id, replace
        self.path = store.path(episode_id)
        root = layout.get(None, {})
        for name in (*(view for view in layout if view is not None), *root):
            _NAME.validate_python(name)
        if clash := set(layout) & set(root):
            raise ValueError(f"a view and a root array must not share a name, got {clash}")
        self._folder = store.folder / "tmp"
        self._array_writers: dict[tuple[str | None, str], ArrayWriter] = {}
        self._views = [view for view in layout if view is not None]
        self._layout = layout

    def __enter__(self: W) -> W:
        if not self._replace:
            refuse_existing(self.path)
        self._staged = stage(self._folder, self.suffix)
        try:
            with self._errors():
                self._create()
        except BaseException:
            self.__exit__()
            raise
        return self

    @abstractmethod
    def _create(self) -> None:
        """Create the staged content, a folder or a file, and all arrays in it."""

    def _lay_out(self, group_of: Callable[[str | None], Group]) -> None:
        """Create the arrays of every view (None: the root) in the group that is made for it."""
        for view, arrays in self._layout.items():
            group = group_of(view)
            for name, spec in arrays.items():
                self._array_writers[view, name] = _array_writer(group, name, spec, self._folder)

    @abstractmethod
    def _finish(self, meta: EpisodeMeta) -> None:
        """Write the metadata, last of all; then the content is durable."""

    @abstractmethod
    def _release(self) -> None:
        """Close what is open of the temporary; called at the end, committed or not."""

    def write(self, view: str | None, name: str, at: int, block: np.ndarray | Encoded) -> None:
        """Write ``block`` at row ``at`` of array ``name`` of ``view`` (None: the root).

        Blocks of one array come in order, without gaps; raises ValueError otherwise.
        """
        with self._errors():
            self._array_writers[view, name].write(at, block)

    def digests(self) -> dict[str | None, dict[str, ArrayMeta]]:
        """Describe all arrays written, by view (None: the root).  All must be complete.

        Raises ValueError naming those that are not.
        """
        found: dict[str | None, dict[str, ArrayMeta]] = {view: {} for view in (None, *self._views)}
        with self._errors():
            for (view, _), array in self._array_writers.items():
                found[view].update(array.finish())
        return found

    def commit(self, meta: EpisodeMeta) -> None:
        """Make the episode exist: fsync, rename, fsync folder.

        Raises ValueError when ``meta`` is not about what was written.
        """
        found = self.digests()
        said = arrays_by_view(meta)
        if meta.id != self.episode_id or said != found:
            raise ValueError(
                f"the metadata of {meta.id!r} do not describe what was written as "
                f"{self.episode_id!r}: arrays {said}, written {found}"
            )
        with self._errors():
            self._finish(meta)
        self._publish()

    def _publish(self) -> None:
        beside = os.path.lexists(self._staged.folder)
        publish = self._staged.publish_folder if beside else self._staged.publish
        publish(self.path, replace=self._replace)

    def __exit__(self, *exc: object) -> None:
        for array in self._array_writers.values():
            array.close()
        # What a full disk did not take is not needed any more.
        with contextlib.suppress(OSError):
            self._release()
        self._staged.__exit__()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the disk into an OutputError."""
        with output_errors(self.path):
            yield


class Group(Protocol):
    """Where the arrays of one view, or of the root, are created; ``name`` is for messages."""

    name: str

    def create(self, name: str, shape: tuple[int, ...], dtype: np.dtype, codec: str) -> Put:
        """Create an array of this stored shape and dtype.  A scalar () gets one row."""


def _array_writer(group: Group, name: str, spec: ArraySpec, scratch_folder: Path) -> ArrayWriter:
    """Create the array ``name``; raises ValueError for an impossible spec."""
    _NAME.validate_python(name)
    if np.dtype(spec.dtype).kind not in "biuf":
        raise ValueError(f"{name}: only numbers can be stored, got dtype {spec.dtype}")
    kinds = {"raw": ArrayWriter, "lz4": ArrayWriter, "u16": ArrayWriter, "jpeg": JpegWriter}
    if spec.codec not in kinds:
        raise ValueError(f"{name}: unknown codec {spec.codec!r}; there are {', '.join(kinds)}")
    return kinds[spec.codec](group, name, spec, scratch_folder)


class ArrayWriter:
    """One array being written: raw, LZ4 row by row, or u16 fixed point."""

    def __init__(self, group: Group, name: str, spec: ArraySpec, scratch_folder: Path) -> None:
        self.group, self.name, self.spec = group, name, spec
        self.label = f"{group.name}/{name}"
        self.dtype = np.dtype(spec.dtype).newbyteorder("<")
        self._scratch_folder = scratch_folder
        # A scalar is written as one row.
        self.shape = spec.shape or (1,)
        self._written = 0
        self._sha = hashlib.sha256()
        self._open()

    def _open(self) -> None:
        stored = np.dtype(STORED_DTYPES.get(self.spec.codec, self.dtype))
        self._put = self.group.create(self.name, self.spec.shape, stored, self.spec.codec)
        row_bytes = stored.itemsize * math.prod(self.shape[1:])
        rows = min(self.shape[0], max(1, _BUFFER_BYTES // max(1, row_bytes)))
        self._buffer = np.empty((rows, *self.shape[1:]), stored)
        self._buffered = self._flushed = 0

    def write(self, at: int, block: np.ndarray | Encoded) -> None:
        """Take the next rows; raises ValueError for a gap or a block that does not fit."""
        if isinstance(block, Encoded):
            raise ValueError(f"{self.label} has codec {self.spec.codec}, not jpeg")
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
                f"{self.label} is {self.dtype} {self.shape} and has "
                f"{self._written} rows so far; got {block.dtype} {block.shape} for row {at}"
            )
        self._take(block)
        self._written += len(block)

    def _take(self, block: np.ndarray) -> None:
        if self.spec.codec == "u16":
            block = encode_u16(block, self.label)
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
            raise ValueError(f"{self.label} has {self._written} of {self.shape[0]} rows")

    def _meta(self) -> ArrayMeta:
        return ArrayMeta(
            dtype=self.dtype.name,
            shape=self.spec.shape,
            sha256=self._sha.hexdigest(),
            codec=self.spec.codec,
            per_frame=self.spec.per_frame,
        )

    def close(self) -> None:
        """Release scratch files; the episode's own are its writer's."""


class JpegWriter(ArrayWriter):
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
                f"{self.label} has {self._written} of {self.shape[0]} frames; got one for row {at}"
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
            size = self._offsets[-1]
            put = self.group.create(self.name, (size,), np.dtype(np.uint8), "raw")
            self._scratch.seek(0)
            for at in range(0, size, _BUFFER_BYTES):
                put(at, np.frombuffer(self._scratch.read(_BUFFER_BYTES), np.uint8))
            spec = ArraySpec((len(self._offsets),), "int64")
            offsets = ArrayWriter(self.group, f"{self.name}_offsets", spec, self._scratch_folder)
            offsets.write(0, np.array(self._offsets, "<i8"))
            self._metas = {self.name: self._meta(), **offsets.finish()}
        return self._metas

    def close(self) -> None:
        """Drop the scratch file."""
        # What a full disk did not take is not needed any more.
        with contextlib.suppress(OSError):
            self._scratch.close()
