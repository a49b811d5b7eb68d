"""No tracking: for datasets of letterboxed frames alone."""

from __future__ import annotations

import numpy as np

from builder.canvas.query_grid import queries_in_frame
from builder.trackers.base import Window
from builder.trackers.windowed import checked_frame, checked_window
from schemas.base import Record
from schemas.dataset import TrackerInfo, VisibilityRule


class NoConfig(Record):
    """There is nothing to set."""


class NoTracker:
    """Gives no windows at all; a dataset made with it has frames and no tracks, for now.

    Tracks are added later, as a layer: ``letterset track``.
    """

    Config = NoConfig
    gives_conf = gives_tracks = False
    notice: str | None = None

    def __init__(self, config: NoConfig | None = None) -> None:
        self.config = config or NoConfig()

    @property
    def info(self) -> TrackerInfo:
        """What the dataset records about it."""
        return TrackerInfo(
            kind="none",
            name="no tracking",
            version="1",
            licence="MIT",
            visibility=VisibilityRule(rule="there are no tracks", sticky=False),
        )

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> NoSession:
        """Check the arguments as every tracker does; see ``Tracker.open``."""
        queries_in_frame(shape, queries_xy)
        checked_window(horizon, start_every)
        return NoSession(shape)


class NoSession:
    """Takes frames, gives nothing."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape

    def push(self, frame_rgb: np.ndarray) -> list[Window]:
        """Check the frame (H, W, 3) uint8 RGB and forget it."""
        checked_frame(frame_rgb, self._shape)
        return []

    def finish(self) -> list[Window]:
        """Return nothing."""
        return []
