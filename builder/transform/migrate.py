"""Older track files into format 1: same tracks, but with a geometry that says what they mean.

With the videos at hand an episode becomes complete: letterbox geometry and frames.  Without
them it keeps a plain ``Stretch`` from the tracked size.  The originals are only ever read.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import unquote_to_bytes

import numpy as np

from builder.build.resume import is_empty, replace_dataset
from builder.canvas.query_grid import query_points
from builder.core.errors import ConfigError, DatasetError, SourceError
from builder.core.messages import count
from builder.core.paths import episode_id, printable_path
from builder.core.records import checked_shape
from builder.core.result import Result
from builder.dataset.episodes import TrackedSize
from builder.dataset.folder import META_NAME, DatasetWriter, index_line, load_meta, read_index
from builder.dataset.legacy.dataset import (
    UNKNOWN_TRACKER,
    LegacyDataset,
    LegacyEpisode,
    query_spec,
    scan,
)
from builder.dataset.legacy.files import Layout, LegacyRef, Mode, checked_choice, mixture_of
from builder.dataset.legacy.sizes import GivenSizes, with_given_sizes
from builder.dataset.legacy.videos import Videos
from builder.stores.base import STORES
from builder.transform.migrate_episode import (
    QUERY_TOLERANCE_PX,
    MigratedView,
    Migration,
    migrate_episode,
    size_note,
)
from schemas.config import FrameStorage
from schemas.dataset import DatasetMeta, EpisodeMeta, FailureLine, QuerySpec, VisibilityRule
from schemas.geometry import Stretch
from schemas.legacy import PixelOrigin

Origin = Literal["corner", "center", "unknown"]

# Two compute, in numpy and SHA-256, while a third waits for the disk.
THREADS = 3

ORIGIN_NOTES = {
    "corner": "pixel origin: corner, as stored",
    "center": "pixel origin: was center, half a tracked pixel was added",
    "unknown": "pixel origin: unknown, taken as corner; points may be half a tracked pixel short",
}

UNKNOWN_ORIGIN = (
    "the pixel origin of these tracks is recorded as unknown, and they are not changed; for "
    "CoTracker's tracks give --pixel-origin center, which adds half a tracked pixel"
)


@dataclass(frozen=True)
class Move:
    """What becomes of one older file; ``path`` is relative to the older folder."""

    id: str
    path: str
    length: int
    views: dict[str, str] = field(default_factory=dict)
    """What each view's geometry rests on, in words."""
    frames: bool = False
    """Whether its frames are at hand."""
    notes: tuple[str, ...] = ()
    """What a user should know about its views."""
    done: bool = False
    """Whether an earlier run migrated it."""


@dataclass(frozen=True)
class Migrated(Result):
    """How a migration ended, or with ``dry_run`` what it would do; ``failures`` are by path."""

    out: str
    dry_run: bool
    img_shape: tuple[int, int]
    moves: tuple[Move, ...]
    failures: dict[str, str]
    notes: tuple[str, ...]

    @property
    def any_done(self) -> bool:
        """Whether any file is, or could be, migrated."""
        return bool(self.moves)

    def lines(self) -> list[str]:
        """Say what would become of each file; list failures and notes."""
        moves = [
            f"{move.path} -> {move.id} ({count(move.length, 'frame')}; "
            f"{'; '.join(f'{name}: {basis}' for name, basis in move.views.items())})"
            for move in self.moves
            if self.dry_run and not move.done
        ]
        return [*moves, *super().lines(), *(f"note: {note}" for note in self.notes)]

    def summary(self) -> str:
        """Count the episodes."""
        new = [move for move in self.moves if not move.done]
        return (
            f"{'would migrate' if self.dry_run else 'migrated'} {count(len(new), 'episode')} to "
            f"{self.out} ({sum(move.frames for move in new)} with frames), "
            f"{len(self.moves) - len(new)} were there, {len(self.failures)} failed"
        )


_Done = tuple[Move, EpisodeMeta | None]


