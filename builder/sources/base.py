"""What a source is: it lists episodes cheaply and opens them one at a time."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from builder.core.errors import SourceError
from builder.core.lazy import Lazy
from builder.core.paths import episode_id, printable_path
from builder.core.registry import Backends, raise_missing_extra
from builder.inputs.fingerprint import fingerprints
from builder.inputs.listing import COMPANIONS, has_suffix, walk
from builder.inputs.streams import FrameStream
from builder.inputs.streams import StreamInfo as StreamInfo  # the docs of 0.1 import it here
from builder.sources.contents import Contents, Evidence
from schemas.base import Record
from schemas.config import Limits
from schemas.dataset import Fingerprint

if TYPE_CHECKING:
    import numpy as np

C = TypeVar("C", bound=Record)


@dataclass(frozen=True)
class EpisodeRef:
    """An episode that exists; small, picklable, made without decoding anything.

    ``id`` depends on the source path alone.  ``path`` is relative to the source's root, odd
    bytes percent-encoded, for people and metadata; ``locator`` is whatever the source needs
    to find the episode again; ``splits`` are those the source itself puts the episode in.
    """

    id: str
    path: str
    locator: Any = None
    task: str | None = None
    group: str | None = None
    splits: tuple[str, ...] = ()

    @classmethod
    def at(
        cls,
        path: bytes | str,
        locator: Any,
        task: str | None = None,
        group: str | None = None,
        splits: tuple[str, ...] = (),
    ) -> EpisodeRef:
        """Make the ref of what lies at a path relative to the source's root."""
        return cls(episode_id(path), printable_path(path), locator, task, group, splits)

    @classmethod
    def inside(cls, relative: str, name: str | None, locator: Any, **more: Any) -> EpisodeRef:
        """Make the ref of one episode of a file that holds several; of the file without a name."""
        file = os.fsencode(relative)
        inner = b"" if name is None else b"/" + name.encode("utf-8", "surrogatepass")
        return cls.at(file + inner, locator, **more)


@dataclass
class Episode:
    """An open episode: frame streams by view name and arrays that pass through unchanged.

    ``views``, ``arrays``, ``constants`` and each of ``maps`` may be ``Lazy``: then what nobody
    chose is never opened.  Rows of ``arrays`` belong to the times in ``clock``, (T,) seconds;
    without a clock they belong to the frames of the first view.  ``constants`` have no time
    axis, whatever their length.  ``maps`` hold depth or labels by view and name: their frames
    are arrays (H, W) of the view's coded shape.  ``array_names`` are the source's own names of
    arrays that are stored under others.  ``view_files`` are the files of one view alone,
    ``files`` all others.  ``missing_views`` were asked for and are recorded as not there,
    ``notes`` say in sentences what was left out.  Several ``texts`` go with ``text_index``, (T,)
    rows that say which is that of a frame.  ``task`` replaces the ref's, where it is known better.
    """

    views: Mapping[str, FrameStream]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    maps: Mapping[str, Mapping[str, FrameStream]] = field(default_factory=dict)
    clock: np.ndarray | None = None
    files: Mapping[str, Fingerprint] = field(default_factory=dict)
    text: str | None = None
    licence: str | None = None
    missing_views: tuple[str, ...] = ()
    array_names: Mapping[str, str] = field(default_factory=dict)
    view_files: Mapping[str, Mapping[str, Fingerprint]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    task: str | None = None
    texts: tuple[str, ...] = ()
    text_index: np.ndarray | None = None


class Source(ABC):
    """Episodes of one kind.  Constructed as ``Source(path, config, limits)``; picklable."""

    @abstractmethod
    def refs(self) -> Iterator[EpisodeRef]:
        """List episodes in a stable order, cheaply.  Raises SourceError if there is no source."""

    @abstractmethod
    def open(self, ref: EpisodeRef) -> AbstractContextManager[Episode]:
        """Open one episode.  Raises SourceError (or DecodeError) naming what is wrong."""

    def weight(self, ref: EpisodeRef) -> float:
        """Return how much work an episode is, in one unit for all: frames, or bytes.

        Shards are balanced by it.  Costs at most a look into a folder.
        """
        return 1.0

    def left_out(self) -> Mapping[str, int]:
        """Count the files below the root, by their ending, that no episode can be made of."""
        return {}

    def fetch_ahead(self, ref: EpisodeRef) -> None:
        """Begin to fetch what opening an episode needs, where that lies elsewhere."""
        return None

    def clear(self) -> None:
        """Delete what was fetched and is not in use; called when a build ends."""
        return None


SOURCES: Backends[Source] = Backends("sources", Source)


class BaseSource(Source, Generic[C]):
    """Base of sources: the path a source reads, its settings, what one episode may cost.

    A subclass names the model of its settings, ``Config``, and gives ``refs`` and ``open``.
    """

    Config: ClassVar[Any]
    # Paths that, all of them there, mark a folder as this source's.
    markers: ClassVar[tuple[str, ...]] = ()
    # Endings of the files that episodes are made of, where others are to be told.
    suffixes: ClassVar[tuple[str, ...]] = ()
    # Packages that reading needs but recognizing does not; not every install has them.
    packages: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Return what at a path speaks for this kind of source; None when nothing does."""
        return None

    def __init__(self, path: Path, config: C | None = None, limits: Limits | None = None) -> None:
        self.path = Path(path)
        self._config: C = config or self.Config()
        self._limits = limits or Limits()
        try:
            for package in self.packages:
                import_module(package)
        except ModuleNotFoundError as error:
            raise_missing_extra(error)

    def left_out(self) -> Counter[str]:
        """Count the files that are not read, by their ending; small companions are not counted."""
        found: Counter[str] = Counter()
        if self.suffixes and self.path.is_dir() and not getattr(self._config, "include", ()):
            for _, names in walk(self.path):
                others = (n for n in names if not has_suffix(n, (*self.suffixes, *COMPANIONS)))
                found.update(os.path.splitext(name)[1].lower() or "no ending" for name in others)
        return found

    def files_of_views(self, places: Mapping[str, str]) -> Lazy[dict[str, Fingerprint]]:
        """Fingerprint the one file of each view, given relative to the root, when asked for."""
        return Lazy.of(lambda place: fingerprints(self.path, [place]), places)

    def refs_of_folders(self, folders: Iterable[str], if_none: str) -> Iterator[EpisodeRef]:
        """Make the refs of folders below the root ("" is the root), one each, as they come.

        The group is the folder above.  Raises SourceError saying ``if_none``.
        """
        seen: set[str] = set()
        for folder in folders:
            if folder not in seen:
                seen.add(folder)
                group = printable_path(os.path.dirname(folder)) or None
                yield EpisodeRef.at(os.fsencode(folder or "."), folder, group=group)
        if not seen:
            raise SourceError.at(self.path, if_none)
