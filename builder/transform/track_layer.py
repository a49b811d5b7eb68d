"""Tracks a dataset once more into a layer, on its stored frames or on those of its source."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from builder.build.backends import for_workers, open_executor, open_source_part, window_steps
from builder.build.episode import require_source
from builder.build.executors.base import Outcome, ProgressEvent, ReportProgress
from builder.build.reader import listed
from builder.build.resume import source_change
from builder.build.run_log import last_limits
from builder.build.tracker_process import TrackerAddress, repeated, shared_tracker, tracker_hosts
from builder.build.view import TrackWriter
from builder.core.errors import (
    ConfigError,
    DatasetError,
    NewerFormatError,
    OutputError,
    SourceError,
)
from builder.core.messages import count
from builder.core.paths import episode_id
from builder.core.result import Result
from builder.dataset.episodes import Dataset, EpisodeData, ViewData
from builder.dataset.layers import FOLDER, LayerWriter, check_free, commit_layer, layer_store
from builder.dataset.locks import Mark, require_arrived, require_shared
from builder.dataset.window_table import refresh_window_stats
from builder.sources.base import Episode, EpisodeRef
from builder.stores.base import ArraySpec
from builder.trackers.base import TRACKERS, Tracker, ViewKey
from builder.trackers.view_tracker import ViewFrames, ViewTracker, check_query_region
from schemas.config import ExecutorPart, SourcePart, TrackerPart
from schemas.dataset import QuerySpec
from schemas.geometry import Letterbox
from schemas.layers import TrackSet


@dataclass(frozen=True)
class TrackJob:
    """One episode to track; picklable.  ``source`` is None when stored frames are used."""

    dataset: Path
    layer: str
    tracker: TrackerPart
    queries: QuerySpec
    ref: EpisodeRef
    mark: Mark
    """By which the layer's folder is known, wherever it is written."""
    source: SourcePart | None = None
    host: TrackerAddress | None = None


