"""The tracks of one view on their way into a store."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from builder.core.errors import TrackingError
from builder.stores.base import ArraySpec, EpisodeWriter
from builder.trackers.base import Window
from builder.trackers.motion import MotionMeter
from builder.trackers.view_tracker import ViewTracker


class TrackWriter:
    """Writes the windows of one view of ``length`` frames, in order, and sums up their motion."""

    def __init__(
        self, view: str, tracks: ViewTracker, length: int, has_conf: bool, dtype: str = "f32"
    ) -> None:
        self.view, self.tracks, self.length = view, tracks, length
        self.motion = MotionMeter(length)
        self._has_conf, self._codec = has_conf, "u16" if dtype == "u16" else "raw"
        self._at = 0

    def layout(self) -> dict[str, ArraySpec]:
        """List the arrays that are going to be written."""
        count = len(self.tracks.starts)
        points = (count, self.tracks.horizon, len(self.tracks.queries_xy))
        arrays = {
            "tracks": ArraySpec((*points, 2), "<f4", self._codec),
            "vis": ArraySpec(points, "|u1"),
            "starts": ArraySpec((count,), "<i8"),
            "queries": ArraySpec(self.tracks.queries_xy.shape, "<f4"),
        }
        if self._has_conf:
            arrays["conf"] = ArraySpec(points, "<f4")
        return arrays

    def begin(self, writer: EpisodeWriter) -> None:
        """Write what is known before tracking."""
        writer.write(self.view, "queries", 0, self.tracks.queries_xy)

    def write(self, writer: EpisodeWriter, windows: Iterable[Window]) -> None:
        """Write finished windows.  Raises TrackingError for numbers that are not finite."""
        for window in windows:
            self._write(writer, window)

    def _write(self, writer: EpisodeWriter, window: Window) -> None:
        if not np.isfinite(window.tracks_xy).all():
            raise TrackingError(
                f"view {self.view}: the tracker gave NaN or infinite points in the window that "
                f"starts at frame {window.start}; they are never stored. Check its settings"
            )
        self.motion.add(window)
        writer.write(self.view, "tracks", self._at, window.tracks_xy[None])
        writer.write(self.view, "vis", self._at, window.vis[None])
        writer.write(self.view, "starts", self._at, np.array([window.start], "<i8"))
        if self._has_conf and window.conf is not None:
            writer.write(self.view, "conf", self._at, window.conf[None])
        self._at += 1
