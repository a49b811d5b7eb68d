"""What a build is going to cost: frames counted from headers, the rest from a probe of a few.

``measure`` builds parts of a few episodes for real, from several places, each at two lengths,
which tells the cost of a frame from that of an episode.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from builder.build.backends import open_source, open_tracker
from builder.build.probe import (
    PROBED_FRAMES,
    build_probes,
    frame_costs,
    probes,
    standard_error,
    value_range,
)
from builder.build.reader import apart, listed
from builder.build.shards import WEIGH_AT_MOST
from builder.canvas.frame_rates import FrameRates
from builder.canvas.letterbox import Letterboxer
from builder.core.cores import available_cores
from builder.core.errors import OutputError, SourceError
from builder.core.messages import count, duration, size
from builder.core.paths import is_url
from builder.core.spacing import spread
from builder.dataset.folder import read_index
from builder.inputs.streams import FrameStream
from builder.sources.base import EpisodeRef, Source
from builder.sources.clips import clip_of
from builder.stores.atomic import output_errors
from builder.stores.base import ENVELOPE_BYTES
from schemas.config import BuildConfig

# So many episodes are opened to count their frames; of more, as many stand for all.
COUNTED_EPISODES = 200
FETCHED_EPISODES = 10  # of a source at a URL, where each is fetched for it
PROBED_EPISODES = 5
LONG_SECONDS = 1800.0  # of one worker at one episode, from which on it is told
_DISK_BLOCK = 4 << 20
_HEADERS_BEFORE = 12  # of episodes, read before any work

# Share of the raw size that LZ4 leaves of letterboxed video frames (measured on real clips).
LZ4_SHARE = 0.52


@dataclass(frozen=True)
class _Headers:
    """What the headers of an episode tell of all its views, and the bytes of its files."""

    frames: int = 0
    raw_bytes: int = 0
    source_bytes: int = 0
    fps: float = 30.0
    length: int = 0
    """Frames of a view."""
    aspects: tuple[float, ...] = ()
    """Width to height of each view, as it is shown."""
    rates: tuple[float | None, ...] = ()
    """Frames per second of each view, None where unknown."""


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
    counted = FETCHED_EPISODES if is_url(config.source.path) else COUNTED_EPISODES
    sample = [refs[at] for at in spread(len(refs), counted)]
    opened, unreadable = apart(_read_headers, config, source, sample, limits=config.limits)
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
                if clip := clip_of(ref):
                    source_bytes = source_bytes * (clip.last - clip.first) // clip.length
                opened[ref.id] = _Headers(
                    sum(stream.info.num_frames for stream in streams),
                    sum(_raw_bytes(config, stream) for stream in streams),
                    source_bytes,
                    next((stream.info.fps for stream in streams if stream.info.fps), 30.0),
                    streams[0].info.num_frames,
                    tuple(_aspect(stream) for stream in streams),
                    tuple(stream.info.fps for stream in streams),
                )
        except SourceError as error:
            unreadable[ref.path] = str(error)
    return opened, unreadable


def _aspect(stream: FrameStream) -> float:
    (height, width), (wide, high) = stream.info.source_shape, stream.info.sample_aspect_ratio
    return width * wide / (height * high)


def orientation_notes(config: BuildConfig, headers: Iterable[_Headers]) -> tuple[str, ...]:
    """Note that img_shape is upright and all pictures are wide, or the reverse."""
    height, width = config.img_shape
    aspects = [aspect for each in headers for aspect in each.aspects]
    for this, other, sign in (("upright", "wide", 1), ("wide", "upright", -1)):
        if aspects and all(sign * (aspect - 1) > 0 > sign * (width - height) for aspect in aspects):
            return (
                f"img_shape {height} {width} (H W) is {this}, and all videos that were looked at "
                f"are {other}: was {width} {height} meant?",
            )
    return ()


def _header_notes(config: BuildConfig, headers: Collection[_Headers]) -> tuple[str, ...]:
    """Note what headers tell of orientations and frame rates."""
    rates = FrameRates()
    for rate in (rate for each in headers for rate in each.rates):
        rates.add(rate)
    mixed = rates.mixed(config.tracker.horizon)
    return (*orientation_notes(config, headers), *([mixed] if mixed else []))


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


def refuse_if_full(config: BuildConfig) -> tuple[str, ...]:
    """Raise OutputError before any work when the episodes still to build cannot fit.

    Reads the headers of a few, and returns notes on them; what cannot be opened is left for the
    build to report.
    """
    source = open_source(config)
    far = is_url(config.store.path)
    have: Mapping[str, object] = {} if far else read_index(config.store.path)
    todo = [ref for ref in listed(source, config.limits) if ref.id not in have]
    few = 1 if is_url(config.source.path) else _HEADERS_BEFORE
    sample = [todo[at] for at in spread(len(todo), few)]
    opened, _ = apart(_read_headers, config, source, sample, limits=config.limits)
    total = sum(each.frames for each in opened.values()) * _track_bytes(config)
    if config.store.frames.codec == "raw":
        total += sum(each.raw_bytes for each in opened.values())
    need = total * len(todo) / max(1, len(opened))
    free = math.inf if far else free_bytes(Path(config.store.path))
    if need > free:
        raise OutputError(
            f"{config.store.path}: about {size(need)} are needed for "
            f"{count(len(todo), 'episode')}, {size(free)} are free; free some space, "
            "choose another --out, or store frames smaller with store.frames.codec=jpeg"
        )
    return _header_notes(config, opened.values())


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
    ``places`` were probed, in ``probed`` episodes; what a frame costs differs from place to place,
    and ``frame_bytes_range`` are the least and the most.  ``frame_bytes_error`` and
    ``frame_seconds_error`` are relative standard errors of the means, None of one place.
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
    workers: int = 1
    codec: str = "raw"
    bytes_by_codec: Mapping[str, int] = field(default_factory=dict)
    """Of all episodes, by ``store.frames.codec``; raw and lz4 by calculation, unless chosen."""
    free_bytes: int = 0
    unreadable: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    places: int = 0
    frame_bytes_error: float | None = None
    frame_bytes_range: tuple[float, float] = (0.0, 0.0)
    frame_seconds_error: float | None = None

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
    refs = listed(source, config.limits)
    counted = count_frames(config, source, refs)
    opened = [ref for ref in refs if ref.id in counted.opened]
    chosen = [opened[at] for at in spread(len(opened), episodes)]
    probed = probes([(ref, counted.opened[ref.id].length) for ref in chosen])
    place = nearest_folder(Path(config.store.path))
    with output_errors(place), tempfile.TemporaryDirectory(prefix=".plan-", dir=place) as folder:
        short, long = build_probes(config, probed, Path(folder))
        block = os.urandom(_DISK_BLOCK)
        disk = _DISK_BLOCK * _writes_per_second(Path(folder, "speed"), block, 32, sync_every=32)
        # Small durable appends, such as an index takes for each episode.
        syncs = _writes_per_second(Path(folder, "lines"), b"x" * 150, 20, sync_every=1)
    parts = [each.part(PROBED_FRAMES[0]) for each in probed]
    jpeg_share = apart(_jpeg_share, config, source, parts, limits=config.limits)
    built = [place for place in probed if place.id in short and place.id in long]
    brief, longer = (_total(each[place.id] for place in built) for each in (short, long))
    if not longer["frames"]:
        first = next((f"{path}: {why}" for path, why in counted.unreadable.items()), "")
        raise SourceError(
            f"{config.source.path}: nothing to probe: of {count(len(refs), 'episode')} "
            f"{len(opened)} can be opened and {len(built)} built; letterset inspect shows why"
            f"{f' ({first})' if first else ''}"
        )
    notes = _header_notes(config, counted.opened.values())
    extra = longer["frames"] - brief["frames"]
    if extra <= 0:
        brief, extra = Counter[str](), longer["frames"]
        alone = f"none is longer than {PROBED_FRAMES[0]} frames, which tells no cost of an episode"
        notes = (*notes, alone)
    per_frame = {key: max(0.0, (spent - brief[key]) / extra) for key, spent in longer.items()}
    per_episode = {
        key: max(0.0, spent - per_frame[key] * longer["frames"]) / len(built)
        for key, spent in longer.items()
    }
    stages = [key for key in per_frame if key not in ("frames", "bytes", "cpu")]
    headers = counted.opened.values()
    ratios = [frame_costs(short[place.id], long[place.id], stages) for place in built]
    source_bytes = sum(each.source_bytes for each in headers)
    wall = sum(each[key] for each in (brief, longer) for key in stages)
    costs = Costs(
        episodes=len(refs),
        probed=len({place.ref.id for place in built}),
        places=len(built),
        frames=counted.frames,
        frames_error=counted.error,
        fps=float(np.mean([each.fps for each in headers])),
        frame_seconds={key: per_frame[key] for key in stages},
        episode_seconds=sum(per_episode[key] for key in stages),
        frame_bytes=per_frame["bytes"],
        frame_bytes_error=standard_error([each.bytes for each in ratios]),
        frame_bytes_range=value_range([each.bytes for each in ratios]),
        frame_seconds_error=standard_error([each.seconds for each in ratios]),
        episode_bytes=per_episode["bytes"],
        source_frame_bytes=source_bytes / max(1, sum(each.frames for each in headers)),
        cpu_share=min(1.0, (brief["cpu"] + longer["cpu"]) / wall),
        device=str(open_tracker(config).info.settings.get("device", "cpu")),
        disk_bytes_per_second=disk,
        syncs_per_second=syncs,
        workers=config.executor.workers or available_cores(),
        codec=config.store.frames.codec,
        free_bytes=free_bytes(Path(config.store.path)),
        unreadable=counted.unreadable,
        notes=(*notes, *_long_notes(counted, per_frame, stages)),
    )
    return replace(costs, bytes_by_codec=_bytes_by_codec(config, costs, counted, jpeg_share))


def _bytes_by_codec(
    config: BuildConfig, costs: Costs, counted: FrameCount, jpeg_share: float
) -> dict[str, int]:
    """Return the bytes of all episodes with frames of each codec."""
    raw, own = counted.raw_bytes, costs.estimate().bytes
    frames = {"raw": raw, "lz4": raw * LZ4_SHARE, "jpeg": raw * jpeg_share, "none": 0.0}
    # What was measured goes before what is calculated, of which lz4 knows the average only.
    least = counted.frames * _track_bytes(config) + ENVELOPE_BYTES * costs.episodes
    rest = max(least, own - frames[costs.codec])
    found = {codec: round(each + rest) for codec, each in frames.items()}
    return {**found, costs.codec: own}


def _jpeg_share(config: BuildConfig, source: Source, refs: Iterable[EpisodeRef]) -> float:
    """Return the bytes of some frames as JPEG, as a share of their raw bytes; 1 where none is read.

    Called in a child process.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, config.store.frames.quality]
    jpeg = raw = 0
    for ref in refs:
        with suppress(SourceError), source.open(ref) as episode:
            for stream in episode.views.values():
                info = stream.info
                box = config.fit(info.source_shape, info.sample_aspect_ratio)
                boxer = Letterboxer(box, info.orientation)
                for frame in islice(iter(stream), 0, PROBED_FRAMES[0], 5):
                    canvas = boxer.canvas(frame.image)
                    jpeg += len(cv2.imencode(".jpg", canvas, quality)[1])
                    raw += canvas.nbytes
    return jpeg / raw if raw else 1.0


def _long_notes(
    counted: FrameCount, per_frame: Mapping[str, float], stages: Iterable[str]
) -> Iterator[str]:
    """Note an episode that keeps a worker so long that a kill would cost much."""
    longest = max(each.frames for each in counted.opened.values())
    seconds = longest * sum(per_frame[key] for key in stages)
    if seconds > LONG_SECONDS:
        yield (
            f"the longest episode takes one worker about {duration(seconds)}, and begins anew when "
            "it is killed: source.clip cuts it into clips"
        )


def _total(builds: Iterable[Mapping[str, float]]) -> Counter[str]:
    total = Counter[str]()
    for each in builds:
        total.update(each)
    return total


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
