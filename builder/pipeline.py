"""A build: every episode of a source that is not there yet, each in a child process."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builder.catalog import Catalog, index_line
from builder.episode import Job, build_episode, open_source, open_store, open_tracker
from builder.errors import ConfigError, OutputError, SourceError
from builder.executors.base import Outcome, Progress
from builder.registry import configure
from builder.runs import run_facts
from builder.sources.base import EpisodeRef
from builder.stores.base import Store
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
    on_event: Callable[[Outcome | Progress], None] = lambda event: None,
    on_start: Callable[[int, int], None] = lambda todo, done: None,
    on_notice: Callable[[str], None] = lambda sentence: None,
    retry_failed: bool = False,
) -> Summary:
    """Build every episode of the source that is not there yet.

    ``on_start(to_do, already_done)``, ``on_event`` and ``on_notice`` (one sentence) let a
    caller show progress.  Bad sources are listed in the summary and in ``failures/``, the
    others are built.  Raises ConfigError before any work and OutputError when the output
    cannot be used.
    """
    begun = time.monotonic()
    tracker = open_tracker(config)
    meta = dataset_meta(config, tracker)
    if tracker.notice:
        on_notice(tracker.notice)
    refs = list(open_source(config).refs())
    with Catalog.create(Path(config.store.path), meta) as catalog:
        _adopt(catalog, open_store(config), refs)
        done = catalog.index()
        failed = {} if retry_failed else catalog.failures()
        jobs = [Job(config, ref) for ref in refs if ref.id not in done and ref.id not in failed]
        summary = Summary(skipped=sum(ref.id in done for ref in refs))
        summary.failures += [failed[ref.id] for ref in refs if ref.id in failed]
        on_start(len(jobs), summary.skipped)
        found, own = configure("executors", config.executor)
        executor = found(own, config.executor.workers, config.limits.stall_seconds)
        with closing(executor.run(build_episode, jobs)) as events:
            for event in events:
                if isinstance(event, Outcome):
                    _record(event, catalog, summary)
                on_event(event)
        summary.seconds = time.monotonic() - begun
        catalog.write_run({**run_facts(), **summary.as_json(), "config": config.model_dump()})
    return summary


def _adopt(catalog: Catalog, store: Store, refs: list[EpisodeRef]) -> None:
    """List episodes that a killed run committed but did not get to list."""
    done = catalog.index()
    for ref in refs:
        if ref.id not in done and store.has(ref.id):
            with closing(store.open(ref.id)) as episode:
                catalog.add(index_line(episode.meta))


def _record(outcome: Outcome, catalog: Catalog, summary: Summary) -> None:
    error = outcome.error
    if error is None:
        catalog.add(outcome.result)
        summary.built += 1
        summary.frames += outcome.result.length * len(outcome.result.views)
        return
    if isinstance(error, OutputError | ConfigError):
        # Every further episode would meet the same.
        raise error
    ref = outcome.task.ref
    if isinstance(error, SourceError):
        stage, reason = error.stage, str(error)
    else:
        stage = "internal"
        reason = f"{type(error).__name__}: {error} (a bug in letterset; please report it)"
    failure = FailureLine(id=ref.id, path=ref.path, stage=stage, reason=reason)
    catalog.fail(failure)
    summary.failures.append(failure)
