"""A build: every episode of a source that is not there yet, each in a child process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builder.build.backends import (
    for_workers,
    open_executor,
    open_source,
    open_store,
    open_tracker,
)
from builder.build.episode import Job, build_episode
from builder.build.executors.base import Events, Executor, Outcome, ProgressEvent
from builder.build.prepared import creates, require_prepared, token_for
from builder.build.reader import listed
from builder.build.resume import Changed, is_empty, replace_dataset, settle
from builder.build.run_log import RunLog
from builder.build.shards import Shard, own_refs, weights_of
from builder.build.tracker_process import tracker_hosts
from builder.core.errors import ConfigError, FetchError, LettersetError, WorkerError
from builder.core.messages import count, left_out, noted
from builder.core.paths import is_url, without_passwords
from builder.core.result import Result
from builder.dataset import locks
from builder.dataset.far_output import FarOutput, far_output, run_writer
from builder.dataset.folder import META_NAME, DatasetWriter
from builder.dataset.index import keep_failures, writer_name
from builder.dataset.splits import source_splits, write_splits
from builder.dataset.window_table import keep_rows, update_window_stats
from builder.sources.base import EpisodeRef, Source
from builder.stores.atomic import leftovers
from builder.stores.filesystem import weaknesses
from builder.trackers.base import Tracker
from schemas.config import BuildConfig
from schemas.dataset import DatasetMeta, FailureLine

MAX_UNFETCHED = 10
"""Episodes in a row that could not be fetched, until it is clear that none will be."""


@dataclass
class Summary(Result):
    """How a build ended."""

    built: int = 0
    skipped: int = 0
    frames: int = 0
    seconds: float = 0.0
    failures: list[FailureLine] = field(default_factory=list)
    still: int = 0
    """Windows, of all episodes, that stand still and were not tracked."""
    notes: dict[str, int] = field(default_factory=dict)
    """What of the source was left out, and of how many episodes."""

    def lines(self) -> list[str]:
        """List failures, and what was left out."""
        return [*super().lines(), *noted(self.notes), *self.left_out()]

    def left_out(self) -> list[str]:
        """Say how many windows stand still, if any."""
        if not self.still:
            return []
        return [f"{count(self.still, 'window')} stood still and were not tracked"]

    def summary(self) -> str:
        """Count episodes and frames, and how fast they were built."""
        rate = self.frames / self.seconds if self.seconds else 0.0
        return (
            f"{count(self.built, 'episode')} built ({count(self.frames, 'frame')} in "
            f"{self.seconds:.1f} s, {rate:.0f} frames/s), {self.skipped} already there, "
            f"{len(self.failures)} failed"
        )

    @property
    def any_done(self) -> bool:
        """Whether any episode is there in the end."""
        return bool(self.built or self.skipped)

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON data."""
        failures = [failure.model_dump(mode="json") for failure in self.failures]
        return {**super().as_json(), "failures": failures}


def dataset_meta(config: BuildConfig, tracker: Tracker) -> DatasetMeta:
    """Describe the dataset a config makes."""
    part = config.tracker
    return DatasetMeta.seal(
        created_with=version("letterset"),
        img_shape=config.img_shape,
        horizon=part.horizon,
        start_every=part.start_every,
        mode=part.mode,
        queries=config.queries,
        tracker=tracker.info,
        config=config.content(),
    )


def prepare(
    config: BuildConfig,
    *,
    on_notice: Callable[[str], None] = lambda sentence: None,
    changed: Changed = "refuse",
) -> str:
    """Create the dataset of a config, or find it there, and build nothing of it.

    Returns the token by which shards on other hosts know its folder: their ``prepared``.  Raises
    ConfigError and OutputError as :func:`build` does.
    """
    out, meta = Path(config.store.path), dataset_meta(config, open_tracker(config))
    _move_replaced(out, meta, changed, on_notice)
    with DatasetWriter.create(out, meta):
        return token_for(out)


