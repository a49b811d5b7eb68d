"""One older file, written as an episode of format 1."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np

from builder.canvas.letterbox import Letterboxer
from builder.canvas.query_grid import grid_span, query_points
from builder.core.errors import DatasetError
from builder.core.paths import printable_path
from builder.dataset.episodes import EpisodeData, TrackedSize
from builder.dataset.legacy.dataset import LegacyDataset
from builder.dataset.legacy.files import Layout, LegacyRef
from builder.dataset.legacy.sizes import HOW_TO_GIVE, contradiction, seen_size
from builder.dataset.legacy.videos import Videos, array_frames
from builder.inputs.fingerprint import fingerprint
from builder.inputs.streams import BlockStream, FrameStream, StreamInfo
from builder.stores.base import ArraySpec, EpisodeWriter, Store
from schemas.affine import AxisAffine
from schemas.config import FrameStorage
from schemas.dataset import EpisodeMeta, QuerySpec, SourceInfo, ViewMeta
from schemas.geometry import Geometry, Letterbox, Stretch
from schemas.legacy import QUERY_SLACK_PX

QUERY_TOLERANCE_PX = 1e-3
"""How exactly query points must agree, between windows and with their grid."""

ROUND_TRIP_PX = 0.02
"""What a stored point may be off when decoded back to where it was tracked (float32)."""

BLOCK_BYTES = 1 << 22

ATM_NOTE = (
    "ATM's preprocessing queries points in frames drawn at random and tracks them both ways: step "
    "0 is where they were in the first frame, also outside the picture"
)


@dataclass(frozen=True)
class Migration:
    """What all episodes of a migration have in common."""

    dataset: LegacyDataset
    store: Store
    queries: QuerySpec
    videos: Videos | None
    frames: FrameStorage
    notes: tuple[str, ...]
    fps: float | None = None
    description: str | None = None
    """Digest of the new dataset's ``dataset.json``."""
    stopped: Event = field(default_factory=Event)

    def check_stopped(self) -> None:
        """Raise CancelledError when the run has ended, so that its result is not needed."""
        if self.stopped.is_set():
            raise CancelledError


def migrate_episode(migration: Migration, ref: LegacyRef, views: list[MigratedView]) -> EpisodeMeta:
    """Write one episode, whole or not at all.

    Raises DatasetError and DecodeError for damage found on the way, OutputError for ``out``.
    """
    episode = views[0].episode
    layout: dict[str | None, dict[str, ArraySpec]] = {v.name: v.layout() for v in views}
    root = {name: np.asarray(episode.arrays[name]) for name in episode.arrays}
    layout[None] = {}
    for name, array in root.items():
        # ATM's task embedding never has a row per frame.
        rows = array.shape[:1] == (ref.length,) and not name.startswith("task_emb")
        layout[None][name] = ArraySpec(array.shape, array.dtype.str, per_frame=rows)
    # An episode that is there but not listed is of a run that was killed in between.
    with migration.store.begin(ref.id, layout, replace=True) as writer:
        for name, array in root.items():
            writer.write(None, name, 0, array)
        for view in views:
            view.write(writer)
        meta = _meta(episode, ref, views, writer)
        writer.commit(meta)
    return meta


