"""The locks of a dataset's writers: one file each, locked by the kernel while its writer lives.

The file says who holds it.  A writer at work also touches it now and then, so that one whose whole
host died is told where the filesystem goes on holding its lock; and it has a token, by which its
workers on other hosts see that they have the same folder before them.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from builder.core.errors import HostError, OutputError
from builder.core.working import still_working
from builder.stores.atomic import output_errors, stage, try_lock, write_all
from builder.stores.base import Store
from builder.stores.inside import entry, open_inside

BEAT_SECONDS = 10.0
DEAD_SECONDS = 180.0  # without a touch, until a holder on another host counts as dead
PATIENCE_SECONDS = DEAD_SECONDS + 2 * BEAT_SECONDS
"""How long a scheduled job waits for its own lock, which its earlier process may still hold."""
SHARED_SECONDS = 60.0  # that network filesystems may show a folder as it was

# is_locked() of another process holds a lock for an instant.
LOCK_ATTEMPTS = 4


class Mark(NamedTuple):
    """By which workers know the dataset's folder: the name of its writer and the token there."""

    writer: str
    token: str
    patience: float


class HeldLock:
    """The lock of a writer at work; touched while it is held."""

    def __init__(self, folder: Path, writer: str, descriptor: int) -> None:
        self.mark = Mark(writer, secrets.token_hex(8), SHARED_SECONDS)
        self._path, self._descriptor = _path(folder, writer), descriptor
        self._over = threading.Event()
        with output_errors(self._path):
            text = f"{_who()}\ntoken {self.mark.token}\n".encode()
            os.ftruncate(descriptor, 0)
            write_all(descriptor, text, 0)
            os.fsync(descriptor)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._descriptor)

    def check(self) -> None:
        """Raise OutputError when another run took the lock over: it took this one for dead."""
        if _is_at(self._path, self._descriptor) is False:
            raise OutputError(
                f"{self._path} was taken over by {holder(self._path)}, which heard nothing of "
                f"this run for {DEAD_SECONDS:.0f} s: that run goes on, this one ends"
            )

    def close(self) -> None:
        """Let it go."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join()
            os.close(self._descriptor)


def take_lock(
    folder: Path,
    writer: str,
    dataset: Path | None = None,
    *,
    patience: float = 0.0,
    on_notice: Callable[[str], None] = lambda sentence: None,
) -> int:
    """Lock a writer's name; closing the returned descriptor unlocks it.

    ``folder`` is that of a dataset, or of a layer of ``dataset``.  Waits for ``patience`` seconds
    until it is let go of, and takes it from a holder whose host died.  Raises OutputError naming
    the process that holds it.
    """
    path, root, begun = _path(folder, writer), dataset or folder, time.monotonic()
    with output_errors(path):
        for attempt in count(1):
            descriptor = open_inside(path, root, os.O_RDWR | os.O_CREAT)
            if try_lock(descriptor) is not False:
                if _is_at(path, descriptor):
                    os.ftruncate(descriptor, 0)
                    write_all(descriptor, f"{_who()}\n".encode(), 0)
                    return descriptor
                os.close(descriptor)  # somebody took it over just now
                continue
            who = holder(path) or "another run"
            if _is_dead(descriptor, root) and _is_at(path, descriptor):
                with entry(path, root) as lock:
                    lock.unlink()
                on_notice(f"took over from {who}, of which nothing was heard for too long")
                os.close(descriptor)
                continue
            os.close(descriptor)
            waited = time.monotonic() - begun
            if waited >= patience and attempt >= LOCK_ATTEMPTS:
                break
            if patience and attempt == LOCK_ATTEMPTS:
                on_notice(f"{folder} is still being written by {who}: waiting {patience:.0f} s")
            time.sleep(0.1 if attempt < LOCK_ATTEMPTS else min(1.0, max(0.0, patience - waited)))
    after = f", also after {patience:.0f} s" if patience else ""
    raise OutputError(
        f"{folder} is being written by {who}{after}: "
        "wait for it to finish, stop it, or build into another folder"
    )


@contextmanager
def all_locks(folder: Path) -> Iterator[None]:
    """Hold the locks of all writers.  Raises OutputError while one of them is at work."""
    writers = {path.stem for path in (folder / "index").glob("*.*")} | {"main"}
    with ExitStack() as stack:
        for writer in sorted(writers):
            stack.callback(os.close, take_lock(folder, writer))
        yield


def is_locked(folder: Path, writer: str) -> bool | None:
    """Tell whether a writer is at work; None where the filesystem does not support locks."""
    try:
        descriptor = os.open(_path(folder, writer), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        got = try_lock(descriptor, shared=True)
        return None if got is None else not got
    finally:
        os.close(descriptor)


def require_shared(folder: Path, mark: Mark) -> None:
    """Check that a folder is that of the writer with this mark, as a worker anywhere sees it.

    Raises HostError naming this host when it is not, also after the mark's patience.
    """
    path, until = _path(folder, mark.writer), time.monotonic() + mark.patience
    while f"token {mark.token}" not in _text(path):
        if time.monotonic() >= until:
            found = f"{path.name} there is of {who}" if (who := holder(path)) else f"no {path.name}"
            raise HostError(
                f"{platform.node()} does not share the output: {folder} there is not the folder "
                f"that this run writes to ({found}). It must be one disk, at the same path on "
                f"every node; no episode was written to the wrong one"
            )
        still_working()
        with suppress(OSError):
            os.listdir(path.parent)  # makes network filesystems look again
        time.sleep(0.5)


def require_arrived(store: Store, episode_id: str, folder: Path, worker: str) -> None:
    """Wait until an episode that a worker wrote is in the folder here; raises OutputError."""
    until = time.monotonic() + SHARED_SECONDS
    while not store.has(episode_id):
        if time.monotonic() >= until:
            raise OutputError(
                f"{episode_id} was written by {worker or 'a worker'}, but is not in {folder} here: "
                "the output must be one disk, at the same path on every node"
            )
        time.sleep(0.5)


def holder(path: Path) -> str:
    """Say who holds, or held, a lock: a process and its host; empty when that is not known."""
    return next(iter(_text(path).splitlines()), "").strip()


def _is_dead(descriptor: int, root: Path) -> bool:
    """Tell whether a holder on another host has not touched its lock for long.

    By the clock of the filesystem alone: those of hosts may differ.
    """
    text = os.pread(descriptor, 200, 0).decode(errors="replace")
    if "\ntoken " not in text or text.splitlines()[0].endswith(f" on {platform.node()}"):
        return False  # it makes no touches; or the kernel knows, and says that it lives
    with stage(root / "tmp", ".probe") as probe:
        write_all(probe.descriptor, b"now", 0)
        now = os.fstat(probe.descriptor).st_mtime
    return now - os.fstat(descriptor).st_mtime >= DEAD_SECONDS


def _is_at(path: Path, descriptor: int) -> bool | None:
    """Tell whether an open file is still the one of that name; None when there is none."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return None


def _path(folder: Path, writer: str) -> Path:
    return folder / "index" / f"{writer}.lock"


def _who() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(200).decode(errors="replace")
    except OSError:
        return ""
