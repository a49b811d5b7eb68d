"""Reading datasets made the older way, as they lie: AMPLIFY- and ATM-layout HDF5 files.

Arrays are read lazily and come out in (x, y) pixels of ``img_shape``, by exactly the older
route's arithmetic (``schemas.legacy``).  Files are data: links are not followed, virtual,
external and object arrays are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import numpy as np

from builder.errors import DatasetError
from builder.ids import printable_path
from builder.legacy_files import Layout, LegacyRef, Mode, inspect_file, track_files
from builder.legacy_hdf5 import (
    LegacyTracks,
    LegacyVideo,
    checked_array,
    child,
    open_file,
    read,
)
from schemas.dataset import EpisodeMeta, SourceInfo, ViewMeta
from schemas.geometry import Stretch
from schemas.legacy import (
    PixelOrigin,
    check_queries,
    implied_geometry,
    missing_size_note,
)

log = logging.getLogger("letterset.legacy")


@dataclass(frozen=True)
class LegacyView:
    """One view of an older episode."""

    meta: ViewMeta
    tracks: LegacyTracks
    vis: Any
    """(S, horizon, N) as stored; all ones where the file has none."""
    frames: LegacyVideo | None

    @property
    def name(self) -> str:
        """The view's name."""
        return self.meta.name

    @property
    def geometry(self) -> Any:
        """From tracked pixels to img pixels: a Stretch."""
        return self.meta.geometry

    @property
    def starts(self) -> np.ndarray:
        """First frame of each window, (S,) int64."""
        return np.arange(len(self.tracks), dtype=np.int64)

    @property
    def queries(self) -> np.ndarray:
        """Query points of the first window, (N, 2) (x, y) img pixels."""
        return self.tracks[0, 0]


