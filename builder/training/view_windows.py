"""Windows of one view of an open episode: prepared once, then cut fast, sample by sample."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from builder.core.errors import ConfigError
from builder.dataset.episodes import OlderTracks, ViewData
from builder.stores.codecs import U16_OFFSET, U16_SCALE, FixedPoint
from builder.training.augment import affine_matrix, warp
from schemas.affine import AxisAffine, swap_xy
from schemas.geometry import Geometry, Stretch

Operation = tuple[np.ufunc, tuple[float, float]]
"""A ufunc on all points, and its second operand (row, col)."""


@dataclass(frozen=True)
class ViewWindows:
    """One view: arrays as stored, and the maps that samples need."""

    tracks: Any
    """(S, horizon, N, 2) (x, y) img px."""
    vis: Any
    """(S, horizon, N)."""
    frames: Any
    """(T, H, W, 3) uint8, or None."""
    stored: Geometry
    box: Geometry
    """The geometry of the sample's canvas; the stored one unless another img_shape is asked."""
    operations: tuple[Operation, ...]
    """What makes [-1, 1] on the sample's canvas of points as stored, in this order; the first
    multiplies."""
    decode: AxisAffine
    """From there to source pixels."""
    decode_rows: np.ndarray
    """The same as a (2, 3) float64 matrix."""
    in_content: np.ndarray
    """(N,) bool: points that start on the picture."""
    older: OlderTracks | None = None
    """Of an older file: its tracks are checked, and clipped, as their own loader clips them."""


