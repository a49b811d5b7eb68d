"""One view being built: frames are decoded once, letterboxed, stored and tracked."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from builder.canvas.letterbox import Letterboxer, letterbox_labels, orient_frame
from builder.canvas.stillness import StillMeter, still_windows
from builder.core.errors import SourceError, TrackingError
from builder.core.stopwatch import Stopwatch
from builder.inputs.streams import FrameStream
from builder.sources.base import EpisodeRef
from builder.sources.clips import clip_of, whole_of
from builder.stores.base import ArraySpec, EpisodeWriter
from builder.trackers.base import Keeps, Tracker, ViewKey, Window
from builder.trackers.motion import MotionMeter
from builder.trackers.view_tracker import ViewFrames, ViewTracker
from schemas.config import BuildConfig
from schemas.dataset import ArrayMeta, ViewMeta

MAP_NOTE = "letterboxed by nearest neighbour, bars hold 0"


def view_key(config: BuildConfig, ref: EpisodeRef, name: str) -> ViewKey:
    """Tell a tracker which view of which episode it is going to see."""
    whole, clip = whole_of(ref), clip_of(ref)
    cut = clip is not None or config.source.settings.get("max_frames") is not None
    return ViewKey(whole.id, whole.path, name, cut, clip.first if clip else 0)


def measure_stillness(
    config: BuildConfig,
    threshold: float,
    views: Mapping[str, FrameStream],
    on_frame: Callable[[], None],
) -> np.ndarray:
    """Look through all views; returns which windows stand still in all of them, (S,) bool."""
    part, meters, length = config.tracker, [], 0
    for stream in views.values():
        box = config.fit(stream.info.source_shape, stream.info.sample_aspect_ratio)
        boxer = Letterboxer(box, stream.info.orientation)
        meters.append(StillMeter(threshold, part.horizon, part.start_every))
        for frame in stream:
            meters[-1].push(boxer.content(frame.image))
            on_frame()
        length = stream.info.num_frames
    return still_windows(meters, length, part.start_every)


def kept_starts(still: np.ndarray, start_every: int) -> Keeps:
    """Return what tells whether a window is kept, by its start frame; picklable."""
    return frozenset((np.flatnonzero(~still) * start_every).tolist()).__contains__


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


class ViewBuilder:
    """One view being built: frames are decoded once, stored and tracked as they come.

    ``maps`` are depth or labels of the same frames; they are stored under their own names,
    (T, img_H, img_W).
    """

    def __init__(
        self,
        config: BuildConfig,
        tracker: Tracker,
        key: ViewKey,
        stream: FrameStream,
        length: int,
        clock: Stopwatch,
        maps: Mapping[str, FrameStream],
        keeps: Keeps | None = None,
    ) -> None:
        info = stream.info
        self.name, self.stream, self.info, self.length = key.view, stream, info, length
        self.box = config.fit(info.source_shape, info.sample_aspect_ratio)
        part = config.tracker
        self.tracks = ViewTracker(tracker, self.box, config.queries, part, length, key, keeps)
        self.frames = config.store.frames
        dtype = config.store.tracks.dtype
        self.output = TrackWriter(key.view, self.tracks, length, tracker.gives_conf, dtype)
        self.clock = clock
        self.maps = maps

    def layout(self) -> dict[str, ArraySpec]:
        """List the arrays to write.  Raises SourceError for a map under one of our own names."""
        arrays = self.output.layout()
        arrays["timestamps"] = ArraySpec((self.length,), "<f8")
        if self.frames.codec != "none":
            shape = (self.length, *self.box.img_shape, 3)
            arrays["frames"] = ArraySpec(shape, "|u1", self.frames.codec, self.frames.quality)
        for name, stream in self.maps.items():
            if name in {*arrays, "frames", "conf"}:
                raise SourceError(f"view {self.name} has a map called {name}, a name of our own")
            dtype = next(iter(stream)).image.dtype.newbyteorder("<").str
            arrays[name] = ArraySpec((self.length, *self.box.img_shape), dtype)
        return arrays

    def write(self, writer: EpisodeWriter) -> Iterator[int]:
        """Decode, letterbox, store and track; yields the number of frames done."""
        self.output.begin(writer)
        frames = ViewFrames(self.tracks, self.info.orientation)
        canvas = np.zeros((1, *self.box.img_shape, 3), np.uint8)
        clock = self.clock
        for index, frame in enumerate(clock.each("decode", self.stream)):
            with clock("letterbox"):
                shown = frames.tracked(frame.image, canvas[0])
            with clock("write"):
                if self.frames.codec != "none":
                    writer.write(self.name, "frames", index, canvas)
                writer.write(self.name, "timestamps", index, np.array([frame.seconds], "<f8"))
            with clock("track"):
                windows = self.tracks.push(shown)
            self._store(writer, windows)
            yield index + 1
        with clock("track"):
            windows = self.tracks.finish()
        self._store(writer, windows)
        for name, stream in self.maps.items():
            for index, frame in enumerate(self.clock.each("decode", stream)):
                upright = orient_frame(frame.image, self.info.orientation)
                writer.write(self.name, name, index, letterbox_labels(upright, self.box)[None])
                yield self.length

    def meta(self, arrays: Mapping[str, ArrayMeta]) -> ViewMeta:
        """Describe the view once everything is written."""
        notes = (*self.tracks.notes, *(f"{name}: {MAP_NOTE}" for name in self.maps))
        motion = self.output.motion.summary()
        return self.info.view_meta(self.name, self.box, arrays, notes, motion)

    def _store(self, writer: EpisodeWriter, windows: list[Window]) -> None:
        with self.clock("write"):
            self.output.write(writer, windows)
