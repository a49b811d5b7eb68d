"""What is needed of an open episode to cut its windows fast; made once, used many times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.dataset import EpisodeData, ViewData
from builder.errors import ConfigError
from builder.legacy.hdf5 import LegacyTracks
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
    in_content: np.ndarray
    """(N,) bool: points that start on the picture."""
    older: bool = False
    """Normalized by the older route's own operations, clipping among them."""


@dataclass(frozen=True)
class Sliding:
    """A whole-episode array (1, T, ...) as windows; past its end the last step is repeated."""

    stored: Any
    start_every: int

    def __getitem__(self, key: tuple[int, slice]) -> np.ndarray:
        window, steps = key
        start = window * self.start_every
        rows = np.asarray(self.stored[0, start : start + steps.stop])
        missing = steps.stop - len(rows)
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
    return ViewWindows(
        tracks=tracks if cut_every is None else Sliding(tracks, cut_every),
        vis=vis if cut_every is None else Sliding(vis, cut_every),
        frames=view.frames,
        stored=stored,
        box=box,
        norm=norm,
        decode=~encode,
        in_content=np.asarray(stored.inside(np.asarray(view.queries))),
        older=isinstance(tracks, LegacyTracks),
    )


def refit(box: Letterbox | Stretch, img_shape: tuple[int, int]) -> Letterbox | Stretch:
    """Fit the same source onto another canvas."""
    if isinstance(box, Letterbox):
        return Letterbox.fit(box.source_shape, img_shape, box.sample_aspect_ratio)
    return Stretch(source_shape=box.source_shape, img_shape=img_shape)


def write_tracks(view: ViewWindows, window: int, points: Any, out: np.ndarray) -> None:
    """Write a window's tracks into ``out`` (horizon, N, 2) as normalized (row, col).

    ``points`` selects among the stored ones: a slice or an index array.
    """
    tracks_xy = np.asarray(view.tracks[window, : len(out)])[:, points]
    if view.older:
        tracks_xy = tracks_xy.astype(np.float32, copy=False)
    # Per component and straight into place: numpy is slow along an axis of two.
    for column, axis in ((0, 1), (1, 0)):
        row = out[..., column]
        if view.older:
            # normalize_traj's operations in its order, so that the bits are the same.
            half = view.box.img_shape[column] / 2
            np.subtract(tracks_xy[..., axis], half, out=row)
            row /= half
        else:
            np.multiply(tracks_xy[..., axis], view.norm.scale_xy[axis], out=row)
            row += view.norm.offset_xy[axis]
    if view.older:
        np.clip(out, -1.0, 1.0, out=out)


def steps_of(episode: EpisodeData, name: str, start: int, horizon: int) -> np.ndarray:
    """Cut a per-frame array to a window, zeros after its end; other arrays come whole."""
    array = episode.arrays[name]
    if not episode.meta.per_frame(name):
        return np.array(array)
    out = np.zeros((horizon, *array.shape[1:]), array.dtype)
    rows = array[start : start + horizon]
    out[: len(rows)] = rows
    return out


def chosen_points(stored: int, wanted: int | None) -> Any:
    """Choose points by index, evenly spread; more than there are repeats some."""
    if wanted is None or wanted == stored:
        return slice(None)
    if stored == 0:
        raise ConfigError("these tracks hold no points to choose from")
    return ((np.arange(wanted) + 0.5) * stored / wanted).astype(np.int64)