def migrate(
    legacy: Path | str,
    out: Path | str,
    *,
    img_shape: tuple[int, int] | None = None,
    videos: Path | str | None = None,
    frame_step: int = 1,
    frames: FrameStorage | None = None,
    fps: float | None = None,
    pixel_origin: Origin = "unknown",
    tracked: GivenSizes | None = None,
    assume_img_shape: bool = False,
    layout: Layout | None = None,
    mode: Mode | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Migrated:
    """Migrate a folder of older files into a new, or half-done, dataset.

    ``img_shape`` (H, W) is the canvas; by default the tracked size, if there is only one.
    ``videos`` is a folder with the files' videos (see :class:`Videos`), of which every
    ``frame_step``-th frame was tracked; ATM files bring their own.  ``fps`` gives timestamps
    where there is no video.  ``pixel_origin`` says what the tracker meant by a coordinate:
    ``center`` (CoTracker) adds half a pixel, ``unknown`` changes nothing and is recorded.
    ``tracked`` gives the size of views that record none, (H, W) for all or a mapping of views to
    sizes; else the videos tell it.  A view whose size stays unknown fails, unless
    ``assume_img_shape`` puts ``img_shape`` in its place, which is recorded as an assumption.
    ``layout`` and ``mode`` are told by the files unless given.

    Bad files are listed and the others migrated; running again finishes the job.  Raises
    ConfigError before any work, DatasetError when there is nothing to migrate, OutputError
    when ``out`` cannot be written.
    """
    legacy, out = Path(legacy), Path(out)
    checked_choice("pixel_origin", pixel_origin, get_args(Origin))
    checked_choice("layout", layout, (None, *get_args(Layout)))
    checked_choice("mode", mode, (None, *get_args(Mode)))
    if fps is not None and not 0 < fps < math.inf:
        raise ConfigError(f"fps must be a number above 0, got {fps}")
    img_shape = img_shape and checked_shape(img_shape, "img_shape")
    if assume_img_shape and videos is not None:
        raise ConfigError("the videos tell the size that was tracked: nothing needs be assumed")
    if out.resolve() == legacy.resolve() or legacy.resolve() in out.resolve().parents:
        raise ConfigError(f"{out} lies in the older folder {legacy}: choose a place outside it")
    refs, problems = scan(legacy, layout, mode, "skip")
    refs = with_given_sizes(refs, tracked)
    if mixture := mixture_of(refs.values()):
        raise ConfigError(f"{mixture}: migrate them separately")
    shape = img_shape or _common_size(refs.values())
    if assume_img_shape:
        refs = {key: _assumed(ref, shape) for key, ref in refs.items()}
    origin: PixelOrigin = "center" if pixel_origin == "center" else "corner"
    dataset = LegacyDataset(legacy, refs, shape, origin, problems, max_open=1)
    films = Videos(Path(videos), frame_step) if videos is not None else None
    queries = _query_spec(dataset, out, films)
    migration = Migration(
        dataset=dataset,
        store=STORES.load("hdf5")(out),
        queries=queries or dataset.meta.queries,
        videos=films,
        frames=frames or FrameStorage(),
        notes=(ORIGIN_NOTES[pixel_origin],),
        fps=fps,
    )
    given: dict[str, Any] = {
        "fps": fps,
        "frame_step": frame_step if videos and frame_step > 1 else None,
    }
    meta, failures = _dataset_meta(migration, pixel_origin, given), dict(problems)
    # dataset.json never changes: it is not written before a file can be read.
    writes = queries is not None and not dry_run
    moves = _migrate_files(migration, out, meta if writes else None, failures, on_progress)
    return Migrated(
        out=str(out),
        dry_run=dry_run,
        img_shape=shape,
        moves=tuple(moves),
        failures=failures,
        notes=(*_told(moves), *((UNKNOWN_ORIGIN,) if pixel_origin == "unknown" else ())),
    )


def _migrate_files(
    migration: Migration,
    out: Path,
    meta: DatasetMeta | None,
    failures: dict[str, str],
    on_progress: Callable[[int, int], None],
) -> list[Move]:
    """Migrate what is not there yet; without ``meta`` only say what would become of it.

    Files that cannot be migrated join ``failures``, reasons by path, which are listed with them.
    """
    refs, writes = migration.dataset.refs, meta is not None
    if meta is not None and is_empty(out):  # a first run failed for want of sizes, say
        replace_dataset(out, meta)
    with ExitStack() as stack:
        catalog = stack.enter_context(DatasetWriter.create(out, meta)) if meta else None
        if catalog is not None:
            migration = replace(migration, description=catalog.meta.digest)
        done = {key for key in read_index(out) if migration.store.has(key)}
        moves = []
        for key in (key for key in refs if key in done):
            path = printable_path(refs[key].relative)
            if changed := _changed_size(migration, refs[key]):
                failures[path] = changed
            else:
                moves.append(Move(key, path, refs[key].length, done=True))
        todo = [ref for key, ref in refs.items() if key not in done]
        results = stack.enter_context(closing(_in_order(migration, writes, todo)))
        for number, (ref, future) in enumerate(results):
            on_progress(number, len(todo))
            try:
                move, episode = future.result()
                if catalog is not None and episode is not None:
                    catalog.add(index_line(episode))
                moves.append(move)
            except (DatasetError, SourceError) as error:
                failures[printable_path(ref.relative)] = str(error)
        on_progress(len(todo), len(todo))
        if catalog is not None:
            for path, reason in failures.items():
                key = episode_id(unquote_to_bytes(path))  # what the id is made of
                catalog.fail(FailureLine(id=key, path=path, stage="open", reason=reason))
    return moves


def _changed_size(migration: Migration, ref: LegacyRef) -> str | None:
    """Say that a file was migrated with another size than is given now; None when it was not."""
    given = {name: size for name, size in ref.sizes.items() if size.origin in ("given", "assumed")}
    if not given:
        return None
    with closing(migration.store.open(ref.id)) as reader:
        for name, size in given.items():
            if size_note(size, ref.layout) not in reader.meta.view(name).notes:
                return (
                    f"view {name} was migrated before, with another tracked size than is given "
                    f"now: migrate into a new folder to change it"
                )
    return None


def _in_order(
    migration: Migration, writes: bool, refs: list[LegacyRef]
) -> Generator[tuple[LegacyRef, Future[_Done]]]:
    """Migrate a few files at a time: while one waits for the disk another is hashed."""
    pool = ThreadPoolExecutor(THREADS)
    pending: deque[tuple[LegacyRef, Future[_Done]]] = deque()
    try:
        for ref in refs:
            pending.append((ref, pool.submit(_migrate_one, migration, writes, ref)))
            if len(pending) > THREADS:
                yield pending.popleft()
        yield from pending
    finally:  # early when one of them, or the user, ended the run
        migration.stopped.set()
        pool.shutdown(cancel_futures=True)


def _migrate_one(migration: Migration, writes: bool, ref: LegacyRef) -> _Done:
    # Opening the views checks what can be checked before anything is written.
    shape, origin = migration.dataset.img_shape, migration.dataset.pixel_origin
    episode = LegacyEpisode.of(ref, shape, origin, migration.videos)
    ref = episode.ref
    views = [MigratedView(migration, ref, episode, name) for name in ref.sizes]
    basis = {view.name: view.basis for view in views}
    frames = any(view.stream is not None for view in views)
    notes = tuple(note for view in views for note in view.notes)
    move = Move(ref.id, printable_path(ref.relative), ref.length, basis, frames, notes)
    return move, migrate_episode(migration, ref, views) if writes else None


def _common_size(refs: Iterable[LegacyRef]) -> tuple[int, int]:
    sizes = {size for ref in refs for size in ref.tracked.values()}
    if len(sizes) != 1 or (size := sizes.pop()) is None:
        raise ConfigError(
            "the files do not all record one tracked size: give img_shape (--img-shape "
            "H W), that of the training configuration"
        )
    return size


def _told(moves: list[Move]) -> list[str]:
    """List what is to be told of the files, each note once, with the number of its files."""
    notes = Counter(note for move in moves for note in dict.fromkeys(move.notes))
    return [f"{count(number, 'file')}: {note}" for note, number in notes.items()]


def _assumed(ref: LegacyRef, shape: tuple[int, int]) -> LegacyRef:
    sizes = {
        name: TrackedSize(shape, "assumed") if size.shape is None else size
        for name, size in ref.sizes.items()
    }
    return replace(ref, sizes=sizes)


def _query_spec(dataset: LegacyDataset, out: Path, videos: Videos | None) -> QuerySpec | None:
    """Recognize the grid of the first file; ``stored`` when another file has it elsewhere.

    Points that are not exactly on a grid are kept where they are.  What a dataset at ``out``
    records stays.  None when no file can be read.
    """
    if (out / META_NAME).exists():
        return load_meta(out).queries
    found, img_shape = None, dataset.img_shape
    flat = Stretch(source_shape=img_shape, img_shape=img_shape)
    for ref in dataset.refs.values():
        if found is not None and any(size.origin == "unknown" for size in ref.sizes.values()):
            continue  # one look at a video will do
        try:
            opened = LegacyEpisode.of(ref, img_shape, dataset.pixel_origin, videos)
        except (DatasetError, SourceError):
            continue
        for queries in (np.asarray(view.queries) for view in opened.views.values()):
            spec = query_spec(queries, img_shape)
            if found is not None and spec.grid != found.grid:
                continue  # no grid at all: it is refused by name
            found = spec.model_copy(update={"region": "content"})
            if np.abs(query_points(found, flat) - queries).max() > QUERY_TOLERANCE_PX:
                return spec.model_copy(update={"region": "stored"})
    return found


def _dataset_meta(migration: Migration, pixel_origin: Origin, given: dict[str, Any]) -> DatasetMeta:
    """Say what the episodes share; ``given`` holds options whose values a next run must repeat."""
    dataset = migration.dataset
    rule = VisibilityRule(rule="vis of the older files", threshold=0.5, unit="vis", sticky=False)
    settings = {"pixel_origin": pixel_origin}
    tracker = UNKNOWN_TRACKER.model_copy(update={"settings": settings, "visibility": rule})
    return DatasetMeta.seal(
        created_with=version("letterset"),
        img_shape=dataset.img_shape,
        horizon=dataset.meta.horizon,
        start_every=1,
        mode=dataset.meta.mode,
        queries=migration.queries,
        tracker=tracker,
        config={
            "migrated": {
                "pixel_origin": pixel_origin,
                "videos": migration.videos is not None,
                "frames": migration.frames.model_dump(mode="json"),
                **{key: value for key, value in given.items() if value is not None},
            }
        },
    )
