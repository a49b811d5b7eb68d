"""A dataset that is built at a URL: its small files are kept here meanwhile, and put there whole.

An object cannot be appended to, and nothing there can be locked.  So each run lists what it built
under a name of its own, which no other run writes to, and ``finalize`` merges them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from builder.core.errors import ConfigError, LettersetError, shown_as
from builder.core.paths import without_passwords
from builder.dataset.folder import META_NAME, differences, load_meta
from builder.dataset.index import LISTS, writer_name
from builder.stores.atomic import leftovers, make_folders, output_errors, stage
from builder.stores.remote_folder import Listed, RemoteFolder
from builder.stores.scratch import scratch_folder
from schemas.dataset import DatasetMeta

PUSH_SECONDS = 10.0

# Where an object is there whole or not at all.
_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "obs", "memory")


def check_output_url(url: str) -> None:
    """Raise ConfigError for a URL at which a file may be there in part."""
    scheme = url.partition(":")[0].lower()
    if scheme not in _WHOLE:
        raise ConfigError(
            f"{url}: a dataset is built in a local folder or in an object store (s3, gs, az): "
            f"elsewhere ({scheme}) a run that is killed may leave half a file"
        )


class FarOutput:
    """The small files of a dataset at a URL, in ``folder`` here; see :func:`far_output`."""

    def __init__(self, remote: RemoteFolder, folder: Path) -> None:
        self.remote, self.folder = remote, folder
        self._fetched: dict[str, Listed] = {}
        self._states: dict[str, tuple[int, int]] = {}
        self._pushed = time.monotonic()
        self._is_new = (text := remote.read(META_NAME)) is None
        with output_errors(folder):
            make_folders(folder)
            if text is not None:
                (folder / META_NAME).write_bytes(text)
        for name, suffix in LISTS.items():
            found = remote.fetch_flat(name, suffix, folder / name)
            self._fetched |= {f"{name}/{key}": each for key, each in found.items()}
        self._states = self._look()

    def check(self, meta: DatasetMeta) -> None:
        """Raise ConfigError where the dataset there was made with other settings."""
        if self._is_new:
            return
        if found := differences(load_meta(self.folder), meta):
            raise ConfigError(
                f"{self.folder / META_NAME} was made with other settings: {'; '.join(found)}. Use "
                "the same settings to continue it, or another URL"
            )

    def claim(self) -> None:
        """Put ``dataset.json`` there, unless it is there; of two that do, one is refused."""
        text = (self.folder / META_NAME).read_bytes()
        if self._is_new and not self.remote.put(text, META_NAME, create=True):
            if self.remote.read(META_NAME) != text:
                raise ConfigError(
                    f"{self.folder} was begun by another build just now, with other settings or "
                    "another version: run the same command again to see the difference"
                )
        self._is_new = False

    def push(self) -> list[str]:
        """Put there what has changed since here, never ``dataset.json``.  Raises OutputError.

        Returns what was left as it is there, because somebody wrote to it since it was fetched.
        """
        left: list[str] = []
        if self._is_new:
            return left  # it may be another build's by now
        for name, state in sorted(self._look().items()):
            if self._states.get(name) == state:
                continue
            if name in self._fetched and not self._is_as_fetched(name):
                left.append(name)
                continue
            self.remote.put((self.folder / name).read_bytes(), name)
            self._states[name] = state
            self._fetched.pop(name, None)
        self._pushed = time.monotonic()
        return left

    def push_now_and_then(self) -> None:
        """Put there what has changed, unless that was done a moment ago."""
        if time.monotonic() - self._pushed >= PUSH_SECONDS:
            self.push()

    def delete_gone(self) -> None:
        """Delete there what was fetched and is gone here, unless somebody wrote to it since."""
        gone = {name for name in self._fetched if not (self.folder / name).exists()}
        for name in sorted(gone):
            if self._is_as_fetched(name):
                self.remote.delete(name)

    def _is_as_fetched(self, name: str) -> bool:
        return self.remote.listing(name).get("") == self._fetched[name]

    def _look(self) -> dict[str, tuple[int, int]]:
        files = (path for place in LISTS for path in (self.folder / place).glob("*.json*"))
        return {path.relative_to(self.folder).as_posix(): _state(path) for path in files}


@contextmanager
def far_output(url: str) -> Iterator[FarOutput]:
    """Fetch the small files of a dataset at a URL, if there is one; at the end put there the new.

    Errors name the URL, not the folder they lie in here.  Raises ConfigError, DatasetError where
    it cannot be read, OutputError where it cannot be written.
    """
    check_output_url(url)
    leftovers(scratch_folder() / "tmp", remove=True)
    with stage(scratch_folder() / "tmp", ".lists") as staged:
        with shown_as(staged.folder, without_passwords(url)):
            output = FarOutput(RemoteFolder(url), staged.folder)
            try:
                yield output
            except BaseException:
                with suppress(LettersetError):
                    output.push()
                raise
            output.push()


def run_writer(name: str) -> str:
    """Return the name of one run of a writer: sorted after those before, and after ``main``."""
    when = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
    run = f"{name}_{when}-{secrets.token_hex(4)}"
    assert writer_name(run) == name
    return run


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
