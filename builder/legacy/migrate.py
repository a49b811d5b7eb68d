"""Older track files into format 1: same tracks, but with a geometry that says what they mean.

With the videos at hand an episode becomes complete: letterbox geometry and frames.  Without
them it keeps a plain ``Stretch`` from the tracked size.  The originals are only ever read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from builder.catalog import Catalog, index_line, read_index
from builder.errors import ConfigError, DatasetError, SourceError
from builder.ids import episode_id, printable_path
from builder.legacy.dataset import UNKNOWN_TRACKER, LegacyDataset, guess_queries, scan
from builder.legacy.files import Layout, LegacyRef, Mode
from builder.legacy.migrate_episode import (
    QUERY_TOLERANCE_PX,
    Migration,
    frames_of,
    migrate_episode,
)
from builder.legacy.videos import Videos
from builder.queries import query_points
from builder.registry import backend
from schemas.base import Record, Shape
from schemas.config import FrameStorage
from schemas.dataset import DatasetMeta, FailureLine, QuerySpec, VisibilityRule
from schemas.geometry import Stretch
from schemas.legacy import PixelOrigin

Origin = Literal["corner", "center", "unknown"]

ORIGIN_NOTES = {
    "corner": "pixel origin: corner, as stored",
    "center": "pixel origin: was center, half a tracked pixel was added",
    "unknown": "pixel origin: unknown, taken as corner; points may be half a tracked pixel short",
}


class Move(Record):
    """What becomes of one older file."""

    id: str
    path: str = Field(description="relative to the older folder")
    length: int
    views: dict[str, str] = Field(description="what each view's geometry rests on, in words")
    frames: bool = Field(description="whether its frames are at hand")
    done: bool = Field(default=False, description="it was migrated before")


class MigrationReport(Record):
    """A migration, or what it would do."""

    out: str
    dry_run: bool
    img_shape: Shape
    moves: tuple[Move, ...]
    failures: dict[str, str]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 all good, 1 some files failed, 3 none could be migrated."""
        return 0 if not self.failures else 1 if self.moves else 3

    def text(self) -> str:
        """Return the report for people."""
        new = [move for move in self.moves if not move.done]
        lines = []
        for move in new if self.dry_run else ():
            views = "; ".join(f"{name}: {basis}" for name, basis in move.views.items())
            lines.append(f"{move.path} -> {move.id} ({move.length} frames; {views})")
        lines += [f"FAILED {path}: {reason}" for path, reason in self.failures.items()]
        lines += [f"note: {note}" for note in self.notes]
        lines.append(
            f"{'would migrate' if self.dry_run else 'migrated'} {len(new)} episodes to {self.out} "
            f"({sum(move.frames for move in new)} with frames), "
            f"{len(self.moves) - len(new)} were there, {len(self.failures)} failed"
        )
        return "\n".join(lines)


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
    tracked: tuple[int, int] | None = None,
    layout: Layout | None = None,
    mode: Mode | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> MigrationReport:
    """Migrate a folder of older files into a new, or half-done, dataset.

    ``img_shape`` (H, W) is the canvas; by default the tracked size, if there is only one.
    ``videos`` is a folder with the files' videos (see :class:`Videos`), of which every
    ``frame_step``-th frame was tracked; ATM files bring their own.  ``fps`` gives timestamps
    where there is no video.  ``pixel_origin`` says what the tracker meant by a coordinate:
    ``center`` (CoTracker) adds half a pixel, ``unknown`` changes nothing and is recorded.
    ``tracked`` (H, W) is taken for views that record no size.

    Bad files are listed and the others migrated; running again finishes the job.  Raises
    ConfigError before any work, DatasetError when there is nothing to migrate, OutputError
    when ``out`` cannot be written.
    """
    legacy, out = Path(legacy), Path(out)
    if out.resolve() == legacy.resolve() or legacy.resolve() in out.resolve().parents:
        raise ConfigError(f"{out} lies in the older folder {legacy}: choose a place outside it")
    refs, problems = scan(legacy, layout, mode, "skip")
    if tracked is not None:
        refs = {key: _sized(ref, tracked) for key, ref in refs.items()}
    _refuse_mixture(refs.values())
    shape = img_shape or _common_size(refs.values())
    origin: PixelOrigin = "center" if pixel_origin == "center" else "corner"
    dataset = LegacyDataset(legacy, refs, shape, origin, problems, max_open=1)
    migration = Migration(
        dataset=dataset,
        store=backend("stores", "hdf5")(out),
        queries=_query_spec(dataset),
        videos=Videos(Path(videos), frame_step) if videos is not None else None,
        frames=frames or FrameStorage(),
        notes=(ORIGIN_NOTES[pixel_origin],),
        fps=fps,
    )
    failures = dict(problems)
    moves: list[Move] = []
    with ExitStack() as stack:
        meta = _dataset_meta(migration, pixel_origin)
        catalog = None if dry_run else stack.enter_context(Catalog.create(out, meta))
        done = read_index(out)
        for number, ref in enumerate(refs.values()):
            on_progress(number, len(refs))
            try:
                move = _move(migration, ref, ref.id in done)
                if catalog is not None and not move.done:
                    catalog.add(index_line(migrate_episode(migration, ref)))
                moves.append(move)
            except (DatasetError, SourceError) as error:
                failures[printable_path(ref.relative)] = str(error)
        if catalog is not None:
            for path, reason in failures.items():
                catalog.fail(_failure(path, reason))
    return MigrationReport(
        out=str(out),
        dry_run=dry_run,
        img_shape=shape,
        moves=tuple(moves),
        failures=failures,
        notes=dataset.notes,
    )


