"""What a tracker is: a session is fed frames and returns the windows they finish."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from builder.core.registry import Backends
from schemas.dataset import TrackerInfo

if TYPE_CHECKING:
    import numpy as np


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
    purpose, as by ``source.max_frames``.
    """

    episode: str
    path: str
    view: str
    cut: bool = False


class Session(Protocol):
    """One view being tracked.  Memory does not depend on how many frames are pushed."""

    def push(self, frame_rgb: np.ndarray) -> list[Window]:
        """Take the next frame (H, W, 3) uint8 RGB; return the windows it finished, in order."""
        ...

    def finish(self) -> list[Window]:
        """Return the windows still open, their tail padded by repeating the last frame."""
        ...


class Tracker(Protocol):
    """A tracking method.  Constructed as ``Tracker(config)``; picklable before first use.

    A tracker with ``gives_tracks = False`` (there by default: True) makes no windows.
    ``gives_conf`` tells whether windows carry ``conf``.  ``notice`` is one sentence a user
    should read before trusting the tracks, or None.

    A tracker that needs to know which view it tracks has a method ``for_view(key, geometry,
    length)``: given a ViewKey, the view's geometry and its number of frames, it returns the
    tracker to open for that view, or raises TrackingError.  One that brings its own points says
    so by ``brings_points = True`` (there by default: False); what its ``for_view`` returns has
    ``queries_xy`` (N, 2) float32 img pixels.  That may have ``notes``, sentences that the view's
    metadata keep.
    """

    gives_conf: bool
    notice: str | None

    @property
    def info(self) -> TrackerInfo:
        """What the dataset records about it."""
        ...

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> Session:
        """Start tracking ``queries_xy`` (N, 2), continuous pixels of frames of ``shape`` (H, W).

        A window starts at frames 0, start_every, 2 * start_every, ... from the same queries
        and covers ``horizon`` steps.  Raises TrackingError for queries outside the frame.
        """
        ...


TRACKERS: Backends[Tracker] = Backends("trackers")
