"""Plain video files: a folder of them, or one; each is an episode with one view."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from pydantic import Field

from builder.core.messages import count
from builder.core.paths import printable_path
from builder.inputs.fingerprint import known_fingerprint
from builder.inputs.listing import (
    VIDEO_SUFFIXES,
    files,
    has_suffix,
    locate,
    matches,
    total_bytes,
)
from builder.inputs.video import VideoStream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.seen import is_unread
from builder.sources.selection import Selection
from schemas.dataset import Name


class VideoFilesConfig(Selection):
    """Settings of the ``video`` source."""

    view: Name = Field(default="main", description="what the one view is called")


class VideoFiles(BaseSource[VideoFilesConfig]):
    """Video files below a folder, recursively and in natural order, or one file.

    Files are known by their suffix or, where ``include`` is given, by that alone.  Hidden ones are
    left out; links are followed.  One that cannot be read fails alone.
    """

    Config: ClassVar = VideoFilesConfig
    suffixes: ClassVar = VIDEO_SUFFIXES

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for video files; one file of no known kind may be a video, too."""
        videos = sum(map(len, contents.having(VIDEO_SUFFIXES).values()))
        if videos:
            return Evidence(count(videos, "video file") if contents.is_folder else "one video file")
        if contents.is_folder or is_unread(contents.name):
            return None
        return Evidence("a file of no other known kind", strength=0)

    def refs(self) -> Iterator[EpisodeRef]:
        """List the files folder by folder, in natural order.

        Raises SourceError when there is nothing at the path, or no file that fits.
        """
        looked_for = self._config.include or VIDEO_SUFFIXES
        for relative in files(self.path, looked_for, "video", self.wants):
            yield EpisodeRef.at(os.fsencode(relative), relative)

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one file.  Raises DecodeError naming what is wrong with it."""
        path = locate(self.path, ref.locator)
        view = self._config.view
        turn = self._config.turned_by_hand(view)
        stream = VideoStream(path, limits=self._limits, orientation=turn)
        yield Episode(views={view: stream}, files={ref.path: known_fingerprint(path)})

    def weight(self, ref: EpisodeRef) -> float:
        """Return the bytes of the file: frames could not be told without opening it."""
        return total_bytes([locate(self.path, ref.locator)])

    def wants(self, relative: str) -> bool:
        """Tell whether a file is one of ours, by its name alone: so it may lie at a URL."""
        include, name = self._config.include, os.path.basename(relative)
        path = printable_path(relative)
        fits = matches(path, include) if include else has_suffix(name, VIDEO_SUFFIXES)
        return fits and not matches(path, self._config.exclude)
