"""Building one episode, from its source to the store: what a child process does."""

import json
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from builder.build.backends import open_source, open_store, open_tracker
from builder.build.executors.base import ReportProgress
from builder.build.run_log import worker_name
from builder.build.tracker_process import TrackerAddress, repeated, shared_tracker
from builder.build.view import ViewBuilder, kept_starts, measure_stillness, view_key
from builder.canvas.windows import runs_of
from builder.core.errors import (
    DatasetError,
    HostError,
    OutputError,
    SourceError,
    StoreError,
    UnreadableError,
)
from builder.core.paths import is_url
from builder.core.stopwatch import Stopwatch
from builder.dataset.folder import index_line
from builder.dataset.locks import Mark, require_shared
from builder.dataset.window_table import Rows, episode_rows
from builder.inputs.foreign import limited_memory
from builder.sources.base import Episode, EpisodeRef, Source
from builder.sources.clips import clip_of
from builder.stores.base import ArraySpec, EpisodeWriter, Store
from builder.trackers.base import Tracker
from schemas.config import BuildConfig, Limits
from schemas.dataset import ClipInfo, EpisodeMeta, IndexLine, SourceInfo, StillWindows

# How many times ``stall_seconds`` putting a finished episode on disk may take.
COMMIT_PATIENCE = 20


@dataclass(frozen=True)
class Job:
    """One episode to build, or to build again; picklable, so that a child process can."""

    config: BuildConfig
    ref: EpisodeRef
    replace: bool = False
    tracker: TrackerAddress | None = None
    """The process that tracks for it; None: the one that builds it does."""
    dataset: str | None = None
    """Digest of the dataset's description; None for an episode that is built by itself."""
    mark: Mark | None = None
    """By which the dataset's folder is known, wherever it is built; None: it is not checked."""
    ahead: EpisodeRef | None = None
    """The episode to fetch meanwhile, where the source lies elsewhere."""


# A worker keeps its backends (a tracker may hold weights) between its episodes.
@lru_cache(maxsize=3)
def _kept(open_backend: Callable[[BuildConfig], Any], config_json: str) -> Any:
    return open_backend(BuildConfig.model_validate(json.loads(config_json)))


@dataclass(frozen=True)
class Built:
    """What came of a job: the episode's index line, and what it took to build it.

    Not ``new`` when the episode was there already: committed by a run that was killed before
    it could list it, by a worker that died just after, or by somebody else in the meantime.
    ``notes`` say what of the source was left out.  ``seconds`` are wall seconds by stage,
    ``cpu_seconds`` those of the whole process.
    """

    line: IndexLine
    new: bool = True
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    worker: str = ""
    notes: tuple[str, ...] = ()
    rows: Rows | None = None
    """Of the table of windows, by view; None when the episode could not be read again."""

    @property
    def frames(self) -> int:
        """Frames of all views."""
        return self.line.frames


def build_episode(job: Job, report: ReportProgress) -> Built:
    """Build one episode, completely or not at all; runs in a child process.

    Raises SourceError for a bad source, OutputError when the store cannot be written, and HostError
    where this host does not share the dataset's folder.
    """
    return repeated(lambda: _build_once(job, report))


def _build_once(job: Job, report: ReportProgress) -> Built:
    report(0, 0)
    if job.mark is not None:
        require_shared(Path(job.config.store.path), job.mark)
    # Not pydantic's own JSON, which refuses the odd bytes that paths may hold.
    config_json = json.dumps(job.config.model_dump())
    source, store = _kept(open_source, config_json), _kept(open_store, config_json)
    if store.has(job.ref.id) and not job.replace:
        return _there_already(store, job)
    clock, begun, cpu_begun = Stopwatch(), time.perf_counter(), time.process_time()
    tracker = _tracker(job, config_json)
    try:
        meta = _build(job, source, tracker, store, report, clock)
    except SourceError as error:
        if job.dataset is not None:
            require_source(job.config.source.path, error)
        raise
    except OutputError:
        if store.has(job.ref.id) and not job.replace:
            return _there_already(store, job)
        raise
    line = index_line(meta)
    done = line.frames
    with clock("stats"), _still_alive(lambda: report(done, done), job.config.limits):
        rows = _rows(store, job)
    stages = dict(clock.seconds)
    stages["other"] = time.perf_counter() - begun - sum(stages.values())
    cpu_seconds = time.process_time() - cpu_begun
    return Built(
        line,
        notes=meta.notes,
        rows=rows,
        seconds=stages,
        cpu_seconds=cpu_seconds,
        worker=worker_name(),
    )


def require_source(place: str, error: SourceError) -> None:
    """Raise HostError where this host lacks the whole source, not one file: every task would fail.

    A disk that is not mounted leaves an empty folder, if any; the build began with what was listed.
    """
    path = Path(place)
    with suppress(OSError):
        if is_url(place) or path.is_file() or next(path.iterdir(), None) is not None:
            return
    raise HostError(
        f"{platform.node()} does not have the source: {path} is empty there, or nothing ({error}). "
        "It must be at the same path on every node; mount it there, or leave that node out"
    )


def _tracker(job: Job, config_json: str) -> Tracker:
    return shared_tracker(job.tracker) if job.tracker else _kept(open_tracker, config_json)


