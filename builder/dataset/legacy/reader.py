"""One older file as an episode; contiguous arrays are memory-mapped."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np

from builder.core.errors import DatasetError, SourceError
from builder.core.paths import printable_path
from builder.dataset.legacy.files import LegacyRef, open_older, track_shape
from builder.dataset.legacy.sizes import check_size, grid_note
from builder.inputs.hdf5 import SafeHdf5
from builder.inputs.normalized_points import check_normalized
from builder.stores.reading import ReopenableReader, mapped
from schemas.dataset import ArrayMeta, EpisodeMeta, SourceInfo, ViewMeta
from schemas.geometry import Stretch
from schemas.legacy import PixelOrigin, implied_geometry

if TYPE_CHECKING:
    from builder.dataset.legacy.videos import Videos

MAX_DEPTH = 16
"""Groups in groups, below root."""

UNSEALED = "0" * 64
"""The digest of records without one."""


class _Plan(NamedTuple):
    """How an array is stored; ``offset`` is None for chunks."""

    name: str
    dtype: Any
    shape: tuple[int, ...]
    offset: int | None


_Make = Callable[["LegacyReader"], Any]


class LegacyReader(ReopenableReader):
    """One older file.  See :class:`builder.stores.base.EpisodeReader`.

    ``vis`` is what the file holds, whatever its dtype; all ones where it holds none.
    """

    def __init__(
        self,
        ref: LegacyRef,
        img_shape: tuple[int, int],
        pixel_origin: PixelOrigin,
        videos: Videos | None = None,
    ) -> None:
        super().__init__(ref.path)
        self.ref, self.img_shape, self.pixel_origin = ref, img_shape, pixel_origin
        self.videos = videos
        # By view and name: how a reader of this file makes the array.
        self._makers: dict[str, dict[str, _Make]] = {}
        self._open_nothing()
        with open_older(ref.path) as file:
            metas = [self._load_view(file, name) for name in ref.tracked]
            self._root = _pass_through(file, "root", "")
        self.meta = EpisodeMeta.model_construct(
            id=ref.id,
            digest=UNSEALED,
            source=SourceInfo(kind="legacy", path=printable_path(ref.relative)),
            length=ref.length,
            mode=ref.mode,
            horizon=ref.horizon,
            start_every=1 if ref.mode == "reinit" else ref.length,
            task=ref.task,
            views=tuple(metas),
            arrays={name: _describe(array) for name, array in self._root.items()},
        )

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.ref, self.img_shape, self.pixel_origin, self.videos)

    def close(self) -> None:
        """Close the file; the next access opens it again."""
        if self._handle is not None and self._handle_pid == os.getpid():
            self._handle.close()
        self._open_nothing()

    def _open_nothing(self) -> None:
        self._handle: Any = None
        self._handle_pid = 0
        self._map: mmap.mmap | None = None
        self._made: dict[tuple[str, str], Any] = {}

    def array(self, view: str | None, name: str) -> Any:
        """Return one array; raises KeyError naming what there is."""
        there: Mapping[str, Any] = self._root if view is None else self._makers[view]
        if name not in there:
            raise KeyError(f"no array {name!r} in {self.path}; it has {sorted(there)}")
        if view is None:
            return there[name]
        if (view, name) not in self._made:
            self._made[view, name] = there[name](self)
        return self._made[view, name]

    def stored_bytes(self, view: str | None, name: str) -> Iterator[bytes]:
        """Yield the bytes of an array as it is read, row by row."""
        array = self.array(view, name)
        for row in range(len(array)):
            yield np.ascontiguousarray(array[row]).tobytes()

    def problems(self) -> list[str]:
        """Return none: older files store nothing twice."""
        return []

    def _load_view(self, file: SafeHdf5, name: str) -> ViewMeta:
        where, group = f"{self.path}, view {name}", f"root/{name}"
        size = self.ref.sizes[name]
        tracked = size.shape
        shape = track_shape(file, self.path, name)
        geometry = implied_geometry(tracked, self.img_shape)
        mapping = self._mapping(geometry, tracked, where)
        kept = {"tracks", "vis", *(["video"] if self.ref.layout == "atm" else [])}
        there = kept.intersection(file.keys(group))
        plans = {key: _plan(file.dataset(f"{group}/{key}")) for key in there}
        rows = self._stored(plans["tracks"])
        stored_queries = np.asarray(rows[:, 0] if self.ref.mode == "reinit" else rows[0, 0])
        if self.ref.layout == "atm":
            self._check_shares(rows, plans.get("vis"), where)
        elif tracked is not None and size.origin != "assumed":
            check_size(stored_queries, tracked, where)
        first_xy = stored_queries.reshape(-1, *stored_queries.shape[-2:])[0]
        placed = tracked is not None and size.origin not in ("assumed", "relative")
        lies = grid_note(first_xy, tracked) if tracked and placed else None
        queries = LegacyTracks(rows, *mapping, where)[0, 0]
        makers: dict[str, _Make] = {
            "tracks": lambda own: LegacyTracks(own._stored(plans["tracks"]), *mapping, where),
            "vis": lambda own: np.broadcast_to(np.uint8(1), shape[:-1]),
            "starts": lambda own: np.arange(shape[0], dtype=np.int64),
            "queries": lambda own: queries,
        }
        if "vis" in plans:
            makers["vis"] = lambda own: own._stored(plans["vis"])
        if "video" in plans:
            makers["frames"] = lambda own: LegacyVideo(own._stored(plans["video"]), own.img_shape)
        elif (videos := self.videos) is not None:
            makers["frames"] = lambda own: own._video_frames(videos, name)
        self._makers[name] = makers
        return ViewMeta(
            name=name,
            geometry=geometry,
            coded_shape=geometry.source_shape,
            source_shape_assumed=tracked is None or size.origin == "assumed",
            arrays={key: _describe(self.array(name, key)) for key in makers},
            notes=tuple(note for note in (size.basis, lies) if note),
        )

    def _check_shares(self, rows: Any, vis: _Plan | None, where: str) -> None:
        """Refuse tracks of an ATM file that are no shares of the picture; step 0 is no query."""
        each_frame = (0,) if self.ref.mode == "episode" else (slice(None), 0)
        points = np.asarray(rows[each_frame])
        shown = np.ones(points.shape[:-1], bool)
        if vis is not None:
            shown = np.asarray(self._stored(vis)[each_frame]) > 0.5
        try:
            check_normalized(points, shown, where)
        except SourceError as error:
            raise DatasetError(f"{error}, or give layout amplify") from None

    def _video_frames(self, videos: Videos, view: str) -> Any:
        try:
            return videos.frames(self.ref, view, self.img_shape)
        except SourceError as error:
            raise DatasetError(str(error)) from None

    def _mapping(
        self, geometry: Stretch, tracked: tuple[int, int] | None, where: str
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return (scale_xy, offset_xy): how stored tracks become img pixels."""
        half = (0.0, 0.0) if self.pixel_origin == "corner" else (0.5, 0.5)
        if self.ref.layout == "amplify":
            return geometry.affine.scale_xy, half
        height, width = self.img_shape
        if half != (0.0, 0.0):
            if tracked is None:
                raise DatasetError(
                    f"{where}: pixel_origin 'center' needs the size of the frames, but the file "
                    f"holds no video; read it with pixel_origin 'corner'"
                )
            half = (0.5 / tracked[1], 0.5 / tracked[0])
        return (float(width), float(height)), half

    def _stored(self, plan: _Plan) -> Any:
        """Map a contiguous array into memory; others are read through a handle of this process."""
        if plan.offset is None:
            return _Chunked(self, plan)
        if self._map is None:
            self._map = mapped(self.path)
        return np.ndarray(plan.shape, plan.dtype, self._map, plan.offset)

    def handle(self) -> h5py.File:
        """Return this process's own open file: a forked one must not be shared."""
        if self._handle is None or self._handle_pid != os.getpid():
            self._handle, self._handle_pid = h5py.File(self.path, "r"), os.getpid()
        return self._handle


