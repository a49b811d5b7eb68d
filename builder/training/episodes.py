"""What is needed of an open episode to cut its windows fast; made once, used many times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from builder.dataset import ViewData
from builder.errors import ConfigError
from builder.legacy.hdf5 import LegacyTracks
from builder.stores.codecs import U16_OFFSET, U16_SCALE, FixedPoint
from schemas.affine import AxisAffine
from schemas.geometry import Letterbox, Stretch


@dataclass(frozen=True)
class ViewWindows:
    """One view: arrays as stored, and the maps that samples need."""

    tracks: Any
    """(S, horizon, N, 2) (x, y) img px."""
    vis: Any
    """(S, horizon, N)."""
    frames: Any
    """(T, H, W, 3) uint8, or None."""
    stored: Letterbox | Stretch
    box: Letterbox | Stretch
    """The geometry of the sample's canvas; the stored one unless another img_shape is asked."""
    norm: AxisAffine
    """From stored img px to [-1, 1] on the sample's canvas."""
    decode: AxisAffine
    """From there to source pixels."""
    decode_rows: np.ndarray
    """The same as (2, 2) float64: scale and offset."""
    in_content: np.ndarray
    """(N,) bool: points that start on the picture."""
    older: LegacyTracks | None = None
    """How an older file's tracks are mapped: by that route's own operations, clipping among them;
    ``tracks`` are as stored where a multiplication is all."""
    packed: tuple[AxisAffine, ...] = ()
    """What makes fixed point [-1, 1], one map after the other; ``tracks`` are then as stored."""


@dataclass(frozen=True)
class Sliding:
    """A whole-episode array (1, T, ...) as windows; past its end the last step is repeated."""

    stored: Any
    start_every: int

    def __getitem__(self, key: tuple[int, slice]) -> np.ndarray:
        window, steps = key
        start = window * self.start_every
        rows = np.asarray(self.stored[0, start + steps.start : start + steps.stop])
        missing = steps.stop - steps.start - len(rows)
        return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def view_windows(
    view: ViewData, img_shape: tuple[int, int], cut_every: int | None = None
) -> ViewWindows:
    """Prepare one view for samples on a canvas of ``img_shape``.

    ``cut_every`` cuts whole-episode tracks into windows that start so many frames apart.
    """
    stored = view.geometry
    box = stored if stored.img_shape == img_shape else refit(stored, img_shape)
    encode = AxisAffine.normalization(img_shape) @ box.affine
    norm = AxisAffine.normalization(img_shape)
    if box is not stored:
        norm = encode @ ~stored.affine
    tracks, vis = view.tracks, view.vis
    older = tracks if isinstance(tracks, LegacyTracks) else None
    if older is not None and older.only_scaled:
        tracks = older.stored
    packed = packed_maps(norm) if isinstance(tracks, FixedPoint) else ()
    if isinstance(tracks, FixedPoint):
        tracks = tracks.stored
    decode = ~encode
    return ViewWindows(
        tracks=tracks if cut_every is None else Sliding(tracks, cut_every),
        vis=vis if cut_every is None else Sliding(vis, cut_every),
        frames=view.frames,
        stored=stored,
        box=box,
        norm=norm,
        decode=decode,
        decode_rows=np.array([decode.scale_xy, decode.offset_xy]),
        in_content=np.asarray(stored.inside(np.asarray(view.queries))),
        older=older,
        packed=packed,
    )


@lru_cache(maxsize=64)
def packed_maps(norm: AxisAffine) -> tuple[AxisAffine, ...]:
    """Return the maps from fixed point as stored to [-1, 1]; ``norm`` is the one from pixels.

    One map where float32 numbers come out of it with the bits that unpacking and normalizing
    give (canvases of 128, 256, ... pixels are such), else these two.
    """
    unpack = AxisAffine(scale_xy=(U16_SCALE, U16_SCALE), offset_xy=(U16_OFFSET, U16_OFFSET))
    every = np.repeat(np.arange(1 << 16, dtype=np.float32), 2).reshape(-1, 2)
    folded = norm @ unpack
    return (folded,) if np.array_equal(folded(every), norm(unpack(every))) else (unpack, norm)


def refit(box: Letterbox | Stretch, img_shape: tuple[int, int]) -> Letterbox | Stretch:
    """Fit the same source onto another canvas."""
    if isinstance(box, Letterbox):
        return Letterbox.fit(box.source_shape, img_shape, box.sample_aspect_ratio)
    return Stretch(source_shape=box.source_shape, img_shape=img_shape)


def write_tracks(
    view: ViewWindows, window: int, steps: slice, points: Any, out: np.ndarray
) -> None:
    """Write a window's tracks into ``out`` (horizon, N, 2) as normalized (row, col).

    ``steps`` and ``points`` select among the stored ones: a slice, a slice or an index array.
    """
    tracks_xy = np.asarray(view.tracks[window, steps])[:, points]
    if view.older is not None:
        out[...] = tracks_xy
        _normalize_older(out, view.older, view.box.img_shape)
        return
    numbers = out.reshape(-1)
    if view.packed:
        numbers[...] = _swapped(tracks_xy)
        for step in view.packed:
            numbers *= _per_point(step.scale_xy[::-1], numbers.size)
            numbers += _per_point(step.offset_xy[::-1], numbers.size)
        return
    # numpy is slow along an axis of two: components go to their places one by one, and what
    # follows takes all numbers in a row.
    for column, axis in ((0, 1), (1, 0)):
        np.multiply(tracks_xy[..., axis], view.norm.scale_xy[axis], out=out[..., column])
    numbers += _per_point(view.norm.offset_xy[::-1], numbers.size)


def _swapped(points: np.ndarray) -> np.ndarray:
    """Return points (..., 2) of uint16 as one row of numbers, the two of every point swapped.

    All bytes of a point are reversed, then those of each number: numpy does that fastest.
    """
    reversed_points = np.ascontiguousarray(points).reshape(-1).view(">u4").astype("<u4")
    return reversed_points.view(">u2").astype("<u2")


def _normalize_older(out: np.ndarray, older: LegacyTracks, img_shape: tuple[int, int]) -> None:
    """Turn (x, y) as read into normalized (row, col), in place.

    The operations and their order are the older route's, so that the bits are the same.
    """
    older.check_finite(out)
    pairs = out.view(np.uint64)  # a point is 64 bits; turning them by 32 swaps x and y
    first = pairs >> 32
    pairs <<= 32
    pairs |= first
    numbers = out.reshape(-1)
    if older.only_scaled and older.scale_xy != (1.0, 1.0):
        x, y = older.scale_xy
        numbers *= _per_point((y, x), numbers.size)
    halves = _per_point((img_shape[0] / 2, img_shape[1] / 2), numbers.size)
    numbers -= halves
    numbers /= halves
    out.clip(-1.0, 1.0, out=out)


@lru_cache(maxsize=64)
def _per_point(numbers_rc: tuple[float, float], size: int) -> Any:
    """Return what to combine with ``size`` numbers so that every point gets these two."""
    row, column = numbers_rc
    return row if row == column else np.tile(np.array(numbers_rc, np.float32), size // 2)


def chosen_points(stored: int, wanted: int | None) -> Any:
    """Choose points by index, evenly spread; more than there are repeats some."""
    if wanted is None or wanted == stored:
        return slice(None)
    if stored == 0:
        raise ConfigError("these tracks hold no points to choose from")
    return ((np.arange(wanted) + 0.5) * stored / wanted).astype(np.int64)