def build(
    config: BuildConfig,
    *,
    shard: Shard | None = None,
    prepared: str | None = None,
    on_event: Callable[[Outcome | ProgressEvent], None] = lambda event: None,
    on_start: Callable[[int, int], None] = lambda todo, done: None,
    on_notice: Callable[[str], None] = lambda sentence: None,
    on_weights: Callable[[Mapping[str, float]], None] = lambda weights: None,
    retry_failed: bool = False,
    changed: Changed = "refuse",
) -> Summary:
    """Build every episode of the source, or of one shard of it, that is not there yet.

    Where settings or sources of finished episodes ``changed`` since, the build is refused with
    the difference; ``overwrite`` builds such episodes again, ``append`` keeps those whose source
    changed as they are.  ``retry_failed`` tries what failed before, and forgets what is gone.
    ``prepared`` is the token that :func:`prepare` returned: HostError is raised, and nothing
    written, on a host whose folder is another one.

    ``on_start(to_do, already_done)``, ``on_event`` and ``on_notice`` (one sentence) let a
    caller show progress; ``on_weights`` gets the work of each episode to build, by path, in one
    unit for all (very many are not weighed: there are none then).  Bad sources are listed in the
    summary and in ``failures/``, the others are built.  Raises ConfigError before any work and
    OutputError when the output cannot be used.
    """
    if not isinstance(config, BuildConfig):
        raise ConfigError(  # before any of its parts is asked for
            f"build takes a BuildConfig, such as load_config(PATH) returns; got {config!r:.80}"
        )
    begun = time.monotonic()
    if prepared is not None:
        require_prepared(config.store.path, prepared)
    with _open(config, shard, changed, on_notice, prepared) as this:
        todo = this.settle(changed, retry_failed)
        on_start(len(todo), this.summary.skipped)
        weights = weights_of(todo, this.source)
        on_weights(weights)
        with RunLog(this.catalog.folder, writer_name(this.catalog.writer)) as log:
            counts = {"there": this.summary.skipped, "listed": this.listed}
            log.start(len(todo), weights, **counts, config=_recorded(config))
            with closing(this.run(todo)) as events:
                for event in events:
                    log.event(event)
                    on_event(event)
                    if this.far is not None:
                        this.far.push_now_and_then()
            this.finish()
            this.summary.seconds = time.monotonic() - begun
            log.summarize(this.summary.as_json())
    return this.summary


@contextmanager
def _open(
    config: BuildConfig,
    shard: Shard | None,
    changed: Changed,
    on_notice: Callable[[str], None],
    prepared: str | None,
) -> Iterator[_Build]:
    """Open all backends and the dataset's folder; tells what is worth knowing of them."""
    tracker = open_tracker(config)
    executor, own = open_executor(config.executor, config.limits)
    executor.on_notice = on_notice
    source = open_source(config)
    refs = listed(source, config.limits)
    there = len(refs)
    if shard is not None:
        if shard.count > len(refs):
            some = f"{shard.count} shards share {count(len(refs), 'episode')}"
            on_notice(f"{some}: some have nothing to do")
        refs = own_refs(refs, shard, source)
    url, meta = config.store.path, dataset_meta(config, tracker)
    # Nobody stands by a shard; what holds its lock may be its own process that is about to end.
    patience, writer = (locks.PATIENCE_SECONDS, shard.writer) if shard else (0.0, "main")
    with ExitStack() as stack:
        far = None
        if is_url(url):
            open_store(config)  # refuses what cannot be, before anything is put there
            far = stack.enter_context(far_output(url))
            far.check(meta)
            out, run = far.folder, run_writer(writer)
        else:
            out, run = Path(url), writer
            _move_replaced(out, meta, changed, on_notice)
            if shard is not None and prepared is None and not (out / META_NAME).exists():
                on_notice(creates(out))
        catalog = stack.enter_context(
            DatasetWriter.create(out, meta, run, patience=patience, on_notice=on_notice)
        )
        if far is not None:
            far.claim()
        stack.callback(source.clear)
        skipped = left_out(source.left_out()) if shard is None else None
        weak = weaknesses(catalog.folder) if far is None else []
        for sentence in filter(None, [tracker.notice, executor.notice, skipped, *weak]):
            on_notice(sentence)
        pinned = config.tracker.model_copy(update=dict(tracker.pins))
        config = config.model_copy(update={"tracker": pinned})
        whole = shard is None
        yield _Build(
            config, source, refs, tracker, executor, own, catalog, on_notice, whole, there, far
        )


def _recorded(config: BuildConfig) -> dict[str, Any]:
    """Return the config as a run records it: without the passwords of URLs."""
    data = config.model_dump()
    for part in ("source", "store"):
        data[part]["path"] = without_passwords(data[part]["path"])
    return data


def _move_replaced(
    out: Path, meta: DatasetMeta, changed: Changed, on_notice: Callable[[str], None]
) -> None:
    """Make way for a dataset of other settings, where that is asked for or nothing is lost."""
    anew = changed == "overwrite" or is_empty(out)
    if anew and (moved := replace_dataset(out, meta)):
        on_notice(f"the dataset of other settings is now {moved}; delete it if you do not need it")


