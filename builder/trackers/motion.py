"""How much a view moves, summed up while it is being tracked.

Other counts of motion stay apart, for they are other numbers: the window table has float32 sums
per window, and ``builder.training.metrics`` counts normalized tracks in AMPLIFY's loss classes.
"""

import numpy as np

from builder.trackers.base import Window
from schemas.dataset import MotionSummary

ZERO_STEP_PX = 0.5
"""A shorter step counts as no motion."""


class MotionMeter:
    """Accumulates a MotionSummary over the windows of a view of ``length`` frames."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._steps = self._zero = self._points = self._visible = 0
        self._sum = self._max = 0.0

    def add(self, window: Window) -> None:
        """Count a window's real steps (the frozen tail is not motion) between visible points."""
        real = min(window.tracks_xy.shape[0], self._length - window.start)
        vis = window.vis[:real].astype(bool)
        self._points += vis.size
        self._visible += int(vis.sum())
        seen = vis[1:] & vis[:-1]
        # float32 squares overflow where a lost point is put far away.
        moved_xy = np.diff(window.tracks_xy[:real].astype(np.float64), axis=0)
        steps_px = np.linalg.norm(moved_xy, axis=-1)[seen]
        if steps_px.size:
            self._steps += steps_px.size
            self._zero += int((steps_px < ZERO_STEP_PX).sum())
            self._sum += float(steps_px.sum(dtype=np.float64))
            self._max = max(self._max, float(steps_px.max()))

    def summary(self) -> MotionSummary | None:
        """Return the summary, or None when no point was ever tracked."""
        if not self._points:
            return None
        return MotionSummary(
            mean_px=self._sum / max(1, self._steps),
            max_px=self._max,
            zero_share=self._zero / max(1, self._steps),
            visible_share=self._visible / self._points,
        )
