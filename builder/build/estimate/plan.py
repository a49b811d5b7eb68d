"""What a build is going to cost, from a probe of a few of its episodes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from builder.build.episode import open_source, open_tracker, view_key
from builder.build.executors.child import available_cores
from builder.core.errors import OutputError, SourceError
from builder.core.messages import count, size
from builder.core.spacing import spread
from builder.dataset.folder import read_index
from builder.inputs.streams import FrameStream
from builder.sources.base import EpisodeRef, Source
from builder.stores.base import ENVELOPE_BYTES
from builder.trackers.base import ViewKey
from builder.trackers.view_tracker import ViewFrames, ViewTracker
from schemas.config import BuildConfig

PROBED_EPISODES = 3
PROBED_FRAMES = 32

# Share of the raw size that LZ4 leaves of letterboxed video frames (measured on real clips).
LZ4_SHARE = 0.52


@dataclass(frozen=True)
class Plan:
    """A build, extrapolated from ``probed`` episodes to all of them."""

    episodes: int
    probed: int
    frames: int
    bytes_by_codec: dict[str, int]
    codec: str
    free_bytes: int
    worker_hours: float
    workers: int
    unreadable: dict[str, str]

    @property
    def hours(self) -> float:
        """Wall hours with all workers busy."""
        return self.worker_hours / self.workers

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON data."""
        return {**asdict(self), "hours": self.hours}


def plan(config: BuildConfig) -> Plan:
    """Decode and track the first frames of a few episodes and extrapolate; writes nothing.

    Raises SourceError when the source has no episodes at all, ConfigError.
    """
    source, tracker = open_source(config), open_tracker(config)
    refs = list(source.refs())
    unreadable: dict[str, str] = {}
    frames = seconds = raw = jpeg = counted = 0.0
    for ref in (refs[at] for at in spread(len(refs), PROBED_EPISODES)):
        try:
            for name, stream in _streams(source, ref):
                length = stream.info.num_frames
                begun = time.perf_counter()
                key = view_key(config, ref, name)._replace(cut=True)
                done, jpeg_bytes = _probe(config, tracker, stream, key)
                seconds += (time.perf_counter() - begun) * length / done
                jpeg += jpeg_bytes * length / done
                frames += length
                raw += length * _frame_bytes(config, stream)
            counted += 1
        except SourceError as error:
            unreadable[ref.path] = str(error)
    share = len(refs) / max(1.0, counted)
    other = frames * _track_bytes(config) + ENVELOPE_BYTES * counted
    sizes = {"raw": raw, "lz4": raw * LZ4_SHARE, "jpeg": jpeg, "none": 0.0}
    return Plan(
        episodes=len(refs),
        probed=int(counted),
        frames=round(frames * share),
        bytes_by_codec={name: round((value + other) * share) for name, value in sizes.items()},
        codec=config.store.frames.codec,
        free_bytes=free_bytes(Path(config.store.path)),
        worker_hours=seconds * share / 3600,
        workers=config.executor.workers or available_cores(),
        unreadable=unreadable,
    )


def refuse_if_full(config: BuildConfig) -> None:
    """Raise OutputError before any work when the episodes still to build cannot fit.

    Reads headers only; what cannot be opened is left for the build to report.
    """
    source = open_source(config)
    have = read_index(config.store.path)
    todo = [ref for ref in source.refs() if ref.id not in have]
    total = probed = 0.0
    for ref in (todo[at] for at in spread(len(todo), PROBED_EPISODES)):
        try:
            for _, stream in _streams(source, ref):
                stored = _frame_bytes(config, stream) if config.store.frames.codec == "raw" else 0
                total += stream.info.num_frames * (stored + _track_bytes(config))
            probed += 1
        except SourceError:
            continue
    need = total * len(todo) / max(1.0, probed)
    free = free_bytes(Path(config.store.path))
    if need > free:
        raise OutputError(
            f"{config.store.path}: about {size(need)} are needed for "
            f"{count(len(todo), 'episode')}, {size(free)} are free; free some space, "
            "choose another --out, or store frames smaller with store.frames.codec=jpeg"
        )


def nearest_folder(path: Path) -> Path:
    """Return the folder at ``path``, or the deepest one on the way there that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Free bytes on the filesystem that holds ``path``, or is going to."""
    return shutil.disk_usage(nearest_folder(path)).free


def _streams(source: Source, ref: EpisodeRef) -> Iterator[tuple[str, FrameStream]]:
    with source.open(ref) as episode:
        yield from episode.views.items()


def _frame_bytes(config: BuildConfig, stream: FrameStream) -> int:
    """Bytes of one raw frame of a view."""
    info = stream.info
    height, width = config.fit(info.source_shape, info.sample_aspect_ratio).img_shape
    return 3 * height * width


def _track_bytes(config: BuildConfig) -> float:
    """Bytes of tracks and visibility per source frame."""
    part = config.tracker
    if part.kind == "none":
        return 0.0
    windows = 1.0 if part.mode == "episode" else part.horizon / part.start_every
    per_coordinate = 2 if config.store.tracks.dtype == "u16" else 4
    return windows * config.queries.num_points * (2 * per_coordinate + 1)


def _probe(
    config: BuildConfig, tracker: Any, stream: FrameStream, key: ViewKey
) -> tuple[int, float]:
    """Build the first frames of a view into nowhere; returns their number and JPEG bytes."""
    info = stream.info
    box = config.fit(info.source_shape, info.sample_aspect_ratio)
    length = min(PROBED_FRAMES, info.num_frames)
    tracks = ViewTracker(tracker, box, config.queries, config.tracker, length, key)
    frames = ViewFrames(tracks, info.orientation)
    canvas = np.zeros((*box.img_shape, 3), np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, config.store.frames.quality]
    done, jpeg = 0, 0.0
    for frame in islice(stream, length):
        tracks.push(frames.tracked(frame.image, canvas))
        jpeg += len(cv2.imencode(".jpg", canvas, quality)[1])
        done += 1
    return max(1, done), jpeg
