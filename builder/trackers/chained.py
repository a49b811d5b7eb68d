"""Trackers that chain motion between two frames: all open windows go on from frame to frame.

The motion of a pair of frames is estimated once, however many windows it serves.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from builder.trackers.base import BaseSession, Session, Tracker, Window

LINK_COST = 0.1
"""What one more link in a chain costs, in pixels of disagreement: fewer links drift less."""

DARK = 8.0
"""Grey levels added before brightnesses are compared as a ratio."""


class Link(NamedTuple):
    """The motion from an earlier frame to the newest one.

    ``follow`` maps points (M, 2) of the frame ``gap`` frames ago to (points (M, 2), error (M,)):
    ``error`` is the forward-backward error, how far from its origin a point lands when followed
    back; inf where it is not found.
    """

    gap: int
    follow: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Observation(NamedTuple):
    """What is known of a newly pushed frame: links from earlier ones (gap 1 first) and colours.

    ``colours_at`` gives the colours (M, C) at points (M, 2), smoothed, in grey levels;
    ``goes_to`` maps points (M, 2) of the frame before to this one, ``came_from`` the reverse;
    ``camera`` is the homography (3, 3) by which the camera moved since then, None if it stood.
    """

    links: list[Link]
    colours_at: Callable[[np.ndarray], np.ndarray] | None = None
    goes_to: Callable[[np.ndarray], np.ndarray] | None = None
    came_from: Callable[[np.ndarray], np.ndarray] | None = None
    camera: np.ndarray | None = None


Observe = Callable[[np.ndarray], Observation]
"""What looks at each frame (H, W, 3) uint8 RGB of a view, in order."""


class ChainedTracker(Tracker):
    """Base of trackers that chain the motion between frames.

    A subclass defines ``info``, ``observe``, and the thresholds that its settings hold.
    """

    max_error: float
    max_colour: float | None = None

    @abstractmethod
    def observe(self) -> Observe:
        """Return what estimates motion, for one view."""

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> Session:
        """Start a session; see ``Tracker.open``."""
        observe, limits = self.observe(), (self.max_error, self.max_colour)
        return ChainedSession(shape, queries_xy, horizon, start_every, observe, *limits)


class _Chain(NamedTuple):
    """An open window; ``cost`` (horizon, N) is the error and link cost summed up to each step."""

    window: Window
    cost: np.ndarray
    colours: np.ndarray | None


@dataclass(eq=False)
class ChainedSession(BaseSession):
    """A tracker session that chains the motion between frames.

    A point goes on by the link that finds it (from a step where it was visible, inside the
    frame, with error under ``max_error``) and whose whole chain costs least.  Without one it is
    lost: it keeps moving by the motion at its place, and is visible again only if a link of a
    longer gap finds it.  ``max_colour`` is how much a visible point may differ from its start in
    any channel, apart from a change of light that all points share.

    Holds the open windows, at most ``ceil(horizon / start_every)``, and what ``observe`` keeps.
    """

    observe: Observe
    max_error: float
    max_colour: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._open: deque[_Chain] = deque()

    def _add(self, frame_rgb: np.ndarray) -> list[Window]:
        newest, seen = self._pushed - 1, self.observe(frame_rgb)
        if self._open:
            self._step(newest, seen)
        if newest % self.start_every == 0:
            self._open.append(self._begin(newest, seen))
        if self._open and self._pushed - self._open[0].window.start == self.horizon:
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

    def _begin(self, start: int, seen: Observation) -> _Chain:
        tracks_xy = np.empty((self.horizon, *self.queries_xy.shape), np.float32)
        vis = np.zeros(tracks_xy.shape[:2], np.uint8)
        cost = np.zeros(vis.shape, np.float32)
        tracks_xy[0], vis[0] = self.queries_xy, 1
        colours = None
        if self.max_colour is not None and seen.colours_at is not None:
            colours = seen.colours_at(self.queries_xy)
        return _Chain(Window(start, tracks_xy, vis), cost, colours)

    def _step(self, newest: int, seen: Observation) -> None:
        """Move the points of every open window to the newest frame, one call per link."""
        moved, cost = self._along(newest, seen.links[0])
        for link in seen.links[1:]:
            other, other_cost = self._along(newest, link)
            count = len(other)  # the oldest windows come first, and only they reach back so far
            better = other_cost < cost[:count]
            moved[:count][better] = other[better]
            cost[:count][better] = other_cost[better]
        colours = None if seen.colours_at is None else seen.colours_at(moved)
        count = len(self.queries_xy)
        for number, chain in enumerate(self._open):
            step, rows = newest - chain.window.start, slice(number * count, (number + 1) * count)
            visible = np.isfinite(cost[rows])
            if colours is not None and chain.colours is not None:
                visible &= self._looks_same(chain.colours, colours[rows], visible)
            chain.window.tracks_xy[step] = moved[rows]
            chain.window.vis[step] = visible
            chain.cost[step] = cost[rows]

    def _along(self, newest: int, link: Link) -> tuple[np.ndarray, np.ndarray]:
        """Follow one link; returns points (M, 2) and their chains' costs (M,), inf if lost."""
        origins = [
            (chain, newest - chain.window.start - link.gap)
            for chain in self._open
            if newest - chain.window.start >= link.gap
        ]
        if not origins:
            return np.empty((0, 2), np.float32), np.empty(0, np.float32)
        points = np.concatenate([chain.window.tracks_xy[step] for chain, step in origins])
        visible = np.concatenate([chain.window.vis[step] for chain, step in origins])
        before = np.concatenate([chain.cost[step] for chain, step in origins])
        moved, error = link.follow(points)
        inside = ((moved >= 0) & (moved <= self.shape[::-1])).all(axis=1)
        found = (visible == 1) & (error < self.max_error) & inside
        return moved, np.where(found, before + error + np.float32(LINK_COST), np.inf)

    def _looks_same(self, start: np.ndarray, now: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Compare colours (N, C), after taking out the light's change common to seen points."""
        if not seen.any():
            return seen
        light = np.median((now[seen] + DARK) / (start[seen] + DARK), axis=0)
        return np.abs(now / light - start).max(axis=1) < self.max_colour
