"""What a build is going to cost: frames counted from headers, the rest from a probe of a few.

A dry run probes in this process and writes nothing.  ``measure`` builds the beginnings of a few
episodes for real, each at two lengths, which tells the cost of a frame from that of an episode.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from builder.build.backends import open_executor, open_source, open_store, open_tracker
from builder.build.episode import Job, build_episode
from builder.build.executors.base import Outcome
from builder.build.executors.child import available_cores
from builder.build.shards import WEIGH_AT_MOST
from builder.build.view import ViewBuilder, view_key
from builder.core.errors import OutputError, SourceError
from builder.core.messages import count, size
from builder.core.spacing import spread
from builder.core.stopwatch import Stopwatch
from builder.dataset.folder import read_index
from builder.inputs.streams import Frame, FrameStream
from builder.sources.base import EpisodeRef, Source
from builder.stores.atomic import output_errors
from builder.stores.base import ENVELOPE_BYTES
from builder.trackers.base import Tracker
from schemas.config import BuildConfig, ExecutorPart, FrameStorage

# So many episodes are opened to count their frames; of more, as many stand for all.
COUNTED_EPISODES = 200
DRY_RUN_EPISODES, DRY_RUN_FRAMES = 3, 32
PROBED_EPISODES = 5
PROBED_FRAMES = (16, 80)  # of each view
_DISK_BLOCK = 4 << 20

# Share of the raw size that LZ4 leaves of letterboxed video frames (measured on real clips).
LZ4_SHARE = 0.52


@dataclass(frozen=True)
class _Headers:
    """What the headers of an episode tell of all its views, and the bytes of its files."""

    frames: int = 0
    raw_bytes: int = 0
    source_bytes: int = 0
    fps: float = 30.0


@dataclass(frozen=True)
class FrameCount:
    """Frames of all views of all episodes; raw bytes are those of letterboxed frames.

    ``error`` is the relative standard error of ``frames``: 0 where every episode was opened.
    """

    frames: float
    error: float
    raw_bytes: float
    opened: Mapping[str, _Headers]
    unreadable: Mapping[str, str]
    """Why an episode cannot be opened, by path; such episodes have no frames."""


def count_frames(config: BuildConfig, source: Source, refs: Sequence[EpisodeRef]) -> FrameCount:
    """Count frames as the headers of all episodes tell, or estimate them from many.

    Estimated by weight where the source knows one: frames per byte differ less than lengths do.
    """
    sample = [refs[at] for at in spread(len(refs), COUNTED_EPISODES)]
    opened, unreadable = _read_headers(config, source, sample)
    found = [opened.get(ref.id, _Headers()) for ref in sample]
    frames, raw = sum(each.frames for each in found), sum(each.raw_bytes for each in found)
    if len(sample) == len(refs):
        return FrameCount(frames, 0.0, raw, opened, unreadable)
    few = len(refs) <= WEIGH_AT_MOST
    weight = {ref.id: max(1.0, source.weight(ref)) if few else 1.0 for ref in refs}
    share = sum(weight.values()) / sum(weight[ref.id] for ref in sample)
    ratios = np.array(
        [each.frames / weight[ref.id] for each, ref in zip(found, sample, strict=True)]
    )
    error = ratios.std(ddof=1) / max(1e-9, ratios.mean()) / len(ratios) ** 0.5
    error *= (1 - len(sample) / len(refs)) ** 0.5
    return FrameCount(frames * share, float(error), raw * share, opened, unreadable)


def _read_headers(
    config: BuildConfig, source: Source, refs: Iterable[EpisodeRef]
) -> tuple[dict[str, _Headers], dict[str, str]]:
    """Open episodes without decoding them; returns headers by id and failures by path."""
    opened, unreadable = {}, {}
    for ref in refs:
        try:
            with source.open(ref) as episode:
                streams = list(episode.views.values())
                source_bytes = sum(mark.size for mark in episode.files.values())
                opened[ref.id] = _Headers(
                    sum(stream.info.num_frames for stream in streams),
                    sum(_raw_bytes(config, stream) for stream in streams),
                    source_bytes,
                    next((stream.info.fps for stream in streams if stream.info.fps), 30.0),
                )
        except SourceError as error:
            unreadable[ref.path] = str(error)
    return opened, unreadable


def _raw_bytes(config: BuildConfig, stream: FrameStream) -> int:
    """Bytes of all frames of a view, letterboxed and raw."""
    info = stream.info
    height, width = config.fit(info.source_shape, info.sample_aspect_ratio).img_shape
    return info.num_frames * 3 * height * width


def _track_bytes(config: BuildConfig) -> float:
    """Bytes of tracks and visibility per source frame."""
    part = config.tracker
    if part.kind == "none":
        return 0.0
    windows = 1.0 if part.mode == "episode" else part.horizon / part.start_every
    per_coordinate = 2 if config.store.tracks.dtype == "u16" else 4
    return windows * config.queries.num_points * (2 * per_coordinate + 1)


@dataclass(frozen=True)
class DryRun:
    """What a build needs; hours and JPEG sizes are those of ``probed`` episodes, scaled up.

    ``hours`` are wall hours with all workers busy.
    """

    episodes: int
    probed: int
    frames: int
    bytes_by_codec: dict[str, int]
    codec: str
    free_bytes: int
    worker_hours: float
    workers: int
    unreadable: dict[str, str]
    hours: float


def dry_run(config: BuildConfig) -> DryRun:
    """Decode and track the first frames of a few episodes and extrapolate; writes nothing.

    Raises SourceError when the source has no episodes at all, ConfigError.
    """
    source, tracker = open_source(config), open_tracker(config)
    refs = list(source.refs())
    counted = count_frames(config, source, refs)
    unreadable, total, probed = dict(counted.unreadable), Counter[str](), 0
    opened = [ref for ref in refs if ref.id in counted.opened]
    for ref in (opened[at] for at in spread(len(opened), DRY_RUN_EPISODES)):
        try:
            total.update(_build_into_nowhere(config, source, tracker, ref))
            probed += 1
        except SourceError as error:
            unreadable[ref.path] = str(error)
    raw = counted.raw_bytes
    jpeg = raw * total["jpeg"] / max(1, total["raw"])
    frame_bytes = {"raw": raw, "lz4": raw * LZ4_SHARE, "jpeg": jpeg, "none": 0.0}
    other = counted.frames * _track_bytes(config) + ENVELOPE_BYTES * len(refs)
    hours = total["seconds"] * counted.frames / max(1, total["frames"]) / 3600
    workers = config.executor.workers or available_cores()
    return DryRun(
        episodes=len(refs),
        probed=probed,
        frames=round(counted.frames),
        bytes_by_codec={name: round(each + other) for name, each in frame_bytes.items()},
        codec=config.store.frames.codec,
        free_bytes=free_bytes(Path(config.store.path)),
        worker_hours=hours,
        workers=workers,
        unreadable=unreadable,
        hours=hours / workers,
    )


class _Beginning(FrameStream):
    """The first ``length`` frames of a stream."""

    def __init__(self, stream: FrameStream, length: int) -> None:
        self.info, self._stream, self._length = stream.info, stream, length

    def __iter__(self) -> Iterator[Frame]:
        return islice(iter(self._stream), self._length)


class _Nowhere:
    """An ``EpisodeWriter`` that keeps nothing but sizes: of frames, raw and as JPEG."""

    def __init__(self, quality: int) -> None:
        self.sizes = Counter[str]()
        self._quality = [cv2.IMWRITE_JPEG_QUALITY, quality]

    def write(self, view: str | None, name: str, at: int, rows: np.ndarray) -> None:
        if name == "frames":
            jpeg = cv2.imencode(".jpg", rows[0], self._quality)[1]
            self.sizes.update(frames=1, raw=rows.nbytes, jpeg=len(jpeg))


def _build_into_nowhere(
    config: BuildConfig, source: Source, tracker: Tracker, ref: EpisodeRef
) -> Mapping[str, float]:
    """Build the beginning of an episode; returns frames, their raw and JPEG bytes, seconds."""
    frames = FrameStorage(codec="raw", quality=config.store.frames.quality)
    store = config.store.model_copy(update={"frames": frames})
    shown, clock = config.model_copy(update={"store": store}), Stopwatch()
    writer: Any = _Nowhere(frames.quality)
    with clock("all"), source.open(ref) as episode:
        for name, stream in episode.views.items():
            length = min(DRY_RUN_FRAMES, stream.info.num_frames)
            key = view_key(config, ref, name)._replace(cut=True)
            beginning = _Beginning(stream, length)
            for _ in ViewBuilder(shown, tracker, key, beginning, length, clock, {}).write(writer):
                pass
    return {**writer.sizes, "seconds": clock.seconds["all"]}


def refuse_if_full(config: BuildConfig) -> None:
    """Raise OutputError before any work when the episodes still to build cannot fit.

    Reads the headers of a few; what cannot be opened is left for the build to report.
    """
    source = open_source(config)
    have = read_index(config.store.path)
    todo = [ref for ref in source.refs() if ref.id not in have]
    sample = [todo[at] for at in spread(len(todo), DRY_RUN_EPISODES)]
    opened, _ = _read_headers(config, source, sample)
    total = sum(each.frames for each in opened.values()) * _track_bytes(config)
    if config.store.frames.codec == "raw":
        total += sum(each.raw_bytes for each in opened.values())
    need = total * len(todo) / max(1, len(opened))
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
    return next(each for each in (path, *path.parents) if each.is_dir())


def free_bytes(path: Path) -> int:
    """Free bytes on the filesystem that holds ``path``, or is going to."""
    return shutil.disk_usage(nearest_folder(path)).free


@dataclass(frozen=True)
class Costs:
    """What a build takes by unit: seconds and bytes are linear in frames, and in episodes.

    Seconds are of one worker, frames are of single views.
    ``frames_error`` is the relative standard error of ``frames``, 0 where they were counted.
    ``cpu_share`` below 1 means that the probe waited, for a device, a disk or other programs,
    and that on an idle machine the seconds may be fewer.
    """

    episodes: int
    probed: int
    frames: float
    frames_error: float
    fps: float
    frame_seconds: Mapping[str, float]
    episode_seconds: float
    frame_bytes: float
    episode_bytes: float
    source_frame_bytes: float
    cpu_share: float
    device: str
    disk_bytes_per_second: float
    syncs_per_second: float

    def estimate(self, episodes: float | None = None, hours: float | None = None) -> Estimate:
        """Scale to all episodes of the source, to a number of episodes, or to hours of video."""
        length = self.frames / self.episodes
        if hours is not None:
            frames = hours * 3600 * self.fps
            episodes = frames / length
        else:
            episodes = self.episodes if episodes is None else episodes
            frames = episodes * length
        stages = {name: each * frames / 3600 for name, each in self.frame_seconds.items()}
        stages["per episode"] = self.episode_seconds * episodes / 3600
        total = sum(stages.values())
        written = self.frame_bytes * frames + self.episode_bytes * episodes
        read = self.source_frame_bytes * frames
        seconds = total * 3600
        on_disk, listed = self.disk_bytes_per_second * seconds, self.syncs_per_second * seconds
        workers_until = {
            "writing to the output disk": on_disk / max(1.0, written),
            "reading the source at the same rate": on_disk / max(1.0, read),
            "listing episodes (one writer)": listed / max(1.0, episodes),
        }
        return Estimate(
            episodes=round(episodes),
            frames=round(frames),
            video_hours=frames / self.fps / 3600,
            worker_hours=total,
            stage_hours=stages,
            gpu_hours=stages.get("track", 0.0) if self.device != "cpu" else 0.0,
            bytes=round(written),
            files=round(episodes),
            read_bytes=round(read),
            workers_until=workers_until,
            first_bottleneck=min(workers_until, key=lambda name: workers_until[name]),
        )


@dataclass(frozen=True)
class Estimate:
    """A build of some size.

    ``workers_until`` tells how many workers keep each shared thing busy, where more gain nothing;
    ``first_bottleneck`` is exhausted first as workers are added.
    """

    episodes: int
    frames: int
    video_hours: float
    worker_hours: float
    stage_hours: dict[str, float]
    gpu_hours: float
    bytes: int
    files: int
    read_bytes: int
    workers_until: dict[str, float]
    first_bottleneck: str


def measure(config: BuildConfig, episodes: int = PROBED_EPISODES) -> Costs:
    """Fit the cost model on a few episodes; works in a temporary folder next to the output.

    Raises SourceError when no episode can be built, OutputError when nothing can be written.
    """
    source = open_source(config)
    refs = list(source.refs())
    counted = count_frames(config, source, refs)
    opened = [ref for ref in refs if ref.id in counted.opened]
    probed = [opened[at] for at in spread(len(opened), episodes)]
    place = nearest_folder(Path(config.store.path))
    with output_errors(place), tempfile.TemporaryDirectory(prefix=".plan-", dir=place) as folder:
        short, long = _build_cut(config, probed, Path(folder))
        block = os.urandom(_DISK_BLOCK)
        disk = _DISK_BLOCK * _writes_per_second(Path(folder, "speed"), block, 32, sync_every=32)
        # Small durable appends, such as an index takes for each episode.
        syncs = _writes_per_second(Path(folder, "lines"), b"x" * 150, 20, sync_every=1)
    built = [ref.id for ref in probed if ref.id in short and ref.id in long]
    brief, longer = (_total(each[key] for key in built) for each in (short, long))
    extra = longer["frames"] - brief["frames"]
    if extra <= 0:
        raise SourceError(
            f"{config.source.path}: nothing to probe: of {count(len(refs), 'episode')} "
            f"{len(opened)} can be opened, {len(built)} built, and none is longer than "
            f"{PROBED_FRAMES[0]} frames; letterset inspect shows why"
        )
    per_frame = {key: max(0.0, (spent - brief[key]) / extra) for key, spent in longer.items()}
    per_episode = {
        key: max(0.0, spent - per_frame[key] * longer["frames"]) / len(built)
        for key, spent in longer.items()
    }
    stages = [key for key in per_frame if key not in ("frames", "bytes", "cpu")]
    headers = counted.opened.values()
    source_bytes = sum(each.source_bytes for each in headers)
    wall = sum(each[key] for each in (brief, longer) for key in stages)
    return Costs(
        episodes=len(refs),
        probed=len(built),
        frames=counted.frames,
        frames_error=counted.error,
        fps=float(np.mean([each.fps for each in headers])),
        frame_seconds={key: per_frame[key] for key in stages},
        episode_seconds=sum(per_episode[key] for key in stages),
        frame_bytes=per_frame["bytes"],
        episode_bytes=per_episode["bytes"],
        source_frame_bytes=source_bytes / max(1, sum(each.frames for each in headers)),
        cpu_share=min(1.0, (brief["cpu"] + longer["cpu"]) / wall),
        device=str(open_tracker(config).info.settings.get("device", "cpu")),
        disk_bytes_per_second=disk,
        syncs_per_second=syncs,
    )


def _build_cut(
    config: BuildConfig, refs: list[EpisodeRef], folder: Path
) -> list[dict[str, dict[str, float]]]:
    """Build each episode short and long; returns seconds, frames and bytes of each, by id."""
    # The first build of a process is slow: imports, weights, caches.  It does not count.
    rounds = [(folder / "warm", PROBED_FRAMES[0], refs[:1])]
    rounds += [(folder / str(most), most, refs) for most in PROBED_FRAMES]
    jobs = [Job(_cut(config, out, most), ref) for out, most, each in rounds for ref in each]
    found: dict[str, dict[str, dict[str, float]]] = {str(out): {} for out, _, _ in rounds}
    executor, _ = open_executor(ExecutorPart(kind="serial"), config.limits)
    for event in executor.run(build_episode, jobs):
        if isinstance(event, Outcome) and event.error is None:
            job, built = event.task, event.result
            counts = {"frames": built.frames, "bytes": _stored_bytes(job), "cpu": built.cpu_seconds}
            found[job.config.store.path][job.ref.id] = {**built.seconds, **counts}
    return [found[str(out)] for out, _, _ in rounds[1:]]


def _total(builds: Iterable[Mapping[str, float]]) -> Counter[str]:
    total = Counter[str]()
    for each in builds:
        total.update(each)
    return total


def _cut(config: BuildConfig, out: Path, most: int) -> BuildConfig:
    """Return the config of a build of at most ``most`` frames of each episode."""
    own = config.source.settings
    source = config.source.model_copy(
        update={"max_frames": min(most, own.get("max_frames") or most)}
    )
    store = config.store.model_copy(update={"path": str(out)})
    return config.model_copy(update={"source": source, "store": store})


def _stored_bytes(job: Job) -> int:
    """Bytes on disk of an episode that was built: of its own files, the next is being written."""
    path = open_store(job.config).path(job.ref.id)
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


def _writes_per_second(path: Path, block: bytes, times: int, sync_every: int) -> float:
    """Write a file of blocks, made durable every so many; returns blocks per second."""
    begun = time.perf_counter()
    with path.open("wb") as file:
        for number in range(1, times + 1):
            file.write(block)
            if number % sync_every == 0:
                file.flush()
                os.fsync(file.fileno())
    return times / (time.perf_counter() - begun)
