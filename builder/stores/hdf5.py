"""Episodes as HDF5 files: ``episodes/<id>.hdf5``, one file each, format version 1."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydantic import TypeAdapter, ValidationError

from builder.errors import DatasetError
from builder.records import stored_form
from builder.stores.base import ArraySpec, arrays_by_view
from builder.stores.hdf5_columns import Column, make_column
from builder.stores.hdf5_disk import Disk
from builder.stores.hdf5_layout import METADATA, view_attrs
from builder.stores.hdf5_reader import Hdf5Reader
from builder.stores.staging import (
    fsync_folder,
    leftovers,
    make_folders,
    output_errors,
    refuse_existing,
    stage,
)
from schemas.base import Record
from schemas.dataset import ArrayMeta, EpisodeId, EpisodeMeta, Name

_EPISODE_ID: TypeAdapter[str] = TypeAdapter(EpisodeId)
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_SUFFIX = ".hdf5"

# Data begin at multiples of a cache line, so that a memory map of any dtype is aligned.
ALIGNMENT = 64


class Hdf5Store:
    """One HDF5 file per episode below ``folder/episodes``; temporaries in ``folder/tmp``."""

    class Config(Record):
        """No settings of its own."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def begin(
        self,
        episode_id: str,
        layout: Mapping[str | None, Mapping[str, ArraySpec]],
        *,
        replace: bool = False,
    ) -> Hdf5Writer:
        """Start an episode with the given arrays by view (None: the root).

        Raises OutputError when it exists and ``replace`` is False, or when the folder cannot be
        written, and ValueError for a layout that cannot be stored.
        """
        return Hdf5Writer(self, episode_id, layout, replace)

    def open(self, episode_id: str) -> Hdf5Reader:
        """Open a committed episode.  Raises DatasetError naming the file."""
        return Hdf5Reader(self.path(episode_id), episode_id)

    def has(self, episode_id: str) -> bool:
        """Tell whether a committed episode is there; does not verify it."""
        return self.path(episode_id).is_file()

    def ids(self) -> Iterator[str]:
        """Yield the ids of all committed episodes, sorted; temporaries never."""
        root = self.folder / "episodes"
        found = []
        for folder, _, names in os.walk(root):
            place = Path(folder).relative_to(root)
            found += [place / name for name in names if name.endswith(_SUFFIX)]
        yield from sorted(path.as_posix().removesuffix(_SUFFIX) for path in found)

    def path(self, episode_id: str) -> Path:
        """Return an episode's file, there or not.  Raises DatasetError for an unsafe id."""
        try:
            checked = _EPISODE_ID.validate_python(episode_id)
        except ValidationError as error:
            raise DatasetError(f"{episode_id!r}: {error.errors()[0]['msg']}") from None
        return self.folder / "episodes" / f"{checked}{_SUFFIX}"

    def leftovers(self, *, remove: bool = False) -> list[Path]:
        """List (and remove) the temporary files of dead runs; never those of live ones."""
        return leftovers(self.folder / "tmp", remove=remove)

    def set_aside(self, episode_id: str) -> Path:
        """Move a damaged episode out of the way, to ``damaged/``; returns where it is now."""
        path = self.path(episode_id)
        target = self.folder / "damaged" / path.relative_to(self.folder / "episodes")
        with output_errors(target):
            make_folders(target.parent)
            os.replace(path, target)
            fsync_folder(path.parent)
        return target


class Hdf5Writer:
    """One episode being written.  Leaving the context without commit leaves nothing."""

    def __init__(
        self,
        store: Hdf5Store,
        episode_id: str,
        layout: Mapping[str | None, Mapping[str, ArraySpec]],
        replace: bool,
    ) -> None:
        self.episode_id, self._replace = episode_id, replace
        self.path = store.path(episode_id)
        _check_names(layout)
        self._folder = store.folder / "tmp"
        self._columns: dict[tuple[str | None, str], Column] = {}
        self._views = [view for view in layout if view is not None]
        self._layout = layout
        self._file: Any = None

    def __enter__(self) -> Hdf5Writer:
        if not self._replace:
            refuse_existing(self.path)
        self._staged = stage(self._folder, ".h5")
        self._disk = Disk(self._staged.descriptor)
        self._committed = False
        try:
            with self._errors():
                self._create()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _create(self) -> None:
        self._file = h5py.File(
            self._disk,
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
        for view, arrays in self._layout.items():
            for name, spec in arrays.items():
                group = root if view is None else groups[view]
                self._columns[view, name] = make_column(group, name, spec, self._folder)

    def write(self, view: str | None, name: str, at: int, block: np.ndarray) -> None:
        """Write ``block`` at row ``at`` of array ``name`` of ``view`` (None: the root).

        Blocks of one array come in order, without gaps; raises ValueError otherwise.
        """
        with self._errors():
            self._columns[view, name].write(at, block)

    def digests(self) -> dict[str | None, dict[str, ArrayMeta]]:
        """Describe all arrays written, by view (None: the root).  All must be complete.

        Raises ValueError naming those that are not.
        """
        found: dict[str | None, dict[str, ArrayMeta]] = {view: {} for view in (None, *self._views)}
        with self._errors():
            for (view, _), column in self._columns.items():
                found[view].update(column.finish())
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
            for view in meta.views:
                self._file[f"root/{view.name}"].attrs.update(view_attrs(view))
            self._file.attrs[METADATA] = stored_form(meta)
            self._file.close()
        self._staged.publish(self.path, replace=self._replace)
        self._committed = True

    def __exit__(self, *exc: object) -> None:
        for column in self._columns.values():
            column.close()
        if self._committed:
            return
        if self._file is not None:
            self._file.close()
        self._staged.discard()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the disk, now or a moment ago, into an OutputError."""
        with output_errors(self.path):
            yield
            self._disk.check()


def _check_names(layout: Mapping[str | None, Mapping[str, ArraySpec]]) -> None:
    """Refuse names that are unsafe or that would meet in the file."""
    for name in (*(view for view in layout if view is not None), *layout.get(None, {})):
        _NAME.validate_python(name)
    if clash := set(layout) & set(layout.get(None, {})):
        raise ValueError(f"a view and a root array must not share a name, got {clash}")
