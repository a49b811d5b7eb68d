"""Measuring what a build takes: the beginnings of a few episodes, built for real, then removed.

Each is built at two lengths, which tells the cost of a frame from that of an episode.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from builder.build.episode import Job, build_episode, open_source, open_store, open_tracker
from builder.build.estimate.costs import Costs
from builder.build.estimate.plan import nearest_folder
from builder.build.executors.base import EXECUTORS, Outcome
from builder.build.shards import WEIGH_AT_MOST
from builder.core.errors import SourceError
from builder.core.messages import count
from builder.core.spacing import spread
from builder.sources.base import EpisodeRef, Source
from builder.stores.atomic import output_errors
from schemas.config import BuildConfig, ExecutorPart

PROBED_EPISODES = 5
PROBED_FRAMES = (16, 80)  # of each view
_DISK_BYTES, _SYNCS = 128 << 20, 20


def measure(config: BuildConfig, episodes: int = PROBED_EPISODES) -> Costs:
    """Fit the cost model on a few episodes; works in a folder beside the output, and removes it.

    Raises SourceError when no episode can be built, OutputError when nothing can be written.
    """
    source = open_source(config)
    refs = list(source.refs())
    lengths = _lengths(source, [refs[at] for at in spread(len(refs), episodes)])
    place = nearest_folder(Path(config.store.path))
    with output_errors(place), tempfile.TemporaryDirectory(prefix=".plan-", dir=place) as folder:
        short, long = _probe(config, [length.ref for length in lengths.values()], Path(folder))
        disk, syncs = _disk_speed(Path(folder)), _sync_speed(Path(folder))
    built = [key for key in lengths if key in short and key in long]
    brief, longer = (_total([each[key] for key in built]) for each in (short, long))
    extra = longer["frames"] - brief["frames"]
    if extra <= 0:
        raise SourceError(
            f"{config.source.path}: nothing to probe: of {count(len(refs), 'episode')} "
            f"{len(lengths)} can be opened, {len(built)} built, and none is longer than "
            f"{PROBED_FRAMES[0]} frames; letterset inspect shows why"
        )
    per_frame = {key: max(0.0, (spent - brief[key]) / extra) for key, spent in longer.items()}
    per_episode = {
        key: max(0.0, spent - per_frame[key] * longer["frames"]) / len(built)
        for key, spent in longer.items()
    }
    stages = [key for key in per_frame if key not in ("frames", "bytes", "cpu")]
    wall = sum(each[key] for each in (brief, longer) for key in stages)
    frames, error = _all_frames(source, refs, lengths)
    return Costs(
        episodes=len(refs),
        probed=len(built),
        frames=frames,
        frames_error=error,
        fps=float(np.mean([length.fps for length in lengths.values()])),
        frame_seconds={key: per_frame[key] for key in stages},
        episode_seconds=sum(per_episode[key] for key in stages),
        frame_bytes=per_frame["bytes"],
        episode_bytes=per_episode["bytes"],
        source_frame_bytes=sum(length.source_bytes for length in lengths.values())
        / sum(length.frames for length in lengths.values()),
        cpu_share=min(1.0, (brief["cpu"] + longer["cpu"]) / wall),
        device=str(open_tracker(config).info.settings.get("device", "cpu")),
        disk_bytes_per_second=disk,
        syncs_per_second=syncs,
    )


@dataclass(frozen=True)
class _Length:
    """An episode that opens: frames of all views, their rate, the bytes of its files."""

    ref: EpisodeRef
    frames: int
    fps: float
    source_bytes: int


def _lengths(source: Source, refs: Sequence[EpisodeRef]) -> dict[str, _Length]:
    """Open episodes without decoding them; those that cannot be are left to the build."""
    found = {}
    for ref in refs:
        try:
            with source.open(ref) as episode:
                infos = [stream.info for stream in episode.views.values()]
                size = sum(mark.size for mark in episode.files.values())
        except SourceError:
            continue
        rates = [info.fps for info in infos if info.fps]
        frames = sum(info.num_frames for info in infos)
        found[ref.id] = _Length(ref, frames, rates[0] if rates else 30.0, size)
    return found


def _probe(
    config: BuildConfig, refs: list[EpisodeRef], folder: Path
) -> list[dict[str, dict[str, float]]]:
    """Build each episode short and long; returns seconds, frames and bytes of each, by id."""
    # The first build of a process is slow: imports, weights, caches.  It does not count.
    rounds = [(folder / "warm", PROBED_FRAMES[0], refs[:1])]
    rounds += [(folder / str(most), most, refs) for most in PROBED_FRAMES]
    jobs = [Job(_cut(config, out, most), ref) for out, most, each in rounds for ref in each]
    found: dict[str, dict[str, dict[str, float]]] = {str(out): {} for out, _, _ in rounds}
    serial, own = EXECUTORS.configure(ExecutorPart(kind="serial"))
    executor = serial(own, 1, config.limits.stall_seconds)
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


def _all_frames(
    source: Source, refs: list[EpisodeRef], lengths: dict[str, _Length]
) -> tuple[float, float]:
    """Estimate the frames of all episodes, and the relative standard error of that.

    By weight where the source knows one: frames per byte differ less than lengths do.
    """
    weigh = getattr(source, "weight", None) if len(refs) <= WEIGH_AT_MOST else None
    weight = {ref.id: 1.0 if weigh is None else max(1.0, weigh(ref)) for ref in refs}
    ratios = np.array([length.frames / weight[key] for key, length in lengths.items()])
    probed = sum(weight[key] for key in lengths)
    frames = sum(length.frames for length in lengths.values()) / probed * sum(weight.values())
    unseen = 1 - len(lengths) / len(refs)
    if len(ratios) < 2:
        return frames, 1.0 if unseen else 0.0
    spread_of_mean = ratios.std(ddof=1) / ratios.mean() / len(ratios) ** 0.5
    return frames, float(spread_of_mean * unseen**0.5)


def _stored_bytes(job: Job) -> int:
    """Bytes on disk of an episode that was built: of its own files, the next is being written."""
    path = open_store(job.config).path(job.ref.id)
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


def _disk_speed(folder: Path) -> float:
    """Bytes per second of one writer, made durable."""
    block = os.urandom(4 << 20)
    begun = time.perf_counter()
    with (folder / "speed").open("wb") as file:
        for _ in range(_DISK_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return _DISK_BYTES / (time.perf_counter() - begun)


def _sync_speed(folder: Path) -> float:
    """Small durable appends per second, such as an index takes for each episode."""
    begun = time.perf_counter()
    with (folder / "lines").open("ab", buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(b"x" * 150)
            os.fsync(file.fileno())
    return _SYNCS / (time.perf_counter() - begun)
