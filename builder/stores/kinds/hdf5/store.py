"""Episodes as HDF5 files: ``episodes/<id>.hdf5``, one file each, format version 1."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import h5py

from builder.core.records import stored_form
from builder.stores.kinds.hdf5.disk import Disk
from builder.stores.kinds.hdf5.layout import Hdf5Place
from builder.stores.kinds.hdf5.reader import Hdf5Reader
from builder.stores.layout import METADATA, view_attrs
from builder.stores.writing import FileStore, FileWriter
from schemas.dataset import EpisodeMeta

# Data begin at multiples of a cache line, so that a memory map of any dtype is aligned.
ALIGNMENT = 64


class Hdf5Writer(FileWriter):
    """One episode being written.  Leaving the context without commit leaves nothing."""

    suffix: ClassVar = ".h5"
    _file: Any = None

    def _create(self) -> None:
        self._disk = Disk(self._staged.descriptor)
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
        self._lay_out(lambda view: Hdf5Place(root if view is None else groups[view]))

    def _finish(self, meta: EpisodeMeta) -> None:
        for view in meta.views:
            self._file[f"root/{view.name}"].attrs.update(view_attrs(view))
        self._file.attrs[METADATA] = stored_form(meta)
        self._file.close()

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the disk, now or a moment ago, into an OutputError."""
        with super()._errors():
            yield
            self._disk.check()


class Hdf5Store(FileStore):
    """One HDF5 file per episode, ``episodes/<id>.hdf5``."""

    place = "episodes"
    suffix: ClassVar = ".hdf5"
    writer: ClassVar = Hdf5Writer
    reader: ClassVar = Hdf5Reader