class MigratedView:
    """One view of an older file: its arrays, checked, as they are written to the episode.

    Raises DatasetError and SourceError for what cannot be migrated.
    """

    def __init__(
        self, migration: Migration, ref: LegacyRef, episode: EpisodeData, name: str
    ) -> None:
        self.migration, self.ref, self.episode, self.name = migration, ref, episode, name
        self.view = view = episode.views[name]
        self.where = f"{ref.path}, view {name}"
        self._check_known()
        self.stream = self._frames()
        stretch = view.geometry
        self.geometry: Geometry = stretch
        self.to_canvas: AxisAffine | None = None
        if self.stream is not None:
            info, img_shape = self.stream.info, stretch.img_shape
            self.geometry = Letterbox.fit(info.source_shape, img_shape, info.sample_aspect_ratio)
            spread = Stretch(source_shape=info.source_shape, img_shape=img_shape)
            self.to_canvas = self.geometry.affine @ ~spread.affine
        self.queries = self._on_canvas(view.queries)
        self._check_queries()
        self.has_conf = _has_confidence(view.vis, self.where)

    def _frames(self) -> FrameStream | None:
        """Return the frames if they are at hand; raises SourceError if they should be."""
        if self.ref.layout == "atm" and self.view.frames is not None:
            return array_frames(self.view.frames.stored, self.migration.fps)
        videos = self.migration.videos
        return videos.open(self.ref, self.name) if videos is not None else None

    @property
    def basis(self) -> str:
        """What its geometry rests on, in words."""
        height, width = self.geometry.source_shape
        what = "no frames" if self.stream is None else "with frames"
        return f"{self.geometry.kind} of {height} x {width}, {what}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it."""
        size = self.ref.sizes[self.name]
        if size.origin != "assumed" or size.shape is None:
            return self.view.meta.notes
        span = grid_span(np.asarray(self.view.queries), QUERY_SLACK_PX)
        wrong = contradiction(span, size.shape) if self.ref.layout == "amplify" else None
        note = size_note(size, self.ref.layout)
        return (f"{note}. It cannot be right: {wrong}" if wrong else note,)

    def _check_known(self) -> None:
        size = self.view.tracked_size()
        if size.shape is not None and size.origin == "recorded":
            tracked_xy = np.asarray(self.view.geometry.to_source(np.asarray(self.view.queries)))
            if wrong := contradiction(grid_span(tracked_xy, QUERY_SLACK_PX), size.shape):
                raise DatasetError(
                    f"{self.where}: its attributes height and width say {size.shape[0]} x "
                    f"{size.shape[1]}, but {wrong}: they are not those of the frames that were "
                    f"tracked; correct them"
                )
        if size.shape is not None:
            return
        if self.ref.layout == "atm":
            told = "its tracks are shares of a picture, and it holds no video"
        else:
            told = f"{size.basis}; {seen_size(self.view)}" if size.basis else seen_size(self.view)
        raise DatasetError(
            f"{self.where}: the size of the frames that were tracked is not known: {told}; "
            f"{HOW_TO_GIVE}, or, where nobody can know it, --assume-img-shape"
        )

    def _on_canvas(self, points_xy: np.ndarray) -> np.ndarray:
        if self.to_canvas is not None:
            points_xy = self.to_canvas(points_xy.astype(np.float64))
        return points_xy.astype(np.float32, copy=False)

    def _check_queries(self) -> None:
        if self.migration.queries.region == "stored":
            return
        off = np.abs(self.queries - query_points(self.migration.queries, self.geometry)).max()
        if off > QUERY_TOLERANCE_PX:
            raise DatasetError(
                f"{self.where}: its query points are up to {off:g} px from the grid that the first "
                f"file has; migrate it by itself"
            )

    def layout(self) -> dict[str, ArraySpec]:
        """List the arrays."""
        shape = self.view.tracks.shape
        arrays = {
            "tracks": ArraySpec(shape, "<f4"),
            "vis": ArraySpec(shape[:-1], "|u1"),
            "starts": ArraySpec((shape[0],), "<i8"),
            "queries": ArraySpec(self.queries.shape, "<f4"),
            "timestamps": ArraySpec((self.ref.length,), "<f8"),
        }
        if self.has_conf:
            arrays["conf"] = ArraySpec(shape[:-1], "<f4")
        frames = self.migration.frames
        if self.stream is not None and frames.codec != "none":
            size = (self.ref.length, *self.geometry.img_shape, 3)
            arrays["frames"] = ArraySpec(size, "|u1", frames.codec, frames.quality)
        return arrays

    def write(self, writer: EpisodeWriter) -> None:
        """Write all arrays."""
        writer.write(self.name, "queries", 0, self.queries)
        writer.write(self.name, "starts", 0, np.asarray(self.view.starts, "<i8"))
        rows = max(1, BLOCK_BYTES // int(8 * np.prod(self.view.tracks.shape[1:-1])))
        for at in range(0, len(self.view.tracks), rows):
            self.migration.check_stopped()
            block = self._block(at, rows)
            writer.write(self.name, "tracks", at, block)
            vis = np.asarray(self.view.vis[at : at + rows])
            writer.write(self.name, "vis", at, (vis >= 0.5).view(np.uint8))
            if self.has_conf:
                writer.write(self.name, "conf", at, vis.astype("<f4"))
        self._write_frames(writer)

    def _block(self, at: int, rows: int) -> np.ndarray:
        read_xy = self.view.tracks[at : at + rows]
        block = self._on_canvas(read_xy)
        if not block.flags.writeable:  # the file itself, mapped
            block = block.copy()
        off = np.abs(block[:, 0] - self.queries).max()
        if off > QUERY_TOLERANCE_PX:
            raise DatasetError(
                f"{self.where}: windows near {at} start up to {off:g} px from where the first one "
                f"starts; all windows of a view must start from the same points"
            )
        block[:, 0] = self.queries
        if at == 0:
            self._check_round_trip(block[0], read_xy[0])
        return block

    def _check_round_trip(self, window: np.ndarray, read_xy: np.ndarray) -> None:
        source = self.geometry.source_shape
        back = self.geometry.to_source(window.astype(np.float64))
        spread = Stretch(source_shape=source, img_shape=self.geometry.img_shape)
        off = np.abs(back - spread.to_source(read_xy.astype(np.float64))).max()
        if off > ROUND_TRIP_PX * max(1.0, max(source) / 1000):
            raise DatasetError(f"{self.where}: stored points decode {off:g} source px off")

    def _write_frames(self, writer: EpisodeWriter) -> None:
        if self.stream is None or not isinstance(self.geometry, Letterbox):
            seconds = np.arange(self.ref.length) / (self.migration.fps or 1.0)
            writer.write(self.name, "timestamps", 0, seconds.astype("<f8"))
            return
        boxer = Letterboxer(self.geometry, self.stream.info.orientation)
        canvas = np.zeros((1, *self.geometry.img_shape, 3), np.uint8)
        for index, frame in enumerate(self.stream):
            self.migration.check_stopped()
            writer.write(self.name, "timestamps", index, np.array([frame.seconds], "<f8"))
            if self.migration.frames.codec != "none":
                boxer.canvas(frame.image, canvas[0])
                writer.write(self.name, "frames", index, canvas)

    def meta(self, arrays: Any) -> ViewMeta:
        """Describe the view."""
        size = self.ref.sizes[self.name]
        own = size_note(size, self.ref.layout)
        notes = [own, *(n for n in self.notes if not n.startswith(own)), *self.migration.notes]
        if self.ref.layout == "atm":
            notes.append(ATM_NOTE)
        if self.stream is not None:
            return self.stream.info.view_meta(self.name, self.geometry, arrays, notes)
        if self.migration.fps is None:
            notes.append("timestamps are frame numbers: the frame rate is not known")
        info = StreamInfo(self.geometry.source_shape, self.ref.length, fps=self.migration.fps)
        meta = info.view_meta(self.name, self.geometry, arrays, notes)
        return meta.model_copy(update={"source_shape_assumed": size.origin == "assumed"})


def size_note(size: TrackedSize, layout: Layout) -> str:
    """Say what the tracks of a migrated view were pixels of, and how that is known."""
    unit = "pixels of" if layout == "amplify" else "shares of a picture of"
    if size.shape is None:
        raise ValueError("a view of unknown size is not migrated")
    shape = f"{size.shape[0]} x {size.shape[1]} (H x W)"
    if size.origin == "assumed":
        return (
            f"assumed, not known: its tracks were {unit} img_shape, {shape}; what is decoded is "
            "no source pixel"
        )
    known = {"given": ", as was given", "video": f": {size.basis}"}.get(size.origin, "")
    return f"migrated: its tracks were {unit} {shape}{known}"


def _meta(
    episode: EpisodeData, ref: LegacyRef, views: list[MigratedView], writer: EpisodeWriter
) -> EpisodeMeta:
    arrays = writer.digests()
    files = {printable_path(ref.relative): fingerprint(ref.path)}
    for view in views:
        videos = view.migration.videos
        if videos is not None and not isinstance(view.stream, BlockStream):
            path = videos.find(ref, view.name)
            files[printable_path(path.relative_to(videos.folder))] = fingerprint(path)
    return EpisodeMeta.seal(
        id=ref.id,
        source=SourceInfo(kind="legacy", path=printable_path(ref.relative), files=files),
        length=ref.length,
        mode=ref.mode,
        horizon=ref.horizon,
        start_every=1 if ref.mode == "reinit" else ref.length,
        task=episode.meta.task,
        dataset=views[0].migration.description,
        arrays=arrays.get(None, {}),
        views=tuple(view.meta(arrays[view.name]) for view in views),
    )


def _has_confidence(vis: Any, where: str) -> bool:
    """Tell whether visibility holds more than 0 and 1; such values are kept as ``conf``."""
    found = False
    for at in range(0, len(vis), 64):
        block = np.asarray(vis[at : at + 64])
        if not ((block == 0) | (block == 1)).all():
            found = True
            if not ((block >= 0) & (block <= 1)).all():
                raise DatasetError(f"{where}: vis must lie in [0, 1], see windows from {at}")
    return found
