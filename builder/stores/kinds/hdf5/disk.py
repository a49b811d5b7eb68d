"""Between HDF5 and the disk: a file that keeps the disk's errors to itself."""

from __future__ import annotations

import io
import os
from typing import Any

from builder.stores.atomic import write_all


class Disk(io.RawIOBase):
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
