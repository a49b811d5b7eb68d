"""From content frames to tracks on the canvas: which points, in which coordinates."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from builder.canvas.letterbox import Letterboxer
from builder.canvas.query_grid import query_points
from builder.canvas.windows import window_starts
from builder.core.errors import ConfigError, TrackingError
from builder.core.registry import require_base
from builder.trackers.base import Keeps, Session, Tracker, ViewKey, Window
from schemas.config import ShortSide, TrackerPart
from schemas.dataset import QuerySpec
from schemas.geometry import AxisAffine, Geometry, Letterbox, Orientation


def tracker_input(box: Geometry, tracker: TrackerPart) -> tuple[Geometry, AxisAffine]:
    """Choose the frames a tracker is shown, from ``tracker.input``.

    Returns the geometry whose content they are (never bars, never a stretched picture), and the
    map from their pixels to those of the canvas of ``box``.
    """
    if tracker.input == "content":
        return box, box.content_to_img
    height, width = box.source_shape
    numerator, denominator = box.sample_aspect_ratio
    # The displayed size: rows keep their number, columns follow the shape of a pixel.
    shown = (height, max(1, round(width * numerator / denominator)))
    if isinstance(tracker.input, ShortSide):
        short = tracker.input.short_side
        ratio = short / min(shown)
        shown = (max(1, round(shown[0] * ratio)), max(1, round(shown[1] * ratio)))
    input_box = Letterbox.fit(box.source_shape, shown, box.sample_aspect_ratio)
    to_content = ~input_box.content_to_img @ input_box.affine
    return input_box, box.affine @ ~to_content


def check_query_region(tracker: Tracker, kind: str, queries: QuerySpec) -> None:
    """Raise ConfigError unless ``queries`` place points, or the tracker brings its own."""
    if tracker.brings_points == (queries.region == "stored"):
        return
    if queries.region == "stored":
        raise ConfigError(
            f"queries.region=stored is for points that came from elsewhere, but tracker {kind!r} "
            "places new ones: give queries.grid and queries.region=content or canvas"
        )
    raise ConfigError(
        f"tracker {kind!r} brings its own points: set queries.region=stored and "
        "queries.grid=[N, 1] (or [rows, columns]), N the number of points of every view"
    )


class ViewTracker:
    """Tracks one view: content frames in, windows in canvas pixels out, in order.

    Points outside the content (region ``canvas``) are not tracked: they stay where they are
    with visibility 0.
    """

    def __init__(
        self,
        tracker: Tracker,
        box: Geometry,
        queries: QuerySpec,
        part: TrackerPart,
        length: int | None,
        key: ViewKey,
        keeps: Keeps | None = None,
    ) -> None:
        """Open a session for a view of ``length`` frames; raises TrackingError.

        A length of None is that of a live view, which never ends: it has windows of
        ``part.horizon`` steps, no ``starts``, and is not finished.  ``keeps`` tells which windows
        are wanted, of the frames pushed so far; the others are left out.
        """
        self._view, self._gives_conf = key.view, tracker.gives_conf
        if length is not None:
            tracker = tracker.for_view(key, box, length)
        require_base(type(tracker), Tracker, f"the tracker of view {key.view}")
        self.notes = tracker.notes
        self.queries_xy = _points(tracker, queries, box, key)
        self.horizon, self.start_every = part.horizon, part.start_every
        if part.mode == "episode" and length is not None:
            self.horizon = self.start_every = length
        self.box, (self.input_box, self._to_img) = box, tracker_input(box, part)
        self._tracked = box.inside(self.queries_xy)
        # A tracker may track nothing at all, for a dataset of frames alone.
        starts = window_starts(length or 0, self.start_every)
        if keeps is not None:
            starts = starts[[keeps(start) for start in starts.tolist()]]
        self._keeps = keeps or (lambda start: True)
        self.starts = starts if tracker.gives_tracks else starts[:0]
        self._session: Session | None = None
        self._length, self._pushed, self._given, self._next = length, 0, 0, 0
        if self._tracked.any() and (length is None or not tracker.gives_tracks or len(self.starts)):
            inner_xy = (~self._to_img)(self.queries_xy[self._tracked].astype(np.float64))
            self._session = tracker.open(
                self.input_box.content_shape,
                inner_xy.astype(np.float32),
                self.horizon,
                self.start_every,
            )
            if keeps is not None and hasattr(self._session, "keeps"):
                self._session.keeps = keeps

    def push(self, frame_rgb: np.ndarray) -> list[Window]:
        """Take the next frame, ``input_box``'s content; return the windows it finished."""
        if self._session is None:
            return []
        self._pushed += 1
        return list(self._wanted(self._session.push(frame_rgb)))

    def finish(self) -> list[Window]:
        """Return the windows that are still open; raises TrackingError when some never came."""
        if self._session is None:
            return [self.untracked(int(start)) for start in self.starts]
        windows = list(self._wanted(self._session.finish()))
        # A source that ends early is told as such, elsewhere.
        if self._pushed == self._length and self._given < len(self.starts):
            raise TrackingError(
                f"view {self._view}: the tracker gave {self._given} windows of {self._length} "
                f"frames, expected {len(self.starts)}"
            )
        return windows

    def _wanted(self, windows: list[Window]) -> Iterator[Window]:
        """Yield the windows that are kept, on the canvas; raises TrackingError for a wrong one."""
        for window in windows:
            # A session may leave out windows that are not wanted.
            while self._next < window.start and not self._keeps(self._next):
                self._next += self.start_every
            more = self._length is None or self._next < self._length
            if window.start != self._next or not more:
                raise TrackingError(
                    f"view {self._view}: the tracker gave a window that starts at frame "
                    f"{window.start}, expected {f'frame {self._next}' if more else 'no more'}"
                )
            self._next += self.start_every
            if self._keeps(window.start):
                self._given += 1
                self._check(window)
                yield self._on_canvas(window)

    def _check(self, window: Window) -> None:
        """Raise TrackingError unless a window is what a window should be."""
        form = (self.horizon, int(self._tracked.sum()))
        shapes = {"tracks_xy": (*form, 2), "vis": form, "conf": form}
        for name, shape in shapes.items():
            array = getattr(window, name)
            if array is None and name == "conf":
                continue
            if np.shape(array) != shape:
                what = f"{name} {np.shape(array)}, expected {shape}"
            elif name == "vis" and ((array != 0) & (array != 1)).any():
                what = "vis other than 0 and 1"
            elif name == "conf" and not ((array >= 0) & (array <= 1)).all():
                what = "conf outside 0 to 1"
            else:
                continue
            raise TrackingError(
                f"view {self._view}: the tracker gave {what}, in the window that starts at frame "
                f"{window.start}; check_tracker of builder.testing finds such faults"
            )

    def _on_canvas(self, window: Window) -> Window:
        out = self.untracked(window.start)
        out.tracks_xy[:, self._tracked] = self._to_img(window.tracks_xy.astype(np.float64))
        # Exactly the stored queries, not their round trip through float32.
        out.tracks_xy[0] = self.queries_xy
        out.vis[:, self._tracked] = window.vis
        if out.conf is not None:
            if window.conf is None:
                raise TrackingError(
                    f"view {self._view}: the tracker says it gives conf, but there is no conf in "
                    f"the window that starts at frame {window.start}"
                )
            out.conf[:, self._tracked] = window.conf
        return out

    def untracked(self, start: int) -> Window:
        """Return a window whose points stay at the queries and are never visible."""
        tracks_xy = np.repeat(self.queries_xy[None], self.horizon, axis=0)
        shape = tracks_xy.shape[:2]
        conf = np.zeros(shape, np.float32) if self._gives_conf else None
        return Window(start, tracks_xy, np.zeros(shape, np.uint8), conf)