@dataclass(frozen=True)
class EpisodeWindows:
    """A whole-episode array (1, T, ...) as windows; past its end the last step is repeated."""

    stored: Any
    start_every: int

    def __getitem__(self, key: tuple[int, slice]) -> np.ndarray:
        window, steps = key
        start = window * self.start_every
        rows = np.asarray(self.stored[0, start + steps.start : start + steps.stop])
        missing = steps.stop - steps.start - len(rows)
        return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def view_windows(view: ViewData, img_shape: tuple[int, int], cut_every: int | None) -> ViewWindows:
    """Prepare one view for samples on a canvas of ``img_shape``.

    ``cut_every`` cuts whole-episode tracks into windows that start so many frames apart.
    """
    stored = view.geometry
    box = stored if stored.img_shape == img_shape else stored.onto(img_shape)
    norm = AxisAffine.normalization(img_shape)
    encode = norm @ box.affine
    tracks, vis = view.tracks, view.vis
    older = view.older_tracks
    if older is not None:
        scale_xy = (1.0, 1.0)
        if older.only_scaled:
            tracks, scale_xy = older.stored, older.scale_xy
        operations = older_operations(scale_xy, img_shape)
    else:
        if box is not stored:
            norm = encode @ ~stored.affine
        maps: tuple[AxisAffine, ...] = (norm,)
        if isinstance(tracks, FixedPoint):
            tracks, maps = tracks.stored, packed_maps(norm)
        operations = tuple(
            (ufunc, swap_xy(numbers_xy))
            for each in maps
            for ufunc, numbers_xy in ((np.multiply, each.scale_xy), (np.add, each.offset_xy))
        )
    decode = ~encode
    return ViewWindows(
        tracks=tracks if cut_every is None else EpisodeWindows(tracks, cut_every),
        vis=vis if cut_every is None else EpisodeWindows(vis, cut_every),
        frames=view.frames,
        stored=stored,
        box=box,
        operations=operations,
        decode=decode,
        decode_rows=affine_matrix(decode),
        in_content=np.asarray(stored.inside(np.asarray(view.queries))),
        older=older,
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


def older_operations(
    scale_xy: tuple[float, float], img_shape: tuple[int, int]
) -> tuple[Operation, ...]:
    """Return the operations of the loader of older files, or fewer that give the same bits.

    They are ``(points * scale - half) / half`` with half of ``img_shape``.  Dividing by a power
    of two is exact and may come first.
    """
    halves = img_shape[0] / 2, img_shape[1] / 2
    row, column = swap_xy(scale_xy)
    if all(math.frexp(half)[0] == 0.5 for half in halves):
        return (np.multiply, (row / halves[0], column / halves[1])), (np.subtract, (1.0, 1.0))
    return (np.multiply, (row, column)), (np.subtract, halves), (np.divide, halves)


def write_tracks(
    view: ViewWindows, window: int, steps: slice, points: Any, out: np.ndarray
) -> None:
    """Write a window's tracks into ``out`` (horizon, N, 2) as normalized (row, col).

    ``steps`` and ``points`` select among the stored ones: a slice, a slice or an index array.
    """
    tracks_xy = np.asarray(view.tracks[window, steps])[:, points]
    numbers = out.reshape(-1)
    operations = view.operations
    if tracks_xy.dtype == np.uint16:
        numbers[...] = _swapped(tracks_xy)
    else:
        tracks_xy = np.asarray(tracks_xy, np.float32)
        cv2.transform(tracks_xy, _swap_and_scale(operations[0][1]), out)
        operations = operations[1:]
    for ufunc, numbers_rc in operations:
        ufunc(numbers, _per_point(numbers_rc, numbers.size), out=numbers)
    if view.older is not None:
        # What is not finite has become NaN in one pass with the swap (infinity times 0 is), and
        # the least number tells of it; the slower look is for the message.
        if numbers.size and math.isnan(np.minimum.reduce(numbers)):
            view.older.check_finite(tracks_xy)
        numbers.clip(-1.0, 1.0, out=numbers)


def write_vis(view: ViewWindows, window: int, steps: slice, points: Any, out: np.ndarray) -> None:
    """Write a window's visibility into ``out`` (horizon, N); see :func:`write_tracks`."""
    out[...] = np.asarray(view.vis[window, steps])[:, points]
    if view.older is not None and not math.isfinite(np.add.reduce(out, axis=None)):
        view.older.check_finite(out, "vis")


def write_pictures(
    view: ViewWindows, start: int, affine: AxisAffine | None, out: np.ndarray
) -> None:
    """Write the frames up to and including ``start`` into ``out`` (K, H, W, 3), oldest first.

    The first frame is repeated before it.  ``affine`` is the augmentation's map of the canvas.
    """
    for back, slot in enumerate(reversed(out)):
        frame = np.asarray(view.frames[max(0, start - back)])
        if view.box is not view.stored:
            frame = _onto_canvas(frame, view)
        if affine is not None:
            frame = warp(frame, affine)
        slot[...] = frame
        if out.dtype == np.float32:
            slot /= 255


def _onto_canvas(frame: np.ndarray, view: ViewWindows) -> np.ndarray:
    """Move a stored frame onto the sample's canvas, through the source's own pixels."""
    from builder.canvas.letterbox import letterbox_frame, unletterbox_frame

    if isinstance(view.stored, Stretch):
        # Older files are stretched from canvas to canvas.
        direct = Stretch(source_shape=view.stored.img_shape, img_shape=view.box.img_shape)
        return letterbox_frame(frame, direct)
    return letterbox_frame(unletterbox_frame(frame, view.stored), view.box)


@lru_cache(maxsize=64)
def _swap_and_scale(scale_rc: tuple[float, float]) -> np.ndarray:
    """Return the matrix that makes (row, col) of (x, y) and scales them, in one pass.

    Finite numbers times 0 add nothing: the bits are those of scaling alone.
    """
    row, column = scale_rc
    return np.array([[0, row], [column, 0]], np.float32)


def _swapped(points: np.ndarray) -> np.ndarray:
    """Return points (..., 2) of uint16 as one row of numbers, the two of every point swapped.

    All bytes of a point are reversed, then those of each number: numpy does that fastest.
    """
    reversed_points = np.ascontiguousarray(points).reshape(-1).view(">u4").astype("<u4")
    return reversed_points.view(">u2").astype("<u2")


@lru_cache(maxsize=64)
def _per_point(numbers_rc: tuple[float, float], size: int) -> Any:
    """Return what to combine with ``size`` numbers so that every point gets these two."""
    row, column = numbers_rc
    return row if row == column else np.tile(np.array(numbers_rc, np.float32), size // 2)


def chosen_points(stored: int, wanted: int | None) -> Any:
    """Choose points by index, evenly spread; more than there are repeats some.

    Returns a slice or indices (wanted,).  Raises ConfigError when there is none to choose.
    """
    if wanted is None or wanted == stored:
        return slice(None)
    if stored == 0:
        raise ConfigError("these tracks hold no points to choose from")
    return ((np.arange(wanted) + 0.5) * stored / wanted).astype(np.int64)
