"""The tracks of one view, known beforehand: checked against the view and given back in step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from builder.core.errors import TrackingError
from builder.trackers.base import Window
from builder.trackers.windowed import checked_frame, checked_window
from schemas.dataset import TrackerInfo
from schemas.geometry import Geometry, Stretch

TOLERANCE_PX = 1e-3
"""How exactly all windows of a view must start from the same points."""
SLACK_PX = 1.0
"""How far a visible point may start outside the frame: rounding, not another size."""


class Found(NamedTuple):
    """Tracks (S, steps, N, 2) in source pixels and vis (S, steps, N); ``whole``: one long one."""

    source_xy: np.ndarray
    vis: np.ndarray
    whole: bool


class ViewTracks:
    """The tracks of one view, ready to be replayed; ``queries_xy`` (N, 2) img pixels are theirs.

    Raises TrackingError when they do not fit the view.
    """

    gives_conf = False
    notice: str | None = None

    def __init__(
        self,
        info: TrackerInfo,
        found: Found,
        geometry: Geometry,
        length: int,
        cut: bool,
        where: str,
        notes: tuple[str, ...],
    ) -> None:
        self.info, self._found, self._geometry = info, found, geometry
        self._length, self._cut, self._where, self.notes = length, cut, where, notes
        first = geometry.to_img(found.source_xy[:, 0])
        self.queries_xy = first[0].astype(np.float32)
        self._check_starts(first)

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> Replay:
        """Start a session; see ``Tracker.open``.

        ``queries_xy`` are the own points that lie in the picture.
        """
        checked_window(horizon, start_every)
        self._check_length(horizon, start_every)
        to_shown = Stretch(source_shape=self._geometry.source_shape, img_shape=shape)
        inside = np.asarray(self._geometry.inside(self.queries_xy))
        tracks = to_shown.to_img(self._found.source_xy[:, :, inside])
        if tracks.shape[2] != len(queries_xy) or not np.allclose(
            tracks[0, 0], queries_xy, rtol=0, atol=0.01
        ):
            raise TrackingError(
                f"{self._where}: asked for {len(queries_xy)} points that are not its own "
                f"{tracks.shape[2]}; precomputed tracks cannot start anywhere else"
            )
        return Replay(shape, tracks, self._found.vis[:, :, inside], horizon, start_every)

    def _check_starts(self, first_img_xy: np.ndarray) -> None:
        """Require one set of points (S, N, 2) for all windows, visible ones inside the frame."""
        off = np.abs(first_img_xy - first_img_xy[0]).max(axis=(1, 2))
        if off.max() > TOLERANCE_PX:
            window = int(np.argmax(off > TOLERANCE_PX))
            raise TrackingError(
                f"{self._where}: window {window} starts up to {off[window]:g} img px from where "
                "the first one starts; all windows must start at the same points"
            )
        start, (height, width) = self._found.source_xy[0, 0], self._geometry.source_shape
        out = ((start < -SLACK_PX) | (start > np.add((width, height), SLACK_PX))).any(axis=1)
        out &= self._found.vis[0, 0]
        if out.any():
            point = int(np.argmax(out))
            x, y = start[point]
            raise TrackingError(
                f"{self._where}: point {point} starts visible at (x, y) = ({x:g}, {y:g}), outside "
                f"its source of {height} x {width} (H x W): tracker.coordinates, order or size do "
                "not describe this file"
            )

    def _check_length(self, horizon: int, start_every: int) -> None:
        """Require as many windows and steps as the view has; more where the view was cut."""
        windows, steps = self._found.source_xy.shape[:2]
        wanted = len(range(0, self._length, start_every))
        if windows == 1 and (self._found.whole or horizon >= self._length):
            if wanted > 1:
                raise TrackingError(
                    f"{self._where}: it has one track of {steps} steps per point, not one for "
                    f"each of {wanted} windows: set tracker.mode=episode"
                )
            if steps < self._length or (steps > self._length and not self._cut):
                raise TrackingError(
                    f"{self._where}: tracks of {steps} frames for a view of {self._length}"
                )
            return
        if windows < wanted or (windows > wanted and not self._cut):
            raise TrackingError(
                f"{self._where}: {windows} windows, but {self._length} frames with a start at "
                f"every {start_every} (tracker.start_every) have {wanted}"
            )
        if steps < min(horizon, self._length):
            raise TrackingError(
                f"{self._where}: windows of {steps} steps, tracker.horizon is {horizon}"
            )


class Replay:
    """Gives windows (S, steps, N, 2) back as the frames they belong to come."""

    def __init__(
        self,
        shape: tuple[int, int],
        tracks: np.ndarray,
        vis: np.ndarray,
        horizon: int,
        start_every: int,
    ) -> None:
        self._shape, self._tracks, self._vis = shape, tracks, vis
        self._horizon, self._start_every = horizon, start_every
        self._pushed = self._given = 0

    def push(self, frame_rgb: np.ndarray) -> list[Window]:
        """Count the frame (H, W, 3) uint8 RGB; return the windows it finished."""
        checked_frame(frame_rgb, self._shape)
        self._pushed += 1
        return self._finished(self._horizon)

    def finish(self) -> list[Window]:
        """Return the windows still open; their tail repeats the last real step."""
        return self._finished(1)

    def _finished(self, least: int) -> list[Window]:
        windows = []
        while self._given * self._start_every + least <= self._pushed:
            start = self._given * self._start_every
            last = min(self._horizon, self._pushed - start) - 1
            steps = np.minimum(np.arange(self._horizon), last)
            tracks = self._tracks[self._given, steps].astype(np.float32)
            windows.append(Window(start, tracks, self._vis[self._given, steps].astype(np.uint8)))
            self._given += 1
        return windows
