"""Files that appear whole or not at all: staged under a temporary name, then renamed.

A staged file is locked by its writer for as long as the writer lives, so a leftover of a dead
run is told from the file of a live one by asking the kernel, not by guessing from names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from builder.core.errors import OutputError

try:
    import fcntl
except ImportError:  # not on Windows, where an open file cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

_HOST = re.sub(r"[^A-Za-z0-9.]", "_", platform.node())[:40] or "host"
_STAGED = re.compile(r"(?P<host>[A-Za-z0-9._]+)-\d+-[0-9a-f]{12}\.\w+")

# Locks of another machine may be invisible here; its files are left alone while they are young.
_FOREIGN_PATIENCE_SECONDS = 24 * 3600.0

_ADVICE = {
    errno.ENOSPC: "free some space and run the same command again; finished episodes are kept",
    errno.EDQUOT: "raise the quota and run the same command again; finished episodes are kept",
    errno.EROFS: "it is read-only; choose another output folder",
    errno.EACCES: "change its permissions or choose another output folder",
    errno.EPERM: "change its permissions or choose another output folder",
    errno.EMFILE: "allow more open files (ulimit -n) or use fewer workers",
    errno.EISDIR: "name a file",
    errno.EIO: "check the disk; run the same command again to finish",
}


# From linux/fs.h and fcntl.h.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100

# The kernel, or the filesystem, knows no such call.
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn any OSError inside into an OutputError that names ``path`` and what to do."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        advice = _ADVICE.get(error.errno or 0, "choose another output folder")
        raise OutputError(f"cannot write {path}: {reason}; {advice}") from error


def fsync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some filesystems keep their folders in order without being asked and refuse to be.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def make_folders(folder: Path) -> None:
    """Create a folder and its parents, durably."""
    if folder.is_dir():
        return
    if folder.exists() and not folder.is_dir():  # unless another writer just made it
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def make_place(path: Path) -> None:
    """Create the folder of a file that is going to be written; raises OutputError if none can.

    For work that takes long: to be called before it.
    """
    with output_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        make_folders(path.absolute().parent)


def try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock an open file; False when someone else holds it, None when locks are unknown here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            return None
        raise
    return True


def refuse_existing(final: Path) -> None:
    """Raise OutputError when ``final`` is there."""
    if final.exists():
        raise OutputError(f"{final} exists already and is not overwritten; move it away first")


def write_all(descriptor: int, data: bytes | memoryview, at: int) -> None:
    """Write all of ``data`` at offset ``at``; a system call alone may write less."""
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written


def exchange(one: Path, other: Path) -> bool:
    """Let two names that are there change places in one step; False where that is unknown.

    Raises OSError.
    """
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an older C library
        return False
    if not rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(other))


@dataclass
class Staged:
    """A file under a temporary name, locked by this process.

    As a context manager it is discarded at the end unless it was published.
    """

    path: Path
    descriptor: int

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.descriptor >= 0:
            self.discard()

    def _let_go(self) -> None:
        os.close(self.descriptor)
        self.descriptor = -1

    def publish(self, final: Path, *, replace: bool = False) -> None:
        """Make it exist as ``final``: fsync, rename, fsync the folder.

        Raises OutputError; also when ``final`` is there and ``replace`` is False.
        """
        with output_errors(final):
            os.fsync(self.descriptor)
            make_folders(final.parent)
            if not replace:
                refuse_existing(final)
            os.rename(self.path, final)
            fsync_folder(final.parent)
        self._let_go()

    @property
    def folder(self) -> Path:
        """Where a folder, or another file, is staged instead: cleared and locked with this."""
        return self.path.with_name(self.path.name + ".d")

    def publish_folder(self, final: Path, *, replace: bool = False) -> None:
        """Make ``folder``, whose content is durable, exist as ``final``, and drop the file.

        Raises OutputError; also when ``final`` is there and ``replace`` is False.
        """
        with output_errors(final):
            make_folders(final.parent)
            if not replace:
                refuse_existing(final)
            if not final.exists():
                os.rename(self.folder, final)
            elif not exchange(self.folder, final):
                self._replace_folder(final)
            fsync_folder(final.parent)
            _clear(self.path)
        self._let_go()

    def _replace_folder(self, final: Path) -> None:
        """Replace in two steps, with a note of what goes where: killed between, it is undone."""
        place = os.fsencode(final.relative_to(self.path.parent.parent))
        write_all(self.descriptor, place, 0)
        os.fsync(self.descriptor)
        fsync_folder(self.path.parent)
        os.rename(final, self.path.with_name(self.path.name + ".old"))
        os.rename(self.folder, final)

    def discard(self) -> None:
        """Delete it; for a file that was not published."""
        _clear(self.path)
        self._let_go()


def _put_back(path: Path) -> None:
    """Undo the first step of a replacement that did not come to its second."""
    old = path.with_name(path.name + ".old")
    place = Path(os.fsdecode(path.read_bytes())) if old.exists() else Path()
    final = path.parent.parent / place
    # The note may come from elsewhere with the dataset: nothing is moved out of its folder.
    if not (place.is_absolute() or ".." in place.parts or final.exists()):
        os.rename(old, final)
        fsync_folder(final.parent)


def _clear(path: Path) -> None:
    """Delete a staged file, after the folders that go with it."""
    _put_back(path)
    for other in (path.with_name(path.name + end) for end in (".d", ".old")):
        if other.is_dir():
            shutil.rmtree(other)
        else:
            other.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def stage(folder: Path, suffix: str) -> Staged:
    """Create an empty locked file in ``folder``; raises OutputError.

    Its name is short whatever the final name is going to be.
    """
    with output_errors(folder):
        while True:
            make_folders(folder)
            path = folder / f"{_HOST}-{os.getpid()}-{secrets.token_hex(6)}{suffix}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            # A cleaner that came between creating and locking has it: take another name.
            if try_lock(descriptor) is not False and path.exists():
                return Staged(path, descriptor)
            os.close(descriptor)


def stage_text(folder: Path, text: str) -> Staged:
    """Stage a text file in ``folder``, durably; raises OutputError."""
    staged = stage(folder, ".json")
    try:
        with output_errors(staged.path):
            write_all(staged.descriptor, text.encode(), 0)
            os.fsync(staged.descriptor)
    except BaseException:
        staged.discard()
        raise
    return staged


def publish_text(folder: Path, final: Path, text: str, *, replace: bool = False) -> None:
    """Write a text file of the dataset ``folder`` whole and durably; raises OutputError."""
    with stage_text(folder / "tmp", text) as staged:
        staged.publish(final, replace=replace)


def leftovers(folder: Path, *, remove: bool = False) -> list[Path]:
    """List the staged files of dead runs, sorted; with ``remove`` delete them.

    A file whose writer lives is never listed, nor one of another machine that was touched
    within a day, nor one that may not be changed, nor a file that was not staged by us.  What a
    dead run was about to replace and did not is put back.
    """
    found = []
    with output_errors(folder):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = _STAGED.fullmatch(path.name)
            if match is None or path.is_symlink() or not path.is_file():
                continue
            if not os.access(path, os.W_OK):  # another user's, or on a disk that is only read
                continue
            idle = time.time() - path.stat().st_mtime
            if match["host"] != _HOST and idle < _FOREIGN_PATIENCE_SECONDS:
                continue
            with path.open("r+b") as file:
                if try_lock(file.fileno()):
                    found.append(path)
                    if remove:
                        _clear(path)
    return found


def fsync_tree(folder: Path) -> None:
    """Make a folder durable, with all files and folders in it.  Raises OSError."""
    for inner, _, names in os.walk(folder):
        for name in names:
            _fsync_file(Path(inner, name))
        fsync_folder(Path(inner))


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file, or a folder of files, exist a second time, durably."""
    if source.is_dir():
        target.mkdir()
        for path in sorted(source.iterdir()):
            link_or_copy(path, target / path.name)
        fsync_folder(target)
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
        _fsync_file(target)


def move_aside(path: Path, folder: Path, place: Path | str) -> Path:
    """Move a damaged file, or folder, to ``damaged/<place>`` of the dataset ``folder``, durably.

    What is there already is kept: the next one of a place goes to ``damaged.2/``, and so on.
    Returns where it is now.  Raises OutputError.
    """
    names = chain(["damaged"], (f"damaged.{number}" for number in count(2)))
    target = next(each for name in names if not os.path.lexists(each := folder / name / place))
    with output_errors(target):
        make_folders(target.parent)
        os.rename(path, target)
        fsync_folder(target.parent)
        fsync_folder(path.parent)
    return target


def _fsync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
