"""Carrying points from frame to frame through all open windows at once.

For trackers that know motion between two frames: the work for a pair of frames is done once,
however many windows it serves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from builder.canvas.query_grid import queries_in_frame
from builder.trackers.base import Window
from builder.trackers.windowed import checked_frame, checked_window

LINK_COST = 0.1
"""What one more link in a chain weighs, in pixels of disagreement: fewer links drift less."""

DARK = 8.0
"""Grey levels added before brightnesses are compared as a ratio."""


class Link(NamedTuple):
    """How points came from an earlier frame to the newest one.

    ``follow`` maps points (M, 2) of the frame ``gap`` frames ago to (points (M, 2), error (M,)):
    ``error`` is how far from its origin a point lands when followed back, inf if not found.
    """

    gap: int
    follow: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Sight(NamedTuple):
    """What a newly pushed frame tells: links (gap 1 first) and colours.

    ``look`` gives the colours (M, C) at points (M, 2), smoothed, in grey levels.
    """

    links: list[Link]
    look: Callable[[np.ndarray], np.ndarray] | None = None


class _Chain(NamedTuple):
    """An open window; ``cost`` (horizon, N) is the disagreement gathered on the way there."""

    window: Window
    cost: np.ndarray
    colours: np.ndarray | None


class CarriedSession:
    """A tracker session that chains motion between frames.

    A point goes on by the link that is seen (from a step where it was visible, inside the
    frame, with error under ``max_error``) and whose whole chain disagrees least.  Without one
    it is lost: it keeps moving by the motion where it is, and is visible again only if a link
    of a longer gap finds it.  ``max_colour`` is how much a visible point may differ from its
    start in any channel, apart from a change of light that all points share.

    Holds the open windows, at most ``ceil(horizon / start_every)``, and what ``observe`` keeps.
    """

    def __init__(
        self,
        observe: Callable[[np.ndarray], Sight],
        shape: tuple[int, int],
        queries_xy: np.ndarray,
        horizon: int,
        start_every: int,
        max_error: float,
        max_colour: float | None = None,
    ) -> None:
        checked_window(horizon, start_every)
        self._observe, self._shape = observe, shape
        self._queries = queries_in_frame(shape, queries_xy)
        self._horizon, self._start_every = horizon, start_every
        self._max_error, self._max_colour = max_error, max_colour
        self._open: deque[_Chain] = deque()
        self._pushed = 0

    def push(self, frame_rgb: np.ndarray) -> list[Window]:
        """Take the next frame (H, W, 3) uint8 RGB; return the windows it finished, in order."""
        checked_frame(frame_rgb, self._shape)
        sight = self._observe(frame_rgb)
        if self._open:
            self._step(sight)
        if self._pushed % self._start_every == 0:
            self._open.append(self._begin(sight))
        self._pushed += 1
        if self._open and self._pushed - self._open[0].window.start == self._horizon:
            return [self._open.popleft().window]
        return []

    def finish(self) -> list[Window]:
        """Return the windows still open, their tail padded by repeating the last frame."""
        windows = [chain.window for chain in self._open]
        self._open.clear()
        for window in windows:
            last = self._pushed - window.start - 1
            window.tracks_xy[last + 1 :] = window.tracks_xy[last]
            window.vis[last + 1 :] = window.vis[last]
        return windows

    def _begin(self, sight: Sight) -> _Chain:
        tracks_xy = np.empty((self._horizon, *self._queries.shape), np.float32)
        vis = np.zeros(tracks_xy.shape[:2], np.uint8)
        cost = np.zeros(vis.shape, np.float32)
        tracks_xy[0], vis[0] = self._queries, 1
        colours = None
        if self._max_colour is not None and sight.look is not None:
            colours = sight.look(self._queries)
        return _Chain(Window(self._pushed, tracks_xy, vis), cost, colours)

    def _step(self, sight: Sight) -> None:
        """Move the points of every open window to the newest frame, one call per link."""
        moved, cost = self._along(sight.links[0])
        for link in sight.links[1:]:
            other, other_cost = self._along(link)
            count = len(other)  # the oldest windows come first, and only they reach back so far
            better = other_cost < cost[:count]
            moved[:count][better] = other[better]
            cost[:count][better] = other_cost[better]
        colours = None if sight.look is None else sight.look(moved)
        for chain, rows in zip(self._open, self._rows(), strict=True):
            step = self._pushed - chain.window.start
            seen = np.isfinite(cost[rows])
            if colours is not None and chain.colours is not None:
                seen &= self._looks_same(chain.colours, colours[rows], seen)
            chain.window.tracks_xy[step] = moved[rows]
            chain.window.vis[step] = seen
            chain.cost[step] = cost[rows]

    def _along(self, link: Link) -> tuple[np.ndarray, np.ndarray]:
        """Follow one link; returns points (M, 2) and their chains' costs (M,), inf if lost."""
        origins = [
            (chain, self._pushed - chain.window.start - link.gap)
            for chain in self._open
            if self._pushed - chain.window.start >= link.gap
        ]
        if not origins:
            return np.empty((0, 2), np.float32), np.empty(0, np.float32)
        points = np.concatenate([chain.window.tracks_xy[step] for chain, step in origins])
        visible = np.concatenate([chain.window.vis[step] for chain, step in origins])
        before = np.concatenate([chain.cost[step] for chain, step in origins])
        moved, error = link.follow(points)
        seen = (visible == 1) & (error < self._max_error) & self._inside(moved)
        return moved, np.where(seen, before + error + np.float32(LINK_COST), np.inf)

    def _rows(self) -> list[slice]:
        count = len(self._queries)
        return [slice(k * count, (k + 1) * count) for k in range(len(self._open))]

    def _inside(self, points: np.ndarray) -> np.ndarray:
        height, width = self._shape
        x, y = points[:, 0], points[:, 1]
        return (x >= 0) & (x <= width) & (y >= 0) & (y <= height)

    def _looks_same(self, start: np.ndarray, now: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Compare colours (N, C), after taking out the light's change common to seen points."""
        if not seen.any():
            return seen
        light = np.median((now[seen] + DARK) / (start[seen] + DARK), axis=0)
        return np.abs(now / light - start).max(axis=1) < self._max_colour
