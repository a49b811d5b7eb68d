"""Windows of one view of an open episode: prepared once, then cut fast, sample by sample."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from builder.canvas.model_points import Operation, affine_matrix, map_operations, write_points
from builder.core.errors import ConfigError
from builder.dataset.episodes import OlderTracks, ViewData
from builder.stores.codecs import U16_OFFSET, U16_SCALE, FixedPoint
from builder.training.augment import warp
from schemas.affine import AxisAffine, swap_xy
from schemas.geometry import Geometry, Stretch


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
    conf: Any = None
    """(S, horizon, N), or None."""
    older: OlderTracks | None = None
    """Of an older file: its tracks are checked, and clipped, as their own loader clips them."""

    def pieces(
        self, window: int, start: int, steps: slice, history: int
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (array, key) of what a sample reads: ``steps`` of a window, frames to ``start``.

        Of whole-episode tracks ``EpisodeWindows`` says the key.  ``history`` 0 reads no frames.
        """
        for array in (self.tracks, self.vis, self.conf):
            if isinstance(array, EpisodeWindows):
                yield array.stored, array.key(window, steps)
            elif array is not None:
                yield array, (window, steps)
        if history and self.frames is not None:
            yield from ((self.frames, max(0, start - back)) for back in range(history))


@dataclass(frozen=True)
class EpisodeWindows:
    """A whole-episode array (1, T, ...) as windows; past its end the last step is repeated."""

    stored: Any
    start_every: int

    def __getitem__(self, key: tuple[int, slice]) -> np.ndarray:
        window, steps = key
        rows = np.asarray(self.stored[self.key(window, steps)])
        missing = steps.stop - steps.start - len(rows)
        return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows

    def key(self, window: int, steps: slice) -> tuple[int, slice]:
        """Return where in ``stored`` the steps of a window are."""
        start = window * self.start_every
        return 0, slice(start + steps.start, start + steps.stop)


def view_windows(view: ViewData, img_shape: tuple[int, int], cut_every: int | None) -> ViewWindows:
    """Prepare one view for samples on a canvas of ``img_shape``.

    ``cut_every`` cuts whole-episode tracks into windows that start so many frames apart.
    """
    stored = view.geometry
    box = stored if stored.img_shape == img_shape else stored.onto(img_shape)
    norm = AxisAffine.normalization(img_shape)
    encode = norm @ box.affine
    tracks, vis, conf = view.tracks, view.vis, view.conf
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
        operations = map_operations(maps)
    decode = ~encode
    if cut_every is not None:
        tracks, vis = EpisodeWindows(tracks, cut_every), EpisodeWindows(vis, cut_every)
        conf = None if conf is None else EpisodeWindows(conf, cut_every)
    return ViewWindows(
        tracks=tracks,
        vis=vis,
        conf=conf,
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
    write_points(tracks_xy, view.operations, out)
    if view.older is not None:
        # What is not finite has become NaN in one pass with the swap (infinity times 0 is), and
        # the least number tells of it; the slower look is for the message.
        if out.size and math.isnan(np.minimum.reduce(out, axis=None)):
            view.older.check_finite(np.asarray(tracks_xy, np.float32))
        out.clip(-1.0, 1.0, out=out)


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


def chosen_points(stored: int, wanted: int | None) -> Any:
    """Choose points by index, evenly spread.

    Returns a slice or indices (wanted,).  Raises ConfigError for more than are stored.
    """
    if wanted is None or wanted == stored:
        return slice(None)
    if wanted > stored:
        raise ConfigError(
            f"points={wanted}, but {stored} are stored: ask for {stored} at most, or track more "
            f"with letterset track"
        )
    return ((np.arange(wanted) + 0.5) * stored / wanted).astype(np.int64)
