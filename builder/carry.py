"""Carrying points from frame to frame through all open windows at once.

For trackers that know motion between neighbouring frames: the work for a pair of frames is
done once, however many windows it serves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from builder.queries import checked_queries
from builder.trackers.base import Window
from builder.windows import checked_frame, checked_window

Advance = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps points (M, 2) of the previous frame to (points (M, 2) of this frame, seen (M,) bool)."""

Observe = Callable[[np.ndarray], "Advance | None"]
"""Takes the next frame (H, W, 3); returns how points came to it (None for the first frame)."""


class CarriedSession:
    """A tracker session that chains frame-to-frame motion.

    A point once lost stays lost within its window (its later steps have vis 0) but keeps
    moving with what is seen where it is; a point outside the frame counts as lost.  Holds the
    open windows, at most ``ceil(horizon / start_every)`` of them, and what ``observe`` keeps.
    """

    def __init__(
        self,
        observe: Observe,
        shape: tuple[int, int],
        queries_xy: np.ndarray,
        horizon: int,
        start_every: int,
    ) -> None:
        checked_window(horizon, start_every)
        self._observe, self._shape = observe, shape
        self._queries = checked_queries(shape, queries_xy)
        self._horizon, self._start_every = horizon, start_every
        self._open: deque[Window] = deque()
        self._pushed = 0

    def push(self, frame_rgb: np.ndarray) -> list[Window]:
        """Take the next frame (H, W, 3) uint8 RGB; return the windows it finished, in order."""
        checked_frame(frame_rgb, self._shape)
        advance = self._observe(frame_rgb)
        if self._open and advance is not None:
            self._step(advance)
        if self._pushed % self._start_every == 0:
            self._open.append(self._begin(self._pushed))
        self._pushed += 1
        done = self._open and self._pushed - self._open[0].start == self._horizon
        return [self._open.popleft()] if done else []

    def finish(self) -> list[Window]:
        """Return the windows still open, their tail padded by repeating the last frame."""
        windows = list(self._open)
        self._open.clear()
        for window in windows:
            last = self._pushed - window.start - 1
            window.tracks_xy[last + 1 :] = window.tracks_xy[last]
            window.vis[last + 1 :] = window.vis[last]
        return windows

    def _begin(self, start: int) -> Window:
        tracks_xy = np.empty((self._horizon, *self._queries.shape), np.float32)
        vis = np.ones(tracks_xy.shape[:2], np.uint8)
        tracks_xy[0] = self._queries
        return Window(start, tracks_xy, vis)

    def _step(self, advance: Advance) -> None:
        """Move the points of every open window to the newest frame, all in one call."""
        steps = [self._pushed - window.start for window in self._open]
        points = np.concatenate(
            [window.tracks_xy[step - 1] for window, step in zip(self._open, steps, strict=True)]
        )
        moved, seen = advance(points)
        seen = seen & self._inside(moved)
        count = len(self._queries)
        for k, (window, step) in enumerate(zip(self._open, steps, strict=True)):
            rows = slice(k * count, (k + 1) * count)
            window.tracks_xy[step] = moved[rows]
            window.vis[step] = window.vis[step - 1] & seen[rows]

    def _inside(self, points: np.ndarray) -> np.ndarray:
        height, width = self._shape
        x, y = points[:, 0], points[:, 1]
        return (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
