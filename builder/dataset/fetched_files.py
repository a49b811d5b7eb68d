"""Files of a dataset elsewhere, in a folder here: fetched once for all processes, limited in size.

The size is kept in a file, added to by every process that fetches; the folder is walked only when
that says it is over its limit, and then a tenth more than needed is deleted.  So what a fetch
costs does not grow with the number of files.
"""

import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np

from builder.stores.atomic import output_errors, stage, try_lock, wait_for_lock, write_all

_SPARE = 0.1
_LOCKS = 256
_SLOTS = 1 << 16


class FetchedFiles:
    """Bookkeeping of fetched files, below ``folder`` of a dataset in the cache."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder, self.limit = folder, limit

    @contextmanager
    def only_here(self, path: Path) -> Iterator[None]:
        """Wait until no other process, or thread, is inside for the same file."""
        with self._locked(f"locks/{_slot(path, _LOCKS):02x}"):
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[int]:
        path = self.folder / name
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            wait_for_lock(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def add(self, path: Path) -> None:
        """Count a file, or a folder of files, that was fetched."""
        size, _ = size_and_use(path)
        with self._locked("bytes") as descriptor:
            if (total := _read(descriptor)) is not None:
                _write(descriptor, total + size)

    def has_room(self, size: int) -> bool:
        """Tell whether ``size`` bytes more would stay within the limit, and on the disk."""
        if shutil.disk_usage(self.folder).free < 2 * size:
            return False
        with self._locked("bytes") as descriptor:
            return self.limit is None or (_read(descriptor) or 0) + size <= self.limit

    def make_room(self, paths: Iterable[Path]) -> None:
        """Delete what was used longest ago of ``paths``, all that there are, if over the limit.

        What any process has open is left, and may exceed it.
        """
        if self.limit is None:
            return
        with self._locked("bytes") as descriptor:
            total = _read(descriptor)
            if total is not None and total <= self.limit:
                return
            sizes = {path: size_and_use(path) for path in paths}
            total = sum(size for size, _ in sizes.values())
            aim = self.limit if total <= self.limit else int(self.limit * (1 - _SPARE))
            for path, (size, _) in sorted(sizes.items(), key=lambda item: item[1][1]):
                if total <= aim:
                    break
                if self.delete(path):
                    total -= size
            _write(descriptor, total)

    def delete(self, path: Path) -> bool:
        """Delete a file or folder unless a process has it open; tells whether it is gone."""
        with output_errors(path):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # another process was faster
                return True
            try:
                if try_lock(descriptor) is not True:
                    return False
                with stage(self.folder / "tmp", ".evict") as staged:
                    os.rename(path, staged.folder)
            finally:
                os.close(descriptor)
        return True

    def pays(self, path: Path, count: int, size: int) -> bool:
        """Add ``count`` bytes to those that all processes have fetched of a file by ranges.

        Tells whether it pays now to fetch the file whole: they are as many as its ``size``, and
        there is room for it.  Two files may share a number, and two processes that add at once
        may lose one; that only changes when.
        """
        slot = _slot(path, _SLOTS)
        self._sums[slot] += count
        if self._sums[slot] < size or not self.has_room(size):
            return False
        self._sums[slot] = 0
        return True

    @cached_property
    def _sums(self) -> np.ndarray:
        """Bytes fetched by ranges, shared by all processes."""
        with self._locked("ranges") as descriptor:
            os.ftruncate(descriptor, 8 * _SLOTS)
        return np.memmap(self.folder / "ranges", np.int64, "r+", shape=(_SLOTS,))


def size_and_use(path: Path) -> tuple[int, float]:
    """Return the bytes of a file, or of the files below a folder, and when it was last used."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    try:
        found = [each.stat() for each in files]
    except FileNotFoundError:  # another process deleted it just now
        return 0, 0.0
    return sum(status.st_size for status in found), found[0].st_mtime


def _slot(path: Path, slots: int) -> int:
    return zlib.crc32(os.fsencode(path)) % slots


def _read(descriptor: int) -> int | None:
    """Return the number in a file; None where there is none."""
    text = os.pread(descriptor, 32, 0)
    return int(text) if text.strip().isdigit() else None


def _write(descriptor: int, number: int) -> None:
    write_all(descriptor, f"{number:<31}\n".encode(), 0)