@dataclass
class _Build:
    """A build under way.  ``whole``: of the source, which has ``listed``, not of a shard."""

    config: BuildConfig
    source: Source
    refs: list[EpisodeRef]
    tracker: Tracker
    executor: Executor
    executor_settings: Any
    catalog: DatasetWriter
    on_notice: Callable[[str], None]
    whole: bool
    listed: int
    far: FarOutput | None = None
    """The dataset at a URL that ``catalog`` is a part of."""
    summary: Summary = field(default_factory=Summary)
    again: set[str] = field(default_factory=set)
    """Ids of finished episodes that are built again."""
    _unfetched: int = 0
    """How many episodes in a row could not be fetched."""

    def settle(self, changed: Changed, retry_failed: bool) -> list[EpisodeRef]:
        """Compare what is there with what is wanted; returns what is to be built."""
        catalog, refs = self.catalog, self.refs
        root, store = self.config.source.path, open_store(self.config)
        done, again = settle(catalog, store, refs, root, changed, self.on_notice)
        self.again = again
        if retry_failed and self.whole:
            self._forget_gone()
        failed = {} if retry_failed else catalog.failures()
        self.summary.skipped = len(done) - len(again)
        self.summary.failures += [failed[ref.id] for ref in refs if ref.id in failed]
        return [ref for ref in refs if ref.id in again or not (ref.id in done or ref.id in failed)]

    def _forget_gone(self) -> None:
        """Drop failures of inputs that the source no longer has."""
        source, catalog = self.config.source, self.catalog
        if any(source.settings.get(key) for key in ("include", "exclude", "episodes")):
            return  # what was not asked for may still be there
        if gone := keep_failures(catalog.folder, catalog.writer, {ref.id for ref in self.refs}):
            self.on_notice(
                f"gone from {source.path}, so no longer listed as failed: "
                f"{count(len(gone), 'source')}"
            )

    def run(self, todo: list[EpisodeRef]) -> Events:
        """Build episodes in child processes; each outcome is recorded before it is yielded."""
        stall_seconds = self.config.limits.stall_seconds
        make_tracker = partial(open_tracker, self.config)
        with tracker_hosts(
            self.tracker, make_tracker, self.executor_settings, stall_seconds, self.on_notice
        ) as addresses:
            # Episodes take the tracker processes in turn.
            turns = itertools.cycle(addresses or [None])
            dataset = self.catalog.meta.digest
            # At a URL no folder is shared that another could be taken for.
            mark = self.catalog.lock.mark if self.far is None else None
            parts = ("source", "tracker", "store")
            placed = {key: for_workers(getattr(self.config, key), self.executor) for key in parts}
            config = self.config.model_copy(update=placed)
            jobs = (
                Job(config, ref, ref.id in self.again, next(turns), dataset, mark, ahead)
                for ref, ahead in zip(todo, self._ahead(todo), strict=True)
            )
            with closing(self.executor.run(build_episode, jobs)) as events:
                for event in events:
                    if isinstance(event, Outcome):
                        self._record(event)
                    yield event

    def _ahead(self, todo: list[EpisodeRef]) -> list[EpisodeRef | None]:
        """Return for each episode which one to fetch meanwhile: that which is begun next."""
        workers = self.executor.local_workers
        if not is_url(self.config.source.path) or workers is None:
            return [None] * len(todo)
        return [*todo[workers:], *[None] * min(workers, len(todo))]

    def _record(self, outcome: Outcome) -> None:
        """List an episode that was built, or why it was not."""
        catalog, summary, error = self.catalog, self.summary, outcome.error
        if error is None:
            built = outcome.result
            if self.far is None:
                store = open_store(self.config)
                locks.require_arrived(store, built.line.id, catalog.folder, built.worker)
            if built.rows is not None:
                keep_rows(catalog.folder, catalog.writer, built.line.digest, built.rows)
            catalog.add(built.line)
            summary.built += built.new
            self._unfetched = 0
            summary.skipped += not built.new
            summary.frames += built.frames if built.new else 0
            summary.still += sum(count for _, count in built.line.skipped)
            for note in built.notes:
                summary.notes[note] = summary.notes.get(note, 0) + 1
            return
        stage, reason = outcome.failure()
        if not isinstance(error, FetchError):
            self._unfetched = 0
        if isinstance(error, WorkerError):  # what it was writing takes space for nothing
            leftovers(catalog.folder / "tmp", remove=True)
        ref = outcome.task.ref
        failure = FailureLine(id=ref.id, path=ref.path, stage=stage, reason=reason)
        summary.failures.append(failure)
        if not isinstance(error, FetchError):
            catalog.fail(failure)
            return
        self._unfetched += 1
        if self._unfetched == MAX_UNFETCHED:
            raise LettersetError(
                f"{MAX_UNFETCHED} episodes in a row could not be fetched, the last since "
                f"{reason}. Run the same command again to go on; finished episodes are kept"
            )

    def finish(self) -> None:
        """Write what belongs to the dataset as a whole."""
        out, meta = self.catalog.folder, self.catalog.meta
        if self.summary.built and meta.has_tracks and meta.mode == "reinit":
            self._note_short(meta.horizon)
        if not self.whole:
            return
        if self.far is None:
            update_window_stats(out, self.on_notice)
        if given := [(ref.id, ref.splits) for ref in self.refs if ref.splits]:
            write_splits(out, "source", source_splits(given))

    def _note_short(self, horizon: int) -> None:
        """Note that no episode is as long as a window."""
        longest = max(line.length for line in self.catalog.index().values())
        if longest < horizon:
            self.on_notice(
                f"no episode has {horizon} frames, the longest has {longest}: every window ends in "
                "repeats of its last frame; see tracker.horizon"
            )
