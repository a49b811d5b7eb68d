"""A build: every episode of a source that is not there yet, each in a child process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builder.build.backends import open_executor, open_source, open_store, open_tracker
from builder.build.episode import Job, build_episode
from builder.build.executors.base import Events, Executor, Outcome, ProgressEvent
from builder.build.resume import Changed, replace_dataset, replacing, settle
from builder.build.run_log import RunLog
from builder.build.shards import Shard, own_refs
from builder.build.tracker_process import tracker_hosts
from builder.core.errors import ConfigError, OutputError, SourceError, WorkerError
from builder.core.messages import count
from builder.core.result import Result
from builder.dataset.folder import DatasetWriter
from builder.dataset.index import keep_failures
from builder.dataset.splits import source_splits, write_splits
from builder.dataset.window_table import keep_rows, update_window_stats
from builder.sources.base import EpisodeRef, Source
from builder.stores.atomic import leftovers
from builder.stores.filesystem import weaknesses
from builder.trackers.base import Tracker
from schemas.config import BuildConfig
from schemas.dataset import DatasetMeta, FailureLine


@dataclass
class Summary(Result):
    """How a build ended."""

    built: int = 0
    skipped: int = 0
    frames: int = 0
    seconds: float = 0.0
    failures: list[FailureLine] = field(default_factory=list)

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


def build(
    config: BuildConfig,
    *,
    shard: Shard | None = None,
    on_event: Callable[[Outcome | ProgressEvent], None] = lambda event: None,
    on_start: Callable[[int, int], None] = lambda todo, done: None,
    on_notice: Callable[[str], None] = lambda sentence: None,
    retry_failed: bool = False,
    changed: Changed = "refuse",
) -> Summary:
    """Build every episode of the source, or of one shard of it, that is not there yet.

    Where settings or sources of finished episodes ``changed`` since, the build is refused with
    the difference; ``overwrite`` builds such episodes again, ``append`` keeps those whose source
    changed as they are.  ``retry_failed`` tries what failed before, and forgets what is gone.

    ``on_start(to_do, already_done)``, ``on_event`` and ``on_notice`` (one sentence) let a
    caller show progress.  Bad sources are listed in the summary and in ``failures/``, the
    others are built.  Raises ConfigError before any work and OutputError when the output
    cannot be used.
    """
    begun = time.monotonic()
    with _open(config, shard, changed, on_notice) as this:
        todo = this.settle(changed, retry_failed)
        on_start(len(todo), this.summary.skipped)
        with RunLog(this.catalog.folder, this.catalog.writer) as log:
            log.start(todo=len(todo), there=this.summary.skipped, config=config.model_dump())
            with closing(this.run(todo)) as events:
                for event in events:
                    log.event(event)
                    on_event(event)
            this.finish()
            this.summary.seconds = time.monotonic() - begun
            log.summarize(this.summary.as_json())
    return this.summary


@contextmanager
def _open(
    config: BuildConfig, shard: Shard | None, changed: Changed, on_notice: Callable[[str], None]
) -> Iterator[_Build]:
    """Open all backends and the dataset's folder; tells what is worth knowing of them."""
    tracker = open_tracker(config)
    executor, own = open_executor(config.executor, config.limits)
    source = open_source(config)
    refs = list(source.refs())
    if shard is not None:
        if shard.count > len(refs):
            some = f"{shard.count} shards share {count(len(refs), 'episode')}"
            on_notice(f"{some}: some have nothing to do")
        refs = own_refs(refs, shard, source)
    out, meta = Path(config.store.path), dataset_meta(config, tracker)
    if changed == "overwrite" and (moved := replace_dataset(out, meta)):
        on_notice(f"the dataset of other settings is now {moved}; delete it if you do not need it")
    with DatasetWriter.create(out, meta, shard.writer if shard else "main") as catalog:
        notices = [tracker.notice, executor.notice, *weaknesses(catalog.folder)]
        for sentence in filter(None, notices):
            on_notice(sentence)
        yield _Build(
            config, source, refs, tracker, executor, own, catalog, on_notice, shard is None
        )


@dataclass
class _Build:
    """A build under way.  ``whole``: of the whole source, not of a shard."""

    config: BuildConfig
    source: Source
    refs: list[EpisodeRef]
    tracker: Tracker
    executor: Executor
    executor_settings: Any
    catalog: DatasetWriter
    on_notice: Callable[[str], None]
    whole: bool
    summary: Summary = field(default_factory=Summary)
    again: set[str] = field(default_factory=set)
    """Ids of finished episodes that are built again."""

    def settle(self, changed: Changed, retry_failed: bool) -> list[EpisodeRef]:
        """Compare what is there with what is wanted; returns what is to be built."""
        catalog, refs = self.catalog, self.refs
        root, store = Path(self.config.source.path), open_store(self.config)
        done, again = settle(catalog, store, refs, self.source, root, changed, self.on_notice)
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
            jobs = (Job(self.config, ref, ref.id in self.again, next(turns)) for ref in todo)
            with closing(self.executor.run(build_episode, jobs)) as events:
                for event in events:
                    if isinstance(event, Outcome):
                        self._record(event)
                    yield event

    def _record(self, outcome: Outcome) -> None:
        """List an episode that was built, or why it was not."""
        catalog, summary, error = self.catalog, self.summary, outcome.error
        if error is None:
            built = outcome.result
            if built.rows is not None:
                keep_rows(catalog.folder, catalog.writer, built.line.digest, built.rows)
            catalog.add(built.line)
            summary.built += built.new
            summary.skipped += not built.new
            summary.frames += built.frames if built.new else 0
            return
        if isinstance(error, OutputError | ConfigError):
            # Every further episode would meet the same.
            raise error
        if isinstance(error, WorkerError):  # what it was writing takes space for nothing
            leftovers(catalog.folder / "tmp", remove=True)
        ref = outcome.task.ref
        if isinstance(error, SourceError):
            stage, reason = error.stage, str(error)
        else:
            stage = "internal"
            reason = f"{type(error).__name__}: {error} (a bug in letterset; please report it)"
        failure = FailureLine(id=ref.id, path=ref.path, stage=stage, reason=reason)
        catalog.fail(failure)
        summary.failures.append(failure)

    def finish(self) -> None:
        """Write what belongs to the dataset as a whole."""
        out, meta = self.catalog.folder, self.catalog.meta
        replacing(out).unlink(missing_ok=True)
        if self.summary.built and meta.has_tracks and meta.mode == "reinit":
            self._note_short(meta.horizon)
        if not self.whole:
            return
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
