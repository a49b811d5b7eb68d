"""Episode folders: one folder per episode, one video per view."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from builder.core.errors import SourceError
from builder.core.lazy import Lazy
from builder.core.paths import printable_path, safe_names
from builder.inputs.fingerprint import fingerprints
from builder.inputs.listing import VIDEO_SUFFIXES, folders_with, names_in, total_bytes
from builder.inputs.sidecars import read_sidecars
from builder.inputs.video import VideoStream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Selection


class EpisodeFoldersConfig(Selection):
    """Settings of the ``episodes`` source."""


class EpisodeFolders(BaseSource[EpisodeFoldersConfig]):
    """Every folder below the root that directly holds videos is an episode.

    Each video is a view, named by its stem.  ``<name>.npy`` beside them pass through as arrays
    with one row per frame, ``text.txt`` is the instruction; the folder above is the group.
    """

    Config: ClassVar = EpisodeFoldersConfig
    suffixes: ClassVar = VIDEO_SUFFIXES

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for several folders that each hold videos of the same names."""
        folders = contents.having(VIDEO_SUFFIXES)
        stems = [{os.path.splitext(name)[0] for name in names} for names in folders.values()]
        if len(folders) > 1 and (in_all := set.intersection(*stems)):
            names = ", ".join(sorted(map(printable_path, in_all))[:5])
            return Evidence(f"{len(folders)} folders that each hold {names}", covers=("video",))
        return None

    def refs(self) -> Iterator[EpisodeRef]:
        """List the folders in natural order.  Raises SourceError when none holds a video."""
        return self.refs_of_folders(
            folders_with(self.path, VIDEO_SUFFIXES),
            "no folder with videos found; one folder per episode with one video per view is "
            "expected",
        )

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open all videos of a folder.  Raises SourceError naming the one that is wrong."""
        folder = self.path / ref.locator
        names = names_in(folder, VIDEO_SUFFIXES)
        if not names:
            raise SourceError.at(folder, "there is no video in it")
        stems = [os.path.splitext(name)[0] for name in names]
        unique = len(set(stems)) == len(stems)
        views = list(safe_names(stems if unique else names).values())
        sidecars = read_sidecars(folder, self._limits)
        paths = [os.path.join(ref.locator, name) for name in (*names, *sidecars.files)]
        places = dict(zip(views, paths, strict=False))
        yield Episode(
            views=Lazy.of(self._stream, {view: (view, place) for view, place in places.items()}),
            arrays=sidecars.arrays,
            files=fingerprints(self.path, paths[len(places) :]),
            view_files=self.files_of_views(places),
            text=sidecars.text,
        )

    def _stream(self, named: tuple[str, str]) -> VideoStream:
        view, place = named
        path, turn = self.path / place, self._config.turned_by_hand(view)
        return VideoStream(path, limits=self._limits, orientation=turn)

    def weight(self, ref: EpisodeRef) -> float:
        """Return the bytes of the videos: frames could not be told without opening them."""
        folder = self.path / ref.locator
        try:
            return total_bytes(folder / name for name in names_in(folder, VIDEO_SUFFIXES))
        except SourceError:
            return 0.0
