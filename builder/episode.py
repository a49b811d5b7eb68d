"""The straight line: one episode from its source to the store.

Names no backend; everything comes from the registry by kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from builder.catalog import index_line
from builder.errors import SourceError, TrackingError
from builder.letterbox import Letterboxer
from builder.motion import MotionMeter
from builder.registry import configure
from builder.sources.base import Episode, EpisodeRef, FrameStream, Source, StreamInfo
from builder.sources.select import Selected, Selection
from builder.stores.base import ArraySpec, EpisodeWriter, Store
from builder.trackers.base import Tracker, Window
from builder.tracking import ViewTracker
from builder.windows import window_starts
from schemas.config import BuildConfig
from schemas.dataset import EpisodeMeta, IndexLine, SourceInfo, ViewMeta
from schemas.geometry import Letterbox

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One episode to build; picklable, so that a child process can."""

    config: BuildConfig
    ref: EpisodeRef


def open_source(config: BuildConfig) -> Source:
    """Construct the configured source; raises ConfigError."""
    found, own = configure("sources", config.source)
    source: Source = found(Path(config.source.path), own, config.limits)
    return Selected(source, own) if isinstance(own, Selection) else source


def open_tracker(config: BuildConfig) -> Tracker:
    """Construct the configured tracker; raises ConfigError."""
    found, own = configure("trackers", config.tracker)
    return found(own)


def open_store(config: BuildConfig) -> Store:
    """Construct the configured store; raises ConfigError."""
    found, _ = configure("stores", config.store)
    return found(Path(config.store.path))


@lru_cache(maxsize=1)
def _backends(config_json: str) -> tuple[Source, Tracker, Store]:
    """Keep a worker's backends (a tracker may hold weights) between its episodes."""
    config = BuildConfig.model_validate(json.loads(config_json))
    return open_source(config), open_tracker(config), open_store(config)


def _key(config: BuildConfig) -> str:
    # Not pydantic's own JSON, which refuses the odd bytes that paths may hold.
    return json.dumps(config.model_dump())


def build_episode(job: Job, report: Report) -> IndexLine:
    """Build one episode, whole or not at all; runs in a child process.

    Raises SourceError for a bad source and OutputError when the store cannot be written.
    """
    source, tracker, store = _backends(_key(job.config))
    with source.open(job.ref) as episode:
        length = _common_length(episode)
        views = {
            name: _View(job.config, tracker, name, stream, length)
            for name, stream in episode.views.items()
        }
        layout: dict[str | None, Mapping[str, ArraySpec]] = {
            name: view.layout() for name, view in views.items()
        }
        layout[None] = {
            name: ArraySpec(array.shape, array.dtype.str) for name, array in episode.arrays.items()
        }
        with store.begin(job.ref.id, layout) as writer:
            total = length * len(views)
            for index, view in enumerate(views.values()):
                for done in view.write(writer):
                    report(index * length + done, total)
            for name, array in episode.arrays.items():
                writer.write(None, name, 0, array)
            meta = _episode_meta(job, episode, views, writer, length)
            writer.commit(meta)
    return index_line(meta)


def _common_length(episode: Episode) -> int:
    lengths = {name: stream.info.num_frames for name, stream in episode.views.items()}
    if len(set(lengths.values())) != 1:
        raise SourceError(
            f"the views of an episode must have one length, got {lengths} frames; "
            "trim the videos to the same frames first"
        )
    return next(iter(lengths.values()))


