"""The backends that a build config names, constructed: in the parent and in its children."""

from pathlib import Path
from typing import Any

from builder.build.executors.base import EXECUTORS, Executor
from builder.sources.base import SOURCES, Source
from builder.sources.selection import Selected, Selection
from builder.sources.starter_config import with_kind
from builder.stores.base import STORES, Store
from builder.trackers.base import TRACKERS, Tracker
from builder.trackers.view_tracker import check_query_region
from schemas.config import BuildConfig, ExecutorPart, Limits, SourcePart


def settle_config(config: BuildConfig) -> tuple[BuildConfig, str | None]:
    """Fill in the kind of source, if none was stated, and check every part, before any work.

    Also returns why the kind is what it is.  Raises SourceError, ConfigError, MissingExtraError.
    """
    config, why = with_kind(config)
    check_backends(config)
    return config, why


def check_backends(config: BuildConfig) -> None:
    """Validate every part against its backend's own model.

    Raises ConfigError, MissingExtraError.
    """
    SOURCES.configure(config.source)
    TRACKERS.configure(config.tracker)
    STORES.configure(config.store)
    EXECUTORS.configure(config.executor)


def open_source(config: BuildConfig) -> Source:
    """Construct the configured source; raises ConfigError."""
    return open_source_part(config.source, config.limits)


def open_source_part(part: SourcePart, limits: Limits) -> Source:
    """Construct a source from its own settings; raises ConfigError."""
    make_source, own = SOURCES.configure(part)
    source = make_source(Path(part.path), own, limits)
    return Selected(source, own) if isinstance(own, Selection) else source


def open_tracker(config: BuildConfig) -> Tracker:
    """Construct the configured tracker; raises ConfigError."""
    make_tracker, own = TRACKERS.configure(config.tracker)
    tracker = make_tracker(own)
    check_query_region(tracker, config.tracker.kind, config.queries)
    return tracker


def open_store(config: BuildConfig) -> Store:
    """Construct the configured store; raises ConfigError."""
    make_store, _ = STORES.configure(config.store)
    return make_store(Path(config.store.path))


def open_executor(part: ExecutorPart, limits: Limits) -> tuple[Executor, Any]:
    """Construct an executor; returns its own settings too.  Raises ConfigError."""
    make_executor, own = EXECUTORS.configure(part)
    return make_executor(own, part.workers, limits.stall_seconds), own
