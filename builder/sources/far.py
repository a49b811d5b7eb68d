"""Sources at URLs: listed there; a file is fetched when it is needed, used, and deleted.

What is fetched lies in a folder of the user's for temporary files, where all processes of a machine
find it: a worker may fetch ahead what another one is going to build.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder.core.errors import DatasetError, FetchError, LettersetError, SourceError, shown_as
from builder.core.paths import without_passwords
from builder.core.working import still_working
from builder.inputs.fingerprint import MIB
from builder.inputs.foreign import announce, still_reading
from builder.inputs.listing import COMPANIONS, has_suffix, natural_key
from builder.sources.base import Episode, EpisodeRef, Source
from builder.stores.atomic import output_errors, try_lock
from builder.stores.remote_folder import RemoteFolder
from builder.stores.scratch import scratch_folder
from schemas.config import Limits
from schemas.dataset import Fingerprint

_OLD_SECONDS = 24 * 3600.0
_LOOK_SECONDS = 0.2
_AT_ONCE = 16  # files of which the ends are read


@dataclass(frozen=True)
class FarFile:
    """A file below a URL; ``key`` is what the store knows it by, "" for the URL itself."""

    relative: str
    key: str
    size: int
    mark: str


def far_files(remote: RemoteFolder) -> list[FarFile]:
    """List the files below a URL as a local folder is listed: in natural order, no hidden ones.

    Raises SourceError when there are none, FetchError when it cannot be listed.
    """
    with _fetching():
        found = remote.listing(any_names=True)
    if "" in found:
        size, mark, _ = found[""]
        return [FarFile(remote.url.rpartition("/")[2], "", size, mark)]
    files = []
    for key, (size, mark, _) in found.items():
        parts = key.split("/")
        if any(part in ("", "..") for part in parts):
            raise SourceError(f"{remote.url} has a file {key!r}, which is no path: rename it")
        if not any(part.startswith(".") for part in parts):
            files.append(FarFile(key, key, size, mark))
    if not files:
        raise SourceError(f"{remote.url}: there is no such bucket or folder, or no file in it")
    return sorted(files, key=lambda file: _place(file.relative))


def _place(relative: str) -> tuple[Any, ...]:
    """Sort key: the files of a folder come before the folders in it."""
    *folders, name = relative.split("/")
    return (*((1, natural_key(folder)) for folder in folders), (0, natural_key(name)))


def far_fingerprints(
    remote: RemoteFolder, files: Sequence[FarFile]
) -> Iterator[tuple[FarFile, Fingerprint]]:
    """Fingerprint files at a URL by reading their ends alone.  Raises FetchError."""
    for at in range(0, len(files), _AT_ONCE):
        some = files[at : at + _AT_ONCE]
        spans = [(file.key, *span) for file in some for span in _ends(file.size)]
        with _fetching():
            ends = iter(remote.ranges([span for span in spans if span[1] < span[2]]))
        still_working()
        for file in some:
            digest = hashlib.sha256()
            for begin, end in _ends(file.size):
                digest.update(next(ends) if begin < end else b"")
            yield file, Fingerprint(size=file.size, sha256=digest.hexdigest())


def _ends(size: int) -> list[tuple[int, int]]:
    """Return the spans that a fingerprint is taken of."""
    return [(0, min(MIB, size)), (max(MIB, size - MIB), max(MIB, size))]


class FarSource(Source):
    """A source at a URL, of a kind whose episodes are single files, chosen by their names.

    ``make`` makes the source of a local folder, with ``wants(relative)``.
    """

    def __init__(self, url: str, make: Callable[..., Any], how: Any, limits: Limits) -> None:
        self.url, self._make, self._how, self._limits = url, make, how, limits
        self._remote = RemoteFolder(url)

    def refs(self) -> Iterator[EpisodeRef]:
        """List the files in the order of a local folder.  Raises SourceError, FetchError."""
        local, found = self._local(Path()), far_files(self._remote)
        refs = [
            EpisodeRef.at(os.fsencode(file.relative), file)
            for file in found
            if not file.key or local.wants(file.relative)
        ]
        if not refs:
            looked_for = ", ".join(self._how.include or local.suffixes)
            raise SourceError(
                f"{self.url}: none of {len(found)} files fits; looked for {looked_for}"
            )
        yield from refs

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one file, which is fetched for as long as it is open.

        Raises FetchError where it does not come, and what opening it raises.
        """
        file: FarFile = ref.locator
        with Fetched(self._remote, file).in_use() as folder:
            # Where it lies for now is no matter to anybody.
            with shown_as(folder, without_passwords(self.url)):
                with self._local(folder).open(replace(ref, locator=file.relative)) as episode:
                    yield episode

    def _local(self, folder: Path) -> Any:
        return self._make(folder, self._how, self._limits)

    def weight(self, ref: EpisodeRef) -> float:
        """Return the bytes of the file."""
        return float(ref.locator.size)

    def left_out(self) -> Mapping[str, int]:
        """Count the files that are not read, by their ending; small companions are not counted."""
        if self._how.include:
            return {}
        known = (*self._local(Path()).suffixes, *COMPANIONS)
        names = (file.relative for file in far_files(self._remote))
        others = (name for name in names if not has_suffix(name, known))
        return Counter(os.path.splitext(name)[1].lower() or "no ending" for name in others)

    def fetch_ahead(self, ref: EpisodeRef) -> None:
        """Begin to fetch the file of an episode."""
        Fetched(self._remote, ref.locator).ahead()

    def clear(self) -> None:
        """Delete what was fetched from the URL and is not in use, and what others left long ago."""
        folder = scratch_folder()
        own = f"{_digest(without_passwords(self.url))[:8]}-"
        for path in folder.glob("*.lock"):
            with suppress(OSError):
                if path.name.startswith(own) or time.time() - path.stat().st_mtime > _OLD_SECONDS:
                    _delete(path, os.open(path, os.O_RDWR))


