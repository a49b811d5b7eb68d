"""Trackers whose model sees one whole clip per window: buffered frames, cut into clips."""

from abc import abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.core.errors import TrackingError
from builder.core.working import still_working
from builder.trackers.base import BaseSession, Session, Tracker, Window


class WindowedTracker(Tracker):
    """Base of trackers whose model sees one whole clip per window.

    A subclass defines ``info`` and ``track``, and may set ``batch`` (windows per call),
    ``min_clip`` (shorter clips are padded by their last frame) and ``prepare`` (work done once
    per frame, whatever the number of windows that see it).
    """

    batch: int = 1
    min_clip: int = 1

    @abstractmethod
    def track(
        self, clips: list[list[Any]], queries_xy: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Track ``queries_xy`` (N, 2) float32, from the first frame of each clip.

        ``clips`` are 1 to ``batch`` clips of equal length L >= horizon, each a list of what
        ``prepare`` returned.  Returns, per clip, tracks (L, N, 2) in continuous (x, y) pixels,
        vis (L, N) bool or 0/1, and conf (L, N) or None.
        """

    def prepare(self, frame_rgb: np.ndarray) -> Any:
        """Turn a pushed frame (H, W, 3) uint8 into what ``track`` needs of it; must copy it."""
        return frame_rgb.copy()

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> Session:
        """Start a session; see ``Tracker.open``."""
        return WindowedSession(shape, queries_xy, horizon, start_every, self)


@dataclass(eq=False)
class WindowedSession(BaseSession):
    """Feeds a WindowedTracker: a rolling buffer of prepared frames, cut into clips.

    Holds at most ``horizon + (batch - 1) * start_every`` prepared frames.  Windows are batched
    in the order of their starts, so batches do not depend on how frames arrive.  A batch in which
    no window is wanted is not tracked, and frames are then prepared when the first window needs
    them.
    """

    tracker: WindowedTracker

    def __post_init__(self) -> None:
        super().__post_init__()
        self._frames: deque[_Frame] = deque()
        self._first = 0  # number of the oldest buffered frame
        self._next_start = 0

    def _add(self, frame_rgb: np.ndarray) -> list[Window]:
        if self._pushed > self._next_start:  # else it lies between two windows
            self._frames.append(_Frame(self.tracker, frame_rgb, at_once=self.keeps is None))
        else:
            self._first += 1
        last_start = self._next_start + (self.tracker.batch - 1) * self.start_every
        if self._pushed - last_start < self.horizon:
            return []
        return self._run(self.tracker.batch)

    def finish(self) -> list[Window]:
        """Return the windows still open, their tail padded by repeating the last frame."""
        windows: list[Window] = []
        while self._next_start < self._pushed:
            left = -((self._next_start - self._pushed) // self.start_every)
            windows += self._run(min(left, self.tracker.batch))
        return windows

    def _run(self, count: int) -> list[Window]:
        """Track the next ``count`` windows and drop the frames no later window needs."""
        starts = [self._next_start + i * self.start_every for i in range(count)]
        wanted = [self.keeps is None or self.keeps(start) for start in starts]
        results: list[Any] = [None] * count
        if any(wanted):
            # All of the batch: the bits of a window may depend on how many there are.
            clips = [self._clip(start) for start in starts]
            results = self.tracker.track(clips, self.queries_xy)
        still_working()  # at the end of a video many windows end with one frame
        self._next_start += count * self.start_every
        while self._frames and self._first < self._next_start:
            self._frames.popleft()
            self._first += 1
        return [
            self._window(start, *result)
            for start, result, keep in zip(starts, results, wanted, strict=True)
            if keep
        ]

    def _clip(self, start: int) -> list[Any]:
        begin = start - self._first
        last = min(begin + self.horizon, len(self._frames))
        clip = [self._frames[i].prepared for i in range(begin, last)]
        missing = max(self.horizon, self.tracker.min_clip) - len(clip)
        return clip + [clip[-1]] * missing

    def _window(
        self, start: int, tracks: np.ndarray, vis: np.ndarray, conf: np.ndarray | None
    ) -> Window:
        """Cut a result to the horizon; step 0 and the repeated tail are made exact.

        Raises TrackingError when the model gives numbers that are not finite.
        """
        tracks = np.array(tracks[: self.horizon], dtype=np.float32)
        vis = np.array(vis[: self.horizon], dtype=np.uint8)
        conf = None if conf is None else np.array(conf[: self.horizon], dtype=np.float32)
        tracks[0] = self.queries_xy
        real = self._pushed - start
        for array in (tracks, vis, conf):
            if array is not None and real < self.horizon:
                array[real:] = array[real - 1]
        if not np.isfinite(tracks).all() or (conf is not None and not np.isfinite(conf).all()):
            raise TrackingError(
                f"the tracker {self.tracker.info.name} gave NaN or infinity in the window that "
                f"starts at frame {start}"
            )
        return Window(start, tracks, vis, conf)


class _Frame:
    """A frame as the tracker's ``prepare`` gives it, made at once or when it is first needed."""

    def __init__(self, tracker: WindowedTracker, frame_rgb: np.ndarray, at_once: bool) -> None:
        self._prepare = tracker.prepare
        self._made: tuple[Any, ...] = (tracker.prepare(frame_rgb),) if at_once else ()
        self._frame_rgb = None if at_once else frame_rgb.copy()

    @property
    def prepared(self) -> Any:
        if self._frame_rgb is not None:
            self._made, self._frame_rgb = (self._prepare(self._frame_rgb),), None
        return self._made[0]
