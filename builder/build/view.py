"""One view being built: frames are decoded once, letterboxed, stored and tracked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from builder.build.track_writer import TrackWriter
from builder.canvas.letterbox import letterbox_labels, orient_frame
from builder.core.errors import SourceError
from builder.core.stopwatch import Stopwatch
from builder.inputs.streams import FrameStream
from builder.stores.base import ArraySpec, EpisodeWriter
from builder.trackers.base import Tracker, ViewKey, Window
from builder.trackers.view_tracker import ViewFrames, ViewTracker
from schemas.config import BuildConfig
from schemas.dataset import ArrayMeta, ViewMeta

MAP_NOTE = "letterboxed by nearest neighbour, bars hold 0"


class ViewBuilder:
    """One view being built: frames are decoded once, stored and tracked as they come.

    ``maps``, depth or labels that the source keeps beside the pictures, are stored under their
    own names, (T, img_H, img_W).
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
    ) -> None:
        info = stream.info
        self.name, self.stream, self.info, self.length = key.view, stream, info, length
        self.box = config.fit(info.source_shape, info.sample_aspect_ratio)
        self.tracks = ViewTracker(tracker, self.box, config.queries, config.tracker, length, key)
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