class _Chunked:
    """A chunked or filtered array, read through its reader's handle."""

    def __init__(self, reader: LegacyReader, plan: _Plan) -> None:
        self._reader, self._name = reader, plan.name
        self.shape, self.dtype = plan.shape, plan.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> np.ndarray:
        try:
            return np.asarray(self._reader.handle()[self._name][key])
        except OSError as error:
            raise DatasetError(f"{self._reader.path}: {self._name}: {error}") from None


def _plan(dataset: Any) -> _Plan:
    offset = dataset.id.get_offset() if dataset.chunks is None else None
    return _Plan(dataset.name, dataset.dtype, dataset.shape, offset)


def _describe(array: Any) -> ArrayMeta:
    return ArrayMeta(dtype=np.dtype(array.dtype).name, shape=tuple(array.shape), sha256=UNSEALED)


def _pass_through(file: SafeHdf5, group: str, prefix: str) -> dict[str, np.ndarray]:
    """Read the arrays outside views (ATM: actions, task_emb_bert, extra_states/*)."""
    found: dict[str, np.ndarray] = {}
    if group.count("/") > MAX_DEPTH:
        raise file.error(group, f"its groups go over {MAX_DEPTH} deep, or round in circles")
    for name in file.keys(group):
        path = f"{group}/{name}"
        if not file.is_group(path):
            found[prefix + name] = file.array(path)
        elif "tracks" not in file.keys(path):
            found |= _pass_through(file, path, f"{prefix}{name}.")
    return found


