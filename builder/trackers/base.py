"""What a tracker is: a session is fed frames and returns the windows they finish."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from builder.canvas.query_grid import queries_in_frame
from builder.core.errors import TrackingError
from builder.core.registry import Backends
from schemas.dataset import TrackerInfo
from schemas.geometry import Geometry


class Window(NamedTuple):
    """The tracks of one window.

    ``tracks_xy`` (horizon, N, 2) float32, continuous (x, y) pixels of the frames that were
    pushed; step 0 is the query points themselves.  ``vis`` (horizon, N) uint8, 0 or 1.
    ``conf`` (horizon, N) float32 in [0, 1] when the tracker gives one.
    """

    start: int
    tracks_xy: np.ndarray
    vis: np.ndarray
    conf: np.ndarray | None = None


class ViewKey(NamedTuple):
    """Which view is going to be tracked.

    ``episode`` is its id, ``path`` that of its source (as in ``EpisodeRef``: relative, odd bytes
    percent-encoded), ``view`` the view's name.  ``cut``: frames at its end may be left out on
    purpose, as by ``source.max_frames``.  Of a clip, ``episode`` and ``path`` are those of the
    episode it is cut from, and ``first`` is the frame of it, as selected, where the clip begins.
    """

    episode: str
    path: str
    view: str
    cut: bool = False
    first: int = 0


Keeps = Callable[[int], bool]
"""Tells whether the window that starts at a frame is wanted, once all its frames were pushed."""


class Session(Protocol):
    """One view being tracked.  Memory does not depend on how many frames are pushed."""

    def push(self, frame_rgb: np.ndarray) -> list[Window]:
        """Take the next frame (H, W, 3) uint8 RGB; return the windows it finished, in order."""
        ...

    def finish(self) -> list[Window]:
        """Return the windows still open, their tail padded by repeating the last frame."""
        ...


@dataclass(eq=False)
class BaseSession(ABC):
    """Base of sessions: checks what ``Tracker.open`` was given, and every frame.

    A subclass defines ``_add`` and ``finish``.  ``_pushed`` frames came so far.  Where ``keeps`` is
    set, windows that it does not want need not be tracked, nor returned; the others have to be as
    without it.
    """

    shape: tuple[int, int]
    queries_xy: np.ndarray
    horizon: int
    start_every: int

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.start_every < 1:
            raise TrackingError(
                f"horizon and start_every must be at least 1, got {self.horizon} and "
                f"{self.start_every}"
            )
        self.queries_xy = queries_in_frame(self.shape, self.queries_xy)
        self._pushed = 0
        self.keeps: Keeps | None = None

    def push(self, frame_rgb: np.ndarray) -> list[Window]:
        """Take the next frame (H, W, 3) uint8 RGB; return the windows it finished, in order."""
        if frame_rgb.shape != (*self.shape, 3) or frame_rgb.dtype != np.uint8:
            raise TrackingError(
                f"expected a frame {(*self.shape, 3)} uint8, got {frame_rgb.shape} "
                f"{frame_rgb.dtype}"
            )
        self._pushed += 1
        return self._add(frame_rgb)

    @abstractmethod
    def _add(self, frame_rgb: np.ndarray) -> list[Window]:
        """Do the work of ``push`` for a frame that was checked; must copy it to keep it."""

    @abstractmethod
    def finish(self) -> list[Window]:
        """Return the windows still open, their tail padded by repeating the last frame."""


class Tracker(ABC):
    """Base of trackers.  Constructed as ``Tracker(config)``; picklable before first use.

    A subclass names the model of its settings, ``Config``, and defines ``info`` and ``open``.
    """

    Config: ClassVar[Any]
    gives_conf: bool = False
    """Whether windows carry ``conf``."""
    gives_tracks: bool = True
    """Whether there are any windows."""
    notice: str | None = None
    """One sentence that a user should read before trusting the tracks."""
    brings_points: bool = False
    """Whether it brings its own query points, by ``for_view``, instead of tracking given ones."""
    queries_xy: np.ndarray | None = None
    """The points (N, 2) float32 img pixels that a tracker from ``for_view`` brings."""
    code_setting: ClassVar[str | None] = None
    """The setting that names code to run: only who runs it may choose it, never a record."""
    notes: tuple[str, ...] = ()
    """Sentences that the metadata of a view keep, of a tracker from ``for_view``."""

    @property
    @abstractmethod
    def info(self) -> TrackerInfo:
        """What the dataset records about it."""

    @abstractmethod
    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> Session:
        """Start tracking ``queries_xy`` (N, 2), continuous pixels of frames of ``shape`` (H, W).

        A window starts at frames 0, start_every, 2 * start_every, ... from the same queries
        and covers ``horizon`` steps.  Raises TrackingError for queries outside the frame.
        """

    def for_view(self, key: ViewKey, geometry: Geometry, length: int) -> Tracker:
        """Return the tracker to open for a view of ``length`` frames.

        Overridden by a tracker that needs to know which view it tracks.  Raises TrackingError.
        """
        return self

    @property
    def pins(self) -> Mapping[str, Any]:
        """Settings that hold workers to what this one found, such as the hash of its code."""
        return {}

    @property
    def needs_view(self) -> bool:
        """Whether it needs to know which view it tracks: it overrides ``for_view``."""
        return type(self).for_view is not Tracker.for_view


TRACKERS: Backends[Tracker] = Backends("trackers", Tracker)