class Fetched:
    """One file of a URL in the scratch folder: fetched by one process for all that use it.

    Whoever uses it shares a lock on it.  The last one deletes it, unless this process is told that
    it is needed again.
    """

    _thread: threading.Thread | None = None
    _needed: str = ""

    def __init__(self, remote: RemoteFolder, file: FarFile) -> None:
        self._remote, self._file = remote, file
        url = _digest(without_passwords(remote.url))[:8]
        name = f"{url}-{_digest(file.key, str(file.size), file.mark)[:24]}"
        self._lock = scratch_folder() / f"{name}.lock"
        self._folder = self._lock.with_suffix("")
        self._path = self._folder / file.relative

    @contextmanager
    def in_use(self) -> Iterator[Path]:
        """Yield the folder in which the file lies.  Raises FetchError, OutputError."""
        announce(Path(self._remote.url, self._file.key))
        while True:
            descriptor = self._locked(shared=True)
            if self._path.exists():
                break
            os.close(descriptor)
            descriptor = self._locked(shared=False)
            try:
                self._fetch()
            finally:
                os.close(descriptor)
        try:
            yield self._folder
        finally:
            if Fetched._needed == self._lock.name:
                os.close(descriptor)
            else:
                _delete(self._lock, descriptor)

    def ahead(self) -> None:
        """Fetch it in the background, unless it is here or on its way.

        What goes wrong is met again by whoever needs the file.
        """
        Fetched._needed = self._lock.name
        before = Fetched._thread
        if self._path.exists() or (before is not None and before.is_alive()):
            return

        def fetch() -> None:
            with suppress(LettersetError, OSError):
                descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    if try_lock(descriptor) is not False and _is_at(self._lock, descriptor):
                        self._fetch()
                finally:
                    os.close(descriptor)

        Fetched._thread = threading.Thread(target=fetch, daemon=True)
        Fetched._thread.start()

    def _locked(self, shared: bool) -> int:
        """Lock it, waiting for who fetches it now; returns a descriptor to close."""
        while True:
            with output_errors(self._lock):
                descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
            before = -1
            while try_lock(descriptor, shared=shared) is False:
                before = self._tell_progress(before)
                time.sleep(_LOOK_SECONDS)
            if _is_at(self._lock, descriptor):
                return descriptor
            os.close(descriptor)  # it was deleted meanwhile

    def _fetch(self) -> None:
        """Fetch the file unless it is here, telling that it comes; it is ours alone meanwhile."""
        if self._path.exists():
            return
        errors: list[BaseException] = []
        # Killed while it comes, we leave a name that nobody else writes to.
        part = self._folder / f".{secrets.token_hex(6)}"

        def fetch() -> None:
            try:
                with _fetching():
                    self._remote.fetch_file(self._file.key, part, self._file.size)
            except BaseException as error:
                errors.append(error)

        # Not a pool, whose end waits for its threads: who is to end ends at once.
        thread = threading.Thread(target=fetch, daemon=True)
        thread.start()
        before = -1
        while thread.is_alive():
            thread.join(_LOOK_SECONDS)
            before = self._tell_progress(before)
        if errors:
            part.unlink(missing_ok=True)
            raise errors[0]
        with output_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, self._path)

    def _tell_progress(self, before: int) -> int:
        """Tell that we go on if more has come than ``before``; returns how much that is now."""
        now = 0
        with suppress(OSError):
            now = sum(each.stat().st_blocks for each in self._folder.iterdir())
        if now != before:
            still_working()
            still_reading()
        return now


def _delete(lock: Path, descriptor: int) -> None:
    """Delete a fetched file unless somebody uses it; closes the descriptor of its lock."""
    try:
        if try_lock(descriptor) is not False and _is_at(lock, descriptor):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


@contextmanager
def _fetching() -> Iterator[None]:
    """Turn errors of a URL into FetchErrors."""
    try:
        yield
    except DatasetError as error:
        raise FetchError(str(error)) from None


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()