class _View:
    """One view being built: frames are decoded once, stored and tracked as they come."""

    def __init__(
        self, config: BuildConfig, tracker: Tracker, name: str, stream: FrameStream, length: int
    ) -> None:
        info = stream.info
        self.name, self.stream, self.info, self.length = name, stream, info, length
        self.box = Letterbox.fit(info.source_shape, config.img_shape, info.sample_aspect_ratio)
        self.tracks = ViewTracker(tracker, self.box, config.queries, config.tracker, length)
        self.frames, self.storage = config.store.frames, config.store.tracks
        self.motion = MotionMeter(length)
        self._at = 0
        self._has_conf = tracker.gives_conf

    def layout(self) -> dict[str, ArraySpec]:
        """List the arrays this view is going to write."""
        count = len(window_starts(self.length, self.tracks.start_every))
        points = (count, self.tracks.horizon, len(self.tracks.queries_xy))
        arrays = {
            "tracks": ArraySpec(
                (*points, 2), "<f4", codec="u16" if self.storage.dtype == "u16" else "raw"
            ),
            "vis": ArraySpec(points, "|u1"),
            "starts": ArraySpec((count,), "<i8"),
            "queries": ArraySpec(self.tracks.queries_xy.shape, "<f4"),
            "timestamps": ArraySpec((self.length,), "<f8"),
        }
        if self._has_conf:
            arrays["conf"] = ArraySpec(points, "<f4")
        if self.frames.codec != "none":
            shape = (self.length, *self.box.img_shape, 3)
            arrays["frames"] = ArraySpec(shape, "|u1", self.frames.codec, self.frames.quality)
        return arrays

    def write(self, writer: EpisodeWriter) -> Iterator[int]:
        """Decode, letterbox, store and track; yields the number of frames done."""
        writer.write(self.name, "queries", 0, self.tracks.queries_xy)
        boxer = Letterboxer(self.box, self.info.orientation)
        shown = boxer
        if self.tracks.plan.input_box is not self.box:
            shown = Letterboxer(self.tracks.plan.input_box, self.info.orientation)
        canvas = np.zeros((1, *self.box.img_shape, 3), np.uint8)
        for index, frame in enumerate(self.stream):
            content = boxer.content(frame.image)
            if self.frames.codec != "none":
                boxer.paste(content, canvas[0])
                writer.write(self.name, "frames", index, canvas)
            writer.write(self.name, "timestamps", index, np.array([frame.seconds], "<f8"))
            seen = content if shown is boxer else shown.content(frame.image)
            self._store(writer, self.tracks.push(seen))
            yield index + 1
        self._store(writer, self.tracks.finish())

    def _store(self, writer: EpisodeWriter, windows: list[Window]) -> None:
        for window in windows:
            if not np.isfinite(window.tracks_xy).all():
                raise TrackingError(
                    f"view {self.name}: the tracker gave NaN or infinite points in the window that "
                    f"starts at frame {window.start}; they are never stored. Check its settings"
                )
            self.motion.add(window)
            writer.write(self.name, "tracks", self._at, window.tracks_xy[None])
            writer.write(self.name, "vis", self._at, window.vis[None])
            writer.write(self.name, "starts", self._at, np.array([window.start], "<i8"))
            if self._has_conf and window.conf is not None:
                writer.write(self.name, "conf", self._at, window.conf[None])
            self._at += 1


def _episode_meta(
    job: Job, episode: Episode, views: Mapping[str, _View], writer: EpisodeWriter, length: int
) -> EpisodeMeta:
    arrays = writer.digests()
    first = next(iter(views.values()))
    return EpisodeMeta.seal(
        id=job.ref.id,
        source=SourceInfo(
            kind=job.config.source.kind,
            path=job.ref.path,
            files=dict(episode.files),
            licence=episode.licence,
        ),
        length=length,
        mode=job.config.tracker.mode,
        horizon=first.tracks.horizon,
        start_every=first.tracks.start_every,
        task=job.ref.task,
        group=job.ref.group,
        text=episode.text,
        arrays=arrays.get(None, {}),
        views=tuple(_view_meta(view, view.info, arrays[name]) for name, view in views.items()),
    )


def _view_meta(view: _View, info: StreamInfo, arrays: Any) -> ViewMeta:
    return ViewMeta(
        name=view.name,
        geometry=view.box,
        coded_shape=info.coded_shape,
        orientation=info.orientation,
        color=info.color,
        codec=info.codec,
        fps=info.fps,
        arrays=arrays,
        motion=view.motion.summary(),
        notes=info.notes,
    )
