"""Names in a dataset's folder, reached from an open handle of it and never through a link.

A dataset may come from somebody else.  A link in it, such as ``tmp`` or ``index/main.lock``, would
lead what is written there to any place of its user's.  The dataset's folder itself may be a link:
that is where its user wants it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from builder.core.errors import OutputError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY


@dataclass(frozen=True)
class Entry:
    """A name in an open folder; there may be nothing of that name yet."""

    path: Path
    """Where it is, for messages."""
    folder: int
    """Descriptor of its folder."""

    @property
    def name(self) -> str:
        """Its name in the folder."""
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    def with_name(self, name: str) -> Entry:
        """Return another name in the same folder."""
        return Entry(self.path.with_name(name), self.folder)

    def open(self, flags: int) -> int:
        """Open the file.  Raises OutputError for a link, and OSError."""
        try:
            return os.open(self.name, flags | os.O_NOFOLLOW, 0o666, dir_fd=self.folder)
        except OSError as error:
            self._refuse_link(error)
            raise

    def enter(self, *, make: bool = False) -> int:
        """Open the folder, made durably if asked to.  Raises OutputError for a link, OSError."""
        try:
            return os.open(self.name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.folder)
        except FileNotFoundError:
            if not make:
                raise
        except OSError as error:
            self._refuse_link(error)
            raise
        with suppress(FileExistsError):  # another writer was faster
            os.mkdir(self.name, dir_fd=self.folder)
        self.sync()
        return os.open(self.name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.folder)

    def _refuse_link(self, error: OSError) -> None:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and self.path.is_symlink():
            raise OutputError(
                f"{self.path} is a link: inside a dataset nothing is written through links, which "
                "may have come with it; put what it points to in its place"
            ) from None

    def rename(self, other: Entry) -> None:
        """Rename it, over what is there.  Raises OSError."""
        os.rename(self.name, other.name, src_dir_fd=self.folder, dst_dir_fd=other.folder)

    def unlink(self) -> None:
        """Delete the file, if it is there.  Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.folder)

    def sync(self) -> None:
        """Make the entries of its folder durable.  Raises OSError."""
        sync_folder(self.folder)


def sync_folder(descriptor: int) -> None:
    """Make the entries of an open folder durable.  Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some filesystems keep their folders in order without being asked and refuse to be.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


@contextmanager
def opened_folder(folder: Path, root: Path, *, make: bool = False) -> Iterator[int]:
    """Yield a descriptor of a folder in the dataset at ``root``, or of ``root`` itself.

    Folders that miss are made durably if asked to.  Raises OutputError for a link on the way,
    and OSError.
    """
    at, handle = root, os.open(root, _FOLDER)
    try:
        for name in folder.relative_to(root).parts:
            at = at / name
            inner = Entry(at, handle).enter(make=make)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


@contextmanager
def entry(path: Path, root: Path, *, make: bool = False) -> Iterator[Entry]:
    """Yield the name of ``path`` in its opened folder; see :func:`opened_folder`."""
    with opened_folder(path.parent, root, make=make) as folder:
        yield Entry(path, folder)


def open_inside(path: Path, root: Path, flags: int) -> int:
    """Open a file of the dataset at ``root``, in a folder that is made if it is not there.

    Raises OutputError for a link, at its end or on the way, and OSError.
    """
    with entry(path, root, make=True) as place:
        return place.open(flags)
