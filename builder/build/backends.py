"""The backends that a build config names, constructed: in the parent and in its children."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from builder.build.executors.base import EXECUTORS, Executor
from builder.build.reader import apart
from builder.canvas.windows import EPISODE_HORIZON
from builder.core.errors import ConfigError
from builder.core.paths import is_url
from builder.sources.base import SOURCES, Source
from builder.sources.far import FarSource
from builder.sources.selected import Selected
from builder.sources.selection import Selection
from builder.sources.starter_config import with_kind
from builder.stores.base import STORES, Store
from builder.stores.far import FarStore
from builder.trackers.base import TRACKERS, Tracker
from builder.trackers.view_tracker import check_query_region
from schemas.config import BuildConfig, ExecutorPart, Limits, Part, SourcePart, TrackerPart
from schemas.dataset import DatasetMeta

P = TypeVar("P", bound=Part)


def settle_config(config: BuildConfig) -> tuple[BuildConfig, str | None]:
    """Fill in the kind of source, if none was stated, and check every part, before any work.

    Also returns why the kind is what it is.  Raises SourceError, ConfigError, MissingExtraError.
    """
    config, why = apart(with_kind, config, limits=config.limits)
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


def for_workers(part: P, executor: Executor) -> P:
    """Return a part whose paths mean the same to all workers: those elsewhere get absolute ones."""
    if executor.local_workers is not None:
        return part
    keys = ("weights", "folder") if isinstance(part, TrackerPart) else ("path",)
    given = ((key, getattr(part, key, None)) for key in keys)
    paths = {key: path for key, path in given if isinstance(path, str) and not is_url(path)}
    if isinstance(part, TrackerPart):
        paths = {key: os.path.expanduser(path) for key, path in paths.items()}
    return part.model_copy(update={key: str(Path(path).absolute()) for key, path in paths.items()})


def open_source(config: BuildConfig) -> Source:
    """Construct the configured source; raises ConfigError."""
    tracker = config.tracker
    return open_source_part(config.source, config.limits, window_steps(tracker))


def window_steps(of: TrackerPart | DatasetMeta) -> int:
    """Return how many frames a window has, in training at least."""
    return EPISODE_HORIZON if of.mode == "episode" else of.horizon


def open_source_part(part: SourcePart, limits: Limits, steps: int = 1) -> Source:
    """Construct a source from its own settings; raises ConfigError.

    Whoever lists its episodes says how many ``steps`` a window has: clips overlap by them.
    """
    make_source, own = SOURCES.configure(part)
    place: Path | str = Path(part.path)
    if is_url(part.path):
        if not hasattr(make_source, "wants"):
            raise ConfigError(
                f"{part.path}: source.kind={part.kind} reads local folders only; video files alone "
                "(source.kind=video) are read from a URL: copy the folder to a local disk"
            )
        place, make_source = part.path, partial(_far_source, make_source)
    source = make_source(place, own, limits)
    if not isinstance(own, Selection):
        return source
    return Selected(source, own, partial(_source, make_source, place, limits), steps)


def _far_source(make: Callable[..., Source], url: str, how: Selection, limits: Limits) -> Source:
    return FarSource(url, make, how, limits)


def _source(
    make: Callable[..., Source], place: Path | str, limits: Limits, how: Selection
) -> Source:
    return make(place, how, limits)


def open_tracker(config: BuildConfig) -> Tracker:
    """Construct the configured tracker; raises ConfigError."""
    make_tracker, own = TRACKERS.configure(config.tracker)
    tracker = make_tracker(own)
    check_query_region(tracker, config.tracker.kind, config.queries)
    return tracker


def open_store(config: BuildConfig) -> Store:
    """Construct the configured store; raises ConfigError."""
    make_store, _ = STORES.configure(config.store)
    if not is_url(config.store.path):
        return make_store(Path(config.store.path))
    if not hasattr(make_store, "metadata"):
        raise ConfigError(
            f"{config.store.path}: store.kind={config.store.kind} keeps an episode in several "
            "files, which no object store takes in one step: use store.kind=hdf5"
        )
    store: Any = FarStore(config.store.path, make_store)
    return store


def open_executor(part: ExecutorPart, limits: Limits) -> tuple[Executor, Any]:
    """Construct an executor; returns its own settings too.  Raises ConfigError."""
    make_executor, own = EXECUTORS.configure(part)
    return make_executor(own, part.workers, limits.stall_seconds), own
