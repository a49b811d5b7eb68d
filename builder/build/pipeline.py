"""A build: every episode of a source that is not there yet, each in a child process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builder.build.episode import (
    Job,
    build_episode,
    open_executor,
    open_source,
    open_store,
    open_tracker,
)
from builder.build.executors.base import Outcome, ProgressEvent
from builder.build.resume import Changed, replace_dataset, replacing, settle
from builder.build.run_log import RunLog
from builder.build.shards import Shard, own_refs
from builder.build.tracker_process.host import tracker_hosts
from builder.core.errors import ConfigError, OutputError, SourceError, WorkerError
from builder.core.messages import count
from builder.dataset.folder import DatasetWriter
from builder.dataset.journal import keep_failures
from builder.dataset.splits import source_splits, write_splits
from builder.dataset.window_table import keep_rows, update_window_stats
from builder.sources.base import EpisodeRef, Source
from builder.stores.atomic import leftovers
from builder.stores.filesystem import weaknesses
from builder.trackers.base import Tracker
from schemas.config import BuildConfig
from schemas.dataset import DatasetMeta, FailureLine


@dataclass
class Summary:
    """How a build ended."""

    built: int = 0
    skipped: int = 0
    frames: int = 0
    seconds: float = 0.0
    failures: list[FailureLine] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 all good, 1 some inputs failed, 3 nothing could be built."""
        if not self.failures:
            return 0
        return 1 if self.built or self.skipped else 3

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON data."""
        failures = [failure.model_dump(mode="json") for failure in self.failures]
        return {**asdict(self), "failures": failures}


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
    tracker = open_tracker(config)
    executor, own = open_executor(config.executor, config.limits)
    source = open_source(config)
    refs = _refs(source, shard, on_notice)
    writer = shard.writer if shard else "main"
    out, meta = Path(config.store.path), dataset_meta(config, tracker)
    if changed == "overwrite" and (moved := replace_dataset(out, meta)):
        on_notice(f"the dataset of other settings is now {moved}; delete it when it is not needed")
    with DatasetWriter.create(out, meta, writer) as catalog:
        notices = [getattr(each, "notice", None) for each in (tracker, executor)]
        for sentence in filter(None, [*notices, *weaknesses(catalog.folder)]):
            on_notice(sentence)
        root, store = Path(config.source.path), open_store(config)
        done, again = settle(catalog, store, refs, source, root, changed, on_notice)
        if retry_failed and shard is None:
            _forget_gone(catalog, config, refs, on_notice)
        failed = {} if retry_failed else catalog.failures()
        todo = [ref for ref in refs if ref.id in again or not (ref.id in done or ref.id in failed)]
        summary = Summary(skipped=len(done) - len(again))
        summary.failures += [failed[ref.id] for ref in refs if ref.id in failed]
        on_start(len(todo), summary.skipped)
        with RunLog(catalog.folder, writer) as log:
            log.start(todo=len(todo), there=summary.skipped, config=config.model_dump())
            make = partial(open_tracker, config)
            hosts = tracker_hosts(tracker, make, own, config.limits.stall_seconds, on_notice)
            with hosts as addresses:
                # Episodes take the tracker processes in turn.
                turns = itertools.cycle(addresses or [None])
                jobs = (Job(config, ref, ref.id in again, next(turns)) for ref in todo)
                with closing(executor.run(build_episode, jobs)) as events:
                    for event in events:
                        if isinstance(event, Outcome):
                            _record(event, catalog, summary)
                        log.event(event)
                        on_event(event)
            replacing(out).unlink(missing_ok=True)
            if summary.built and meta.has_tracks and meta.mode == "reinit":
                _note_short(catalog, on_notice)
            if shard is None:
                update_window_stats(out, on_notice)
            summary.seconds = time.monotonic() - begun
            log.summarize(summary.as_json())
        given = [(ref.id, ref.splits) for ref in refs if ref.splits]
        if given and shard is None:
            write_splits(catalog.folder, "source", source_splits(given))
    return summary


def _refs(
    source: Source, shard: Shard | None, on_notice: Callable[[str], None]
) -> list[EpisodeRef]:
    refs = list(source.refs())
    if shard is None:
        return refs
    if shard.count > len(refs):
        on_notice(
            f"{shard.count} shards share {count(len(refs), 'episode')}: some have nothing to do"
        )
    return own_refs(refs, shard, source)


def _forget_gone(
    catalog: DatasetWriter,
    config: BuildConfig,
    refs: list[EpisodeRef],
    on_notice: Callable[[str], None],
) -> None:
    """Drop failures of what the source has no more, such as a file that was removed or mended."""
    if any(config.source.settings.get(key) for key in ("include", "exclude", "episodes")):
        return  # what was not asked for may still be there
    if gone := keep_failures(catalog.folder, catalog.writer, {ref.id for ref in refs}):
        found = count(len(gone), "source")
        on_notice(f"gone from {config.source.path}, so no longer listed as failed: {found}")


def _note_short(catalog: DatasetWriter, on_notice: Callable[[str], None]) -> None:
    """Note that no window is whole."""
    horizon = catalog.meta.horizon
    longest = max(line.length for line in catalog.index().values())
    if longest < horizon:
        on_notice(
            f"no episode has {horizon} frames, the longest has {longest}: every window ends in "
            "repeats of its last frame; see tracker.horizon"
        )


def _record(outcome: Outcome, catalog: DatasetWriter, summary: Summary) -> None:
    error = outcome.error
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
