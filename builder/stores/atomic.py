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
from builder.stores.inside import Entry, entry, opened_folder, sync_folder

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


NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)
"""What filesystems without locks answer."""

# From linux/fs.h.
_RENAME_EXCHANGE = 2

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
        sync_folder(descriptor)
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
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def wait_for_lock(descriptor: int) -> None:
    """Lock an open file once nobody else holds it; goes on without where locks are unknown."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def refuse_existing(final: Path) -> None:
    """Raise OutputError when ``final`` is there."""
    if final.exists():
        raise OutputError(f"{final} exists already and is not overwritten; move it away first")


def write_all(descriptor: int, data: bytes | memoryview, at: int) -> None:
    """Write all of ``data`` at offset ``at``; a system call alone may write less."""
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written


def exchange(one: Entry, other: Entry) -> bool:
    """Let two names that are there change places in one step; False where that is unknown.

    Raises OSError.
    """
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an older C library
        return False
    names = (one.folder, os.fsencode(one.name), other.folder, os.fsencode(other.name))
    if not rename(*names, _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(other))


@dataclass
class Staged:
    """A file under a temporary name in ``tmp`` of a dataset, locked by this process.

    As a context manager it is discarded at the end unless it was published.
    """

    path: Path
    descriptor: int

    @property
    def root(self) -> Path:
        """The dataset's folder: what is published lies in it."""
        return self.path.parent.parent

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
            with self._renaming(self.path, final, replace) as (staged, target):
                staged.rename(target)
                target.sync()
        self._let_go()

    @contextlib.contextmanager
    def _renaming(self, path: Path, final: Path, replace: bool) -> Iterator[tuple[Entry, Entry]]:
        with entry(path, self.root) as staged, entry(final, self.root, make=True) as target:
            if not replace:
                refuse_existing(final)
            yield staged, target

    @property
    def folder(self) -> Path:
        """Where a folder, or a file without a lock, is staged instead; it goes with this one.

        HDF5 asks for a lock before it reads a file: one that is ours would be refused to others
        for as long as it takes to close it after it got its name.
        """
        return self.path.with_name(self.path.name + ".d")

    def publish_folder(self, final: Path, *, replace: bool = False, sync: bool = True) -> None:
        """Make ``folder``, whose content is durable, exist as ``final``, and drop the locked file.

        Without ``sync`` its name is durable once the folder that ``final`` is in is synced.  Raises
        OutputError; also when ``final`` is there and ``replace`` is False.
        """
        with output_errors(final):
            with self._renaming(self.folder, final, replace) as (staged, target):
                # A file takes the place of a file in one step, a folder only that of none.
                if not final.is_dir():
                    staged.rename(target)
                elif not exchange(staged, target):
                    self._replace_folder(staged, target)
                if sync:
                    target.sync()
            _clear(self.path)
        self._let_go()

    def _replace_folder(self, staged: Entry, final: Entry) -> None:
        """Replace in two steps, with a note of what goes where: killed between, it is undone."""
        place = os.fsencode(final.path.relative_to(self.root))
        write_all(self.descriptor, place, 0)
        os.fsync(self.descriptor)
        staged.sync()
        final.rename(staged.with_name(self.path.name + ".old"))
        staged.rename(final)

    def discard(self) -> None:
        """Delete it; for a file that was not published."""
        _clear(self.path)
        self._let_go()


def _put_back(path: Path) -> None:
    """Undo the first step of a replacement that did not come to its second."""
    old, root = path.with_name(path.name + ".old"), path.parent.parent
    place = Path(os.fsdecode(path.read_bytes())) if old.exists() else Path()
    final = root / place
    # The note may come from elsewhere with the dataset: nothing is moved out of its folder.
    if not (place.is_absolute() or ".." in place.parts or final.exists()):
        with entry(old, root) as staged, entry(final, root) as target:
            staged.rename(target)
            target.sync()


def _clear(path: Path) -> None:
    """Delete a staged file, after the content that goes with it."""
    _put_back(path)
    with entry(path, path.parent.parent) as staged:
        for other in (staged.with_name(path.name + end) for end in (".d", ".old")):
            if other.path.is_dir() and not other.path.is_symlink():
                shutil.rmtree(other.path)
            else:
                other.unlink()
        staged.unlink()


def stage(folder: Path, suffix: str) -> Staged:
    """Create an empty locked file in ``folder``, the ``tmp`` of a dataset; raises OutputError.

    Its name is short whatever the final name is going to be.
    """
    with output_errors(folder):
        make_folders(folder.parent)
        while True:
            path = folder / f"{_HOST}-{os.getpid()}-{secrets.token_hex(6)}{suffix}"
            try:
                if (descriptor := _open_locked(path)) is not None:
                    return Staged(path, descriptor)
            except BaseException:  # a signal among them: nobody knows of the file yet
                with contextlib.suppress(OSError, OutputError), entry(path, folder.parent) as name:
                    name.unlink()
                raise


def _open_locked(path: Path) -> int | None:
    """Create a file and lock it; None when a cleaner came between and has it."""
    with entry(path, path.parent.parent, make=True) as staged:
        descriptor = staged.open(os.O_RDWR | os.O_CREAT | os.O_EXCL)
    if try_lock(descriptor) is not False and path.exists():
        return descriptor
    os.close(descriptor)
    return None


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
    """List the staged files of dead runs in ``tmp``, sorted; with ``remove`` delete them.

    A file whose writer lives is never listed, nor one of another machine that was touched
    within a day, nor one that may not be changed, nor a file that was not staged by us.  What a
    dead run was about to replace and did not is put back.
    """
    found: list[Path] = []
    if not folder.is_dir() or (folder.is_symlink() and not remove):
        return found
    with output_errors(folder), opened_folder(folder, folder.parent):
        for path in sorted(folder.iterdir()):
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
            fsync_file(Path(inner, name))
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
        fsync_file(target)


def move_aside(path: Path, folder: Path, place: Path | str) -> Path:
    """Move a damaged file, or folder, to ``damaged/<place>`` of the dataset ``folder``, durably.

    What is there already is kept: the next one of a place goes to ``damaged.2/``, and so on.
    Returns where it is now.  Raises OutputError.
    """
    names = chain(["damaged"], (f"damaged.{number}" for number in count(2)))
    target = next(each for name in names if not os.path.lexists(each := folder / name / place))
    with (
        output_errors(target),
        entry(path, folder) as there,
        entry(target, folder, make=True) as aside,
    ):
        there.rename(aside)
        aside.sync()
        there.sync()
    return target


def fsync_file(path: Path) -> None:
    """Make the content of a file durable.  Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
