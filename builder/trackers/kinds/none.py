"""No tracking: for datasets of letterboxed frames alone."""

from __future__ import annotations

import numpy as np

from builder.trackers.base import BaseSession, Tracker, Window
from schemas.base import Record
from schemas.dataset import TrackerInfo, VisibilityRule


class NoConfig(Record):
    """There is nothing to set."""


class NoTracker(Tracker):
    """Gives no windows at all; a dataset made with it has frames and no tracks, for now.

    Tracks are added later, as a layer: ``letterset track``.
    """

    Config = NoConfig
    gives_tracks = False

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
        """Start a session that gives no windows; see ``Tracker.open``."""
        return NoSession(shape, queries_xy, horizon, start_every)


class NoSession(BaseSession):
    """Takes frames and gives no windows."""

    def _add(self, frame_rgb: np.ndarray) -> list[Window]:
        return []

    def finish(self) -> list[Window]:
        """Return no windows."""
        return []
