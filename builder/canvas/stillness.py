"""Which windows of a view stand still: measured on letterboxed frames, before any tracker."""

from collections import deque
from collections.abc import Iterable

import cv2
import numpy as np

_CELL, _STEP = 8, 4  # pixels: sides of a cell, and from one cell to the next


class StillMeter:
    """Compares the pictures of one view, as they come, with those that windows begin with.

    A picture has changed where the mean grey level of a cell of 8 x 8 pixels differs by more than
    ``threshold``, anywhere: noise averages out, and something small that moves does not.  A change
    of light counts as well, so that a window is tracked when in doubt.  Holds the cells of at most
    ``horizon / start_every`` pictures.
    """

    def __init__(self, threshold: float, horizon: int, start_every: int) -> None:
        self._threshold, self._horizon, self._every = threshold, horizon, start_every
        self._open: deque[tuple[int, np.ndarray]] = deque()
        self._pushed = 0
        self.moved: set[int] = set()
        """Start frames of the windows in which something has moved so far."""

    def push(self, content_rgb: np.ndarray) -> None:
        """Take the next picture (h, w, 3) uint8, without its bars."""
        newest, cells = self._pushed, _cells(content_rgb)
        self._pushed += 1
        while self._open and self._open[0][0] + self._horizon <= newest:
            self._open.popleft()
        changed = {
            start
            for start, first in self._open
            if cv2.norm(cells, first, cv2.NORM_INF) > self._threshold
        }
        self.moved |= changed
        self._open = deque(each for each in self._open if each[0] not in changed)
        if newest % self._every == 0:
            self._open.append((newest, cells))

    def forget(self, before: int) -> None:
        """Forget the windows that start before a frame."""
        self.moved = {start for start in self.moved if start >= before}


def still_windows(views: Iterable[StillMeter], length: int, start_every: int) -> np.ndarray:
    """Tell which windows of a clip, all its frames pushed, stand still in every view, (S,) bool."""
    moved = set[int]().union(*(view.moved for view in views))
    return np.array([start not in moved for start in range(0, length, start_every)], bool)


def _cells(content_rgb: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(content_rgb, cv2.COLOR_RGB2GRAY)
    return np.ascontiguousarray(cv2.blur(grey, (_CELL, _CELL))[::_STEP, ::_STEP])