class LegacyEpisode:
    """An open older file; a context manager.  ``meta`` is made up from what the file tells."""

    def __init__(self, dataset: LegacyDataset, ref: LegacyRef) -> None:
        self.ref, self.path = ref, ref.path
        self._file = open_file(ref.path)
        try:
            root = child(self._file, "root", ref.path.name)
            views = [_view(root, ref, name, dataset) for name in ref.tracked]
            self.arrays = _pass_through(root, ref.path.name, "")
        except BaseException:
            self.close()
            raise
        self.views = {view.name: view for view in views}
        self.meta = EpisodeMeta.model_construct(
            id=ref.id,
            digest="0" * 64,  # nothing of an older file was ever sealed
            source=SourceInfo(
                kind="legacy", path=printable_path(ref.path.relative_to(dataset.folder))
            ),
            length=ref.length,
            mode=ref.mode,
            horizon=ref.horizon,
            start_every=1 if ref.mode == "reinit" else ref.length,
            views=tuple(view.meta for view in views),
        )

    @property
    def id(self) -> str:
        """The episode's id, the one it keeps when it is migrated."""
        return self.ref.id

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> LegacyEpisode:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class LegacyDataset:
    """A folder of older files, read like any other dataset."""

    folder: Path
    img_shape: tuple[int, int]
    pixel_origin: PixelOrigin
    refs: Mapping[str, LegacyRef]
    problems: Mapping[str, str] = field(default_factory=dict)
    """Files that were left out (``on_error="skip"``), by relative path."""
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all episodes, in natural order of their paths."""
        return tuple(self.refs)

    def __len__(self) -> int:
        return len(self.refs)

    def __iter__(self) -> Iterator[LegacyEpisode]:
        """Yield the episodes one after another, each closed before the next is opened."""
        for ref in self.refs.values():
            with LegacyEpisode(self, ref) as episode:
                yield episode

    def __getitem__(self, episode: str) -> LegacyEpisode:
        """Open one episode.

        Raises KeyError for an unknown id and DatasetError naming file and view when its
        query points contradict its declared size.
        """
        if episode not in self.refs:
            raise KeyError(f"no episode {episode!r} in {self.folder}")
        return LegacyEpisode(self, self.refs[episode])


def open_legacy(
    folder: str | Path,
    img_shape: tuple[int, int],
    *,
    pixel_origin: PixelOrigin = "corner",
    layout: Layout | None = None,
    mode: Mode | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> LegacyDataset:
    """Open a folder of older HDF5 files (searched recursively); reads headers only.

    ``img_shape`` (H, W) is the training configuration's.  ``pixel_origin="center"`` adds the
    half pixel by which CoTracker's coordinates fall short of edge coordinates.  ``layout`` and
    ``mode`` are told by the files unless given: ATM's hold ``video`` or ``task_emb_bert``; a
    leading axis of 1 is a whole episode, unless the folder's name says reinit.

    Raises DatasetError naming file and view for what cannot be trusted, and for a folder
    without any such file; ``on_error="skip"`` lists bad files in ``problems`` instead.
    """
    folder = Path(folder)
    refs: dict[str, LegacyRef] = {}
    problems: dict[str, str] = {}
    for path in track_files(folder):
        try:
            ref = inspect_file(folder, path, layout, mode)
        except DatasetError as error:
            if on_error == "raise":
                raise
            problems[printable_path(path.relative_to(folder))] = str(error)
            continue
        if ref is not None:
            refs[ref.id] = ref
    if not refs and not problems:
        raise DatasetError(
            f"{folder} holds no older track files: expected HDF5 files with root/<view>/tracks"
        )
    unsized = [
        f"{printable_path(ref.path.relative_to(folder))} ({view})"
        for ref in refs.values()
        for view, tracked in ref.tracked.items()
        if tracked is None and ref.layout == "amplify"
    ]
    notes = (missing_size_note(unsized, img_shape),) if unsized else ()
    for note in notes:
        log.warning(note)
    return LegacyDataset(folder, img_shape, pixel_origin, refs, problems, notes)


def is_legacy(folder: Path) -> bool:
    """Tell whether a folder without dataset.json holds at least one older track file."""
    for path in track_files(folder):
        try:
            if inspect_file(folder, path, None, None) is not None:
                return True
        except DatasetError:
            return True
    return False


def _view(root: h5py.Group, ref: LegacyRef, name: str, dataset: LegacyDataset) -> LegacyView:
    where = f"{ref.path}, view {name}"
    group, tracked = child(root, name, where), ref.tracked[name]
    geometry = implied_geometry(tracked, dataset.img_shape)
    stored = group["tracks"]
    tracks = LegacyTracks(stored, *_mapping(geometry, ref, tracked, dataset, where), where)
    if tracked is not None:
        at_start = (slice(None), 0) if ref.mode == "reinit" else (0, 0)
        queries = read(stored, at_start, where)
        try:
            check_queries(queries, (1, 1) if ref.layout == "atm" else tracked, where)
        except ValueError as error:
            raise DatasetError(str(error)) from None
    vis = group["vis"] if "vis" in group else np.broadcast_to(np.uint8(1), stored.shape[:-1])
    video = (
        LegacyVideo(group["video"], dataset.img_shape, where)
        if ref.layout == "atm" and tracked
        else None
    )
    meta = ViewMeta(name=name, geometry=geometry, coded_shape=geometry.source_shape, arrays={})
    return LegacyView(meta, tracks, vis, video)


def _mapping(
    geometry: Stretch,
    ref: LegacyRef,
    tracked: tuple[int, int] | None,
    dataset: LegacyDataset,
    where: str,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (scale_xy, offset_xy): how stored tracks become img pixels."""
    half = (0.0, 0.0) if dataset.pixel_origin == "corner" else (0.5, 0.5)
    if ref.layout == "amplify":
        return geometry.affine.scale_xy, half
    height, width = dataset.img_shape
    if half != (0.0, 0.0):
        if tracked is None:
            raise DatasetError(
                f"{where}: pixel_origin 'center' needs the size of the frames, but the file "
                f"holds no video; read it with pixel_origin 'corner'"
            )
        half = (0.5 / tracked[1], 0.5 / tracked[0])
    return (float(width), float(height)), half


def _pass_through(root: h5py.Group, where: str, prefix: str) -> dict[str, np.ndarray]:
    """Read the arrays beside the views (ATM: actions, task_emb_bert, extra_states/*)."""
    found: dict[str, np.ndarray] = {}
    for name in root:
        member = child(root, name, where)
        if isinstance(member, h5py.Dataset):
            found[prefix + name] = read(checked_array(member, where), (), where)
        elif "tracks" not in member:
            found |= _pass_through(member, where, f"{prefix}{name}/")
    return found