def _move(migration: Migration, ref: LegacyRef, done: bool) -> Move:
    """Say what a file becomes; raises what would keep it from being migrated."""
    views, frames = {}, False
    for name, tracked in ref.tracked.items():
        stream = None if done else frames_of(migration, ref, migration.dataset[ref.id].views[name])
        frames = frames or stream is not None
        if stream is not None:
            height, width = stream.info.source_shape
            views[name] = f"letterbox of {height} x {width}, with frames"
        else:
            height, width = tracked or migration.dataset.img_shape
            views[name] = f"stretch of {height} x {width}, no frames"
    return Move(
        id=ref.id,
        path=printable_path(ref.relative),
        length=ref.length,
        views=views,
        frames=frames,
        done=done,
    )


def _sized(ref: LegacyRef, tracked: tuple[int, int]) -> LegacyRef:
    return replace(ref, tracked={name: size or tracked for name, size in ref.tracked.items()})


def _refuse_mixture(refs: Iterable[LegacyRef]) -> None:
    kinds: dict[tuple[str, int | None, int], LegacyRef] = {}
    for ref in refs:
        horizon = ref.horizon if ref.mode == "reinit" else None
        kinds.setdefault((ref.mode, horizon, ref.points), ref)
    if len(kinds) > 1:
        found = "; ".join(f"{kind} in {ref.relative}" for kind, ref in kinds.items())
        raise ConfigError(
            f"a dataset has one mode, horizon and number of points, got {found}: "
            f"migrate them separately"
        )


def _common_size(refs: Iterable[LegacyRef]) -> tuple[int, int]:
    sizes = {size for ref in refs for size in ref.tracked.values()}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is None:
        raise ConfigError(
            "the files do not all record one tracked size: give img_shape, the (H, W) of the "
            "training configuration"
        )
    return size


def _query_spec(dataset: LegacyDataset) -> QuerySpec:
    """Recognize the grid; points that are not exactly on it are kept as they are."""
    spec = dataset.meta.queries
    for ref in dataset.refs.values():
        try:
            view = dataset[ref.id].views[next(iter(ref.tracked))]
        except DatasetError:
            continue
        queries, img_shape = np.asarray(view.queries), dataset.img_shape
        guess = guess_queries(queries, img_shape)
        if guess is None:
            return QuerySpec(grid=(len(queries), 1), region="stored")
        flat = Stretch(source_shape=img_shape, img_shape=img_shape)
        exact = np.abs(query_points(guess, flat) - queries).max() <= QUERY_TOLERANCE_PX
        return QuerySpec(grid=guess.grid, region="content" if exact else "stored")
    return spec


def _dataset_meta(migration: Migration, pixel_origin: Origin) -> DatasetMeta:
    dataset = migration.dataset
    tracker = UNKNOWN_TRACKER.model_copy(
        update={
            "settings": {"pixel_origin": pixel_origin},
            "visibility": VisibilityRule(
                rule="vis of the older files", threshold=0.5, unit="vis", sticky=False
            ),
        }
    )
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
            }
        },
    )


def _failure(path: str, reason: str) -> FailureLine:
    return FailureLine(id=episode_id(path), path=path, stage="open", reason=reason)