def _there_already(store: Store, job: Job) -> Built:
    try:
        with closing(store.open(job.ref.id)) as reader:
            meta = reader.meta
    except UnreadableError as error:
        raise StoreError(f"it is there already: {error}") from None
    except DatasetError as error:
        raise StoreError(f"it is there already, but damaged: {error}") from None
    if meta.dataset not in (None, job.dataset):
        raise StoreError("it is there already, but was built under another dataset.json")
    return Built(index_line(meta), new=False, rows=_rows(store, job))


def _rows(store: Store, job: Job) -> Rows | None:
    """Compute an episode's rows of the table of windows; None at a URL, or if it is unreadable."""
    if is_url(job.config.store.path):
        return None  # it would have to be fetched
    with suppress(DatasetError, OSError), closing(store.open(job.ref.id)) as reader:
        return episode_rows(reader, job.config.img_shape)
    return None  # whoever makes the table meets it again, and says so


def _build(
    job: Job,
    source: Source,
    tracker: Tracker,
    store: Store,
    report: ReportProgress,
    clock: Stopwatch,
) -> EpisodeMeta:
    with ExitStack() as stack:
        with limited_memory(job.config.limits):
            episode = stack.enter_context(source.open(job.ref))
        if job.ahead is not None:
            source.fetch_ahead(job.ahead)
        length = _common_length(episode)
        total = length * len(episode.views)
        still, threshold = None, job.config.tracker.skip_still
        if threshold is not None:
            with clock("still"):
                still = measure_stillness(
                    job.config, threshold, episode.views, lambda: report(0, total)
                )
        keeps = None if still is None else kept_starts(still, job.config.tracker.start_every)
        views = {
            name: ViewBuilder(
                job.config,
                tracker,
                view_key(job.config, job.ref, name),
                stream,
                length,
                clock,
                episode.maps.get(name, {}),
                keeps,
            )
            for name, stream in episode.views.items()
        }
        layout: dict[str | None, Mapping[str, ArraySpec]] = {
            name: view.layout() for name, view in views.items()
        }
        layout[None] = _root_layout(episode, length)
        with store.begin(job.ref.id, layout, replace=job.replace) as writer:
            for index, view in enumerate(views.values()):
                for done in view.write(writer):
                    report(index * length + done, total)
            # A long video takes minutes to reach a slow disk; that is no stall.
            with clock("write"), _still_alive(lambda: report(total, total), job.config.limits):
                for name, array in (*episode.arrays.items(), *episode.constants.items()):
                    writer.write(None, name, 0, array)
                meta = _episode_meta(job, episode, views, writer, length, still)
                writer.commit(meta)
    return meta


@contextmanager
def _still_alive(report: Callable[[], None], limits: Limits) -> Iterator[None]:
    """Report in the background while a single long call runs, up to a limit."""
    over = threading.Event()

    def beat() -> None:
        for _ in range(4 * COMMIT_PATIENCE):
            if over.wait(limits.stall_seconds / 4):
                return
            report()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _common_length(episode: Episode) -> int:
    lengths = {name: stream.info.num_frames for name, stream in episode.views.items()}
    if len(set(lengths.values())) != 1:
        raise SourceError(
            f"the views of an episode must have one length, got {lengths} frames; "
            "trim the videos to the same frames first"
        )
    return next(iter(lengths.values()))


def _root_layout(episode: Episode, length: int) -> dict[str, ArraySpec]:
    """Lay out the pass-through arrays; raises SourceError for names and lengths that clash."""
    both = set(episode.arrays) & set(episode.constants)
    if both:
        raise SourceError(f"arrays and constants share the names {sorted(both)}")
    for name, array in episode.arrays.items():
        if array.shape[:1] != (length,):
            raise SourceError(
                f"the array {name} has shape {array.shape}, but the episode has {length} frames; "
                f"what has no time axis goes into constants"
            )
    return {
        name: ArraySpec(array.shape, array.dtype.str, per_frame=per_frame)
        for arrays, per_frame in ((episode.arrays, True), (episode.constants, False))
        for name, array in arrays.items()
    }


def _clip_info(ref: EpisodeRef) -> ClipInfo | None:
    clip = clip_of(ref)
    if clip is None:
        return None
    return ClipInfo(of=clip.whole.path, first=clip.first, shared=clip.shared)


def _episode_meta(
    job: Job,
    episode: Episode,
    views: Mapping[str, ViewBuilder],
    writer: EpisodeWriter,
    length: int,
    still: np.ndarray | None,
) -> EpisodeMeta:
    arrays = writer.digests()
    first = next(iter(views.values()))
    threshold = job.config.tracker.skip_still
    return EpisodeMeta.seal(
        id=job.ref.id,
        source=SourceInfo(
            kind=job.config.source.kind,
            path=job.ref.path,
            files=dict(episode.files),
            licence=episode.licence,
            clip=_clip_info(job.ref),
        ),
        length=length,
        mode=job.config.tracker.mode,
        horizon=first.tracks.horizon,
        start_every=first.tracks.start_every,
        still=None
        if still is None or threshold is None
        else StillWindows(threshold=threshold, skipped=runs_of(still)),
        task=episode.task or job.ref.task,
        group=job.ref.group,
        text=episode.text,
        texts=episode.texts,
        missing_views=episode.missing_views,
        dataset=job.dataset,
        notes=episode.notes,
        arrays=arrays.get(None, {}),
        views=tuple(view.meta(arrays[name]) for name, view in views.items()),
    )
