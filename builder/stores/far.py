"""Episodes at a URL: each is built here, then put there whole; the object is the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.core.errors import DatasetError, OutputError, UnreadableError
from builder.stores.atomic import stage
from builder.stores.base import ArraySpec, EpisodeWriter
from builder.stores.ranged import SparseFile
from builder.stores.remote_folder import RemoteFolder
from builder.stores.scratch import scratch_folder
from schemas.dataset import EpisodeMeta


class StoredMeta:
    """What is read of an episode there: its metadata alone."""

    def __init__(self, meta: EpisodeMeta) -> None:
        self.meta = meta

    def close(self) -> None:
        """Release nothing."""


class FarStore:
    """A store at a URL, of a kind whose episodes are single files; ``make`` makes the local one.

    Small to pickle.  What cannot be reached is an OutputError: nothing could be written either.
    """

    def __init__(self, url: str, make: Any) -> None:
        self.url, self._make = url, make
        self.remote, self._local = RemoteFolder(url), make(Path())
        self.place = make.place
        self._known: set[str] | None = None

    def path(self, episode_id: str) -> Path:
        """Return where an episode is, below the URL."""
        return Path(self._local.path(episode_id))

    def has(self, episode_id: str) -> bool:
        """Tell whether an episode is there; once all were listed, whether it was then."""
        if self._known is not None:
            return episode_id in self._known
        with _reaching():
            return self.remote.has(self.path(episode_id).as_posix())

    def ids(self) -> Iterator[str]:
        """List the ids of all episodes, sorted."""
        with _reaching():
            names = self.remote.listing(self.place)
        suffix = self._make.suffix
        self._known = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
        yield from sorted(self._known)

    def open(self, episode_id: str) -> StoredMeta:
        """Read the metadata of an episode.  Raises DatasetError where it is damaged."""
        name = self.path(episode_id).as_posix()
        with _reaching():
            found = self.remote.listing(name)
            if "" not in found:
                raise DatasetError(f"{self.url}/{name} is missing, though it was listed")
            file = SparseFile(self.remote.ranges, name, found[""].size)
            return StoredMeta(self._local.metadata(file, f"{self.url}/{name}"))

    @contextmanager
    def begin(
        self,
        episode_id: str,
        layout: Mapping[str | None, Mapping[str, ArraySpec]],
        *,
        replace: bool = False,
    ) -> Iterator[EpisodeWriter]:
        """Start an episode in a folder of its own here; its commit puts it there.

        Raises OutputError, on commit also when one is there and ``replace`` is False.
        """
        name = self.path(episode_id).as_posix()

        def put() -> None:
            if not self.remote.put(local.path(episode_id), name, create=not replace):
                raise OutputError(f"{self.url}/{name} is there already")

        with stage(scratch_folder() / "tmp", ".build") as staged:
            local = self._make(staged.folder)
            with local.begin(episode_id, layout) as writer:
                yield _FarWriter(writer, put)

    def leftovers(self, *, remove: bool = False) -> list[Path]:
        """Return nothing: what was not put whole is not there."""
        return []


class _FarWriter:
    """Writes an episode here; ``put`` makes it exist there."""

    def __init__(self, local: EpisodeWriter, put: Callable[[], None]) -> None:
        self.write, self.digests = local.write, local.digests
        self._local, self._put = local, put

    def commit(self, meta: EpisodeMeta) -> None:
        self._local.commit(meta)
        self._put()


def cure(store: Any) -> str:
    """Say what to do about a damaged episode of a store: no verb mends what lies at a URL."""
    far = isinstance(store, FarStore)
    return "delete it and build again" if far else "run letterset repair"


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except UnreadableError as error:
        raise OutputError(str(error)) from None