class ViewFrames:
    """Turns the frames of one view, as they are decoded, into what is stored and what is tracked.

    A frame is scaled once where its tracker is shown the content of the canvas.
    """

    def __init__(self, tracks: ViewTracker, orientation: Orientation) -> None:
        self._stored = self._shown = Letterboxer(tracks.box, orientation)
        if tracks.input_box != tracks.box:
            self._shown = Letterboxer(tracks.input_box, orientation)

    def tracked(self, image: Any, canvas: np.ndarray | None = None) -> np.ndarray:
        """Return what ``ViewTracker.push`` takes of a frame; also letterbox it onto ``canvas``.

        ``image`` is a ``Frame.image``; ``canvas`` (img_H, img_W, 3) uint8, None for no canvas.
        """
        if canvas is None:
            return self._shown.content(image)
        content = self._stored.content(image)
        self._stored.paste(content, canvas)
        return content if self._shown is self._stored else self._shown.content(image)

    def content(self, image: Any, shown: np.ndarray) -> np.ndarray:
        """Return the picture as the canvas has it; ``shown`` is what ``tracked`` returned of it."""
        return shown if self._shown is self._stored else self._stored.content(image)


def _points(tracker: Tracker, queries: QuerySpec, box: Geometry, key: ViewKey) -> np.ndarray:
    """Return the query points (N, 2), img pixels; raises TrackingError for another N."""
    if queries.region != "stored":
        return query_points(queries, box)
    own = tracker.queries_xy
    if own is None:
        raise TrackingError(f"the tracker brings no points of its own for view {key.view}")
    if len(own) != queries.num_points:
        rows, columns = queries.grid
        raise TrackingError(
            f"view {key.view} of {key.episode}: its tracks have {len(own)} points, but "
            f"queries.grid=[{rows}, {columns}] says {queries.num_points}; all views need the same "
            f"number ({'; '.join(tracker.notes)})"
        )
    return own