@dataclass
class Tracked(Result):
    """How tracking ended: episodes tracked, those already there, and why others failed, by id."""

    layer: str
    tracked: int = 0
    there: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Count the episodes."""
        return (
            f"layer {self.layer}: {count(self.tracked, 'episode')} tracked, {self.there} already "
            f"there, {len(self.failures)} failed"
        )


def track(
    path: Path | str,
    name: str,
    tracker: TrackerPart,
    *,
    queries: QuerySpec | None = None,
    source: str | None = None,
    executor: ExecutorPart | None = None,
    on_event: Callable[[Outcome | ProgressEvent], None] = lambda event: None,
    on_start: Callable[[int, int], None] = lambda todo, done: None,
    on_notice: Callable[[str], None] = lambda sentence: None,
) -> Tracked:
    """Track every episode of a dataset once more, into the layer ``name``.

    Frames come from the dataset, or, where ``source`` is the path of the videos it was built
    from, are decoded again.  Running it again continues.  Raises ConfigError, DatasetError and
    OutputError.
    """
    dataset = Dataset(Path(path), max_open=1)
    queries = queries or dataset.meta.queries
    executor = executor or ExecutorPart()
    if source is None and tracker.input != "content":
        raise ConfigError("stored frames show content alone: for this tracker.input give --source")
    if tracker.skip_still is not None:
        raise ConfigError(
            "tracker.skip_still is for letterset build: the windows of a layer are those of every "
            "n-th frame. Build a dataset with this tracker to leave still windows out"
        )
    make_tracker, own = TRACKERS.configure(tracker)
    opened = make_tracker(own)
    if not opened.gives_tracks:
        raise ConfigError(f"tracker {tracker.kind!r} makes no tracks: choose another tracker.kind")
    check_query_region(opened, tracker.kind, queries)
    tracks = TrackSet(
        horizon=tracker.horizon,
        start_every=tracker.start_every,
        mode=tracker.mode,
        queries=queries,
        tracker=opened.info,
        frames="stored" if source is None else "source",
    )
    part, refs = episode_refs(dataset, source)
    result = Tracked(name)
    limits = last_limits(dataset.path)
    runner, settings = open_executor(executor, limits)
    runner.on_notice = on_notice
    made_by = {"tracker": tracker.model_dump(mode="json", exclude={"weights"})}
    tracker = tracker.model_copy(update=dict(opened.pins))
    with LayerWriter(dataset.path, name, made_by, tracks) as layer:
        jobs, place = [], dataset.path if runner.local_workers else dataset.path.absolute()
        tracker = for_workers(tracker, runner)
        part = part and for_workers(part, runner)
        for episode_id in dataset.ids:
            try:
                there = layer.has(dataset[episode_id].meta)
            except (DatasetError, NewerFormatError) as error:
                result.failures[episode_id] = str(error)
                continue
            if there:
                result.there += 1
            elif episode_id in refs:
                ref = refs[episode_id]
                mark = layer.lock.mark
                jobs.append(TrackJob(place, name, tracker, queries, ref, mark, part))
            else:
                result.failures[episode_id] = "the source has no such episode any more"
        on_start(len(jobs), result.there)
        make = partial(_tracker, tracker.model_dump_json())
        with tracker_hosts(opened, make, settings, limits.stall_seconds) as addresses:
            turns = itertools.cycle(addresses or [None])
            fed = (replace(job, host=next(turns)) for job in jobs)
            with closing(runner.run(track_episode, fed)) as events:
                for event in events:
                    on_event(event)
                    if not isinstance(event, Outcome):
                        continue
                    if isinstance(event.error, OutputError | ConfigError):
                        raise event.error
                    if event.error is not None:
                        result.failures[event.task.ref.id] = str(event.error)
                    else:
                        require_arrived(layer.store, event.result, layer.folder, "")
                        layer.lock.check()
                        result.tracked += 1
    if not result.failures:
        refresh_window_stats(dataset.with_layers(name))
    return result


def episode_refs(
    dataset: Dataset, source: str | None
) -> tuple[SourcePart | None, dict[str, EpisodeRef]]:
    """Return a dataset's source, moved to ``source``, and its episodes by id.

    Without ``source`` the episodes are the dataset's own.  Raises ConfigError, SourceError.
    """
    if source is None:
        return None, {key: EpisodeRef(key, key) for key in dataset.ids}
    recorded: Any = dataset.meta.config.get("source")
    if not isinstance(recorded, dict) or "kind" not in recorded:
        raise ConfigError(f"{dataset.path} does not record what kind of source it was built from")
    part = SourcePart.model_validate({**recorded, "path": source})
    limits = last_limits(dataset.path)
    opened = open_source_part(part, limits, window_steps(dataset.meta))
    return part, {ref.id: ref for ref in listed(opened, limits)}


@lru_cache(maxsize=1)
def _opened(path: Path) -> Dataset:
    return Dataset(path, max_open=1)


@lru_cache(maxsize=1)
def _tracker(part_json: str) -> Tracker:
    make_tracker, own = TRACKERS.configure(TrackerPart.model_validate_json(part_json))
    return make_tracker(own)


def track_episode(job: TrackJob, report: ReportProgress) -> str:
    """Track one episode, whole or not at all; runs in a child process; returns its id.

    Raises SourceError for what cannot be tracked, OutputError when it cannot be written, and
    HostError where this host does not share the layer's folder, or lacks the source.
    """
    require_shared(job.dataset / FOLDER / job.layer, job.mark)
    try:
        return repeated(lambda: _track_once(job, report))
    except SourceError as error:
        if job.source is not None:
            require_source(job.source.path, error)
        raise


def _track_once(job: TrackJob, report: ReportProgress) -> str:
    host = job.host
    tracker = shared_tracker(host) if host else _tracker(job.tracker.model_dump_json())
    base = _opened(job.dataset)[job.ref.id]
    with ExitStack() as stack:
        episode = None
        if job.source is not None:
            source = open_source_part(job.source, last_limits(job.dataset))
            episode = stack.enter_context(source.open(job.ref))
            _check_source(base, episode, job.source)
        outputs = {name: _output(base, view, job, tracker) for name, view in base.views.items()}
        layout: dict[str | None, dict[str, ArraySpec]] = {
            name: output.layout() for name, output in outputs.items()
        }
        check_free(base.meta, layout, tracks=True)
        store, total = layer_store(job.dataset, job.layer), base.meta.length * len(outputs)
        with store.begin(base.id, layout, replace=True) as writer:
            done = 0
            for name, output in outputs.items():
                output.begin(writer)
                for content in _contents(base.views[name], output, episode):
                    output.write(writer, output.tracks.push(content))
                    done += 1
                    report(done, total)
                output.write(writer, output.tracks.finish())
            commit_layer(writer, base.meta)
    return base.id


def _output(base: EpisodeData, view: ViewData, job: TrackJob, tracker: Tracker) -> TrackWriter:
    box = view.geometry
    if not isinstance(box, Letterbox):
        raise SourceError(f"view {view.name} is stretched, not letterboxed: it cannot be tracked")
    recorded: Any = _opened(job.dataset).meta.config.get("source") or {}
    length, source = len(view.timestamps), base.meta.source
    key = ViewKey(job.ref.id, source.path, view.name, recorded.get("max_frames") is not None)
    if clip := source.clip:
        whole = episode_id(unquote_to_bytes(clip.of))
        key = ViewKey(whole, clip.of, view.name, cut=True, first=clip.first)
    tracks = ViewTracker(tracker, box, job.queries, job.tracker, length, key)
    return TrackWriter(view.name, tracks, length, tracker.gives_conf)


def _contents(view: ViewData, output: TrackWriter, episode: Episode | None) -> Iterator[np.ndarray]:
    """Yield what the tracker sees: the picture without its bars."""
    if episode is not None:
        frames = ViewFrames(output.tracks, view.meta.orientation)
        for frame in episode.views[view.name]:
            yield frames.tracked(frame.image)
        return
    if view.frames is None:
        raise SourceError(f"view {view.name} has no stored frames: give --source")
    left, top, right, bottom = view.geometry.content_box
    for index in range(len(view.timestamps)):
        yield np.ascontiguousarray(np.asarray(view.frames[index])[top:bottom, left:right])


def _check_source(base: EpisodeData, episode: Episode, part: SourcePart) -> None:
    """Refuse a source that is not the one the episode was built from."""
    if change := source_change(base.meta, Path(part.path)):
        raise SourceError(f"the source is not what the dataset was built from: {change}")
    for name, view in base.views.items():
        if name not in episode.views:
            raise SourceError(f"the source has no view {name!r} any more")
        info, box = episode.views[name].info, view.geometry
        if (info.source_shape, info.num_frames) != (box.source_shape, base.meta.length):
            raise SourceError(
                f"view {name}: the source gives {info.num_frames} frames of {info.source_shape}, "
                f"the dataset has {base.meta.length} of {box.source_shape}"
            )