class LegacyTracks:
    """Stored tracks, read lazily: (S, horizon, N, 2) (x, y) pixels of img_shape.

    ``scale_xy`` and ``offset_xy`` say how: ``(stored + offset) * scale``, in the stored dtype.
    """

    def __init__(
        self, stored: Any, scale_xy: tuple[float, float], offset_xy: tuple[float, float], where: str
    ) -> None:
        self.stored, self.scale_xy, self.offset_xy = stored, scale_xy, offset_xy
        self.shape, self.dtype, self._where = stored.shape, stored.dtype, where

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> np.ndarray:
        *lead, last = _full_key(key, len(self.shape))
        points = np.asarray(self.stored[tuple(lead)])
        self.check_finite(points)
        return np.asarray(self._map(points)[..., last])

    @property
    def only_scaled(self) -> bool:
        """Tell whether what is stored becomes pixels by a float32 multiplication alone."""
        return bool(self.dtype == np.float32) and not any(self.offset_xy)

    def check_finite(self, numbers: np.ndarray, name: str = "tracks") -> None:
        """Raise DatasetError, naming the file, for NaN and infinity in what was read of it."""
        if not np.isfinite(numbers).all():
            become = "a corner of the picture" if name == "tracks" else "hidden points"
            raise DatasetError(
                f"{self._where}: {name} hold NaN or infinity; AMPLIFY would turn them into "
                f"{become}. Track this file again, or leave it out"
            )

    def _map(self, points: np.ndarray) -> np.ndarray:
        if points.size == 0 or (self.scale_xy == (1.0, 1.0) and not any(self.offset_xy)):
            return points
        # Many points in one row: numpy is slow along an axis of two.
        count = math.prod(points.shape[-2:]) // 2
        rows = points.reshape(-1, 2 * count)
        if any(self.offset_xy):
            rows = rows + np.tile(np.array(self.offset_xy, points.dtype), count)
        return (rows * np.tile(np.array(self.scale_xy, points.dtype), count)).reshape(points.shape)


class LegacyVideo:
    """An ATM file's video, read lazily as (T, H, W, 3) uint8, stretched to ``img_shape``."""

    def __init__(self, stored: Any, img_shape: tuple[int, int]) -> None:
        self.stored, self.dtype = stored, stored.dtype
        self.shape = (stored.shape[1], *img_shape, 3)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = _full_key(key, 4)
        frames = np.moveaxis(np.asarray(self.stored[0, first]), -3, -1)
        height, width = self.shape[1:3]
        if frames.shape[-3:-1] != (height, width):
            import cv2  # only older data of another size need it

            flat = frames.reshape(-1, *frames.shape[-3:])
            small = [cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in flat]
            frames = np.asarray(small, np.uint8).reshape(*frames.shape[:-3], height, width, 3)
        lead = () if frames.ndim == 3 else (slice(None),)
        return frames[(*lead, *rest)]


def _full_key(key: Any, axes: int) -> list[Any]:
    """Expand an index to one entry per axis."""
    parts = list(key) if isinstance(key, tuple) else [key]
    at = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    rest = parts[at + 1 :]
    return [*parts[:at], *[slice(None)] * (axes - at - len(rest)), *rest]
