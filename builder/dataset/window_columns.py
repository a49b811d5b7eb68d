"""The columns of the window table, computed for all windows of one view."""

import mmap
from typing import Any

import numpy as np

from builder.canvas.windows import valid_steps
from builder.dataset.episodes import ViewData
from builder.trackers.motion import ZERO_STEP_PX

# Displacements beyond this fall outside the classes of AMPLIFY's loss, 15 x 15 pixels.
SATURATED_STEP_PX = 7.0

COLUMNS = {
    "motion": "mean step of visible points, px",
    "motion_max": "largest step of a visible point, px",
    "vis": "share of visible points",
    "zero": "share of steps under half a pixel",
    "saturated": "share of steps over 7 px in x or y",
    "clipped": "share of points outside the canvas",
    "conf": "mean confidence, NaN when the tracker gives none",
    "cut": "largest mean change from a frame to the next, in levels; a scene cut is a peak",
}
"""Over the steps that show a frame of their own; NaN where there is nothing to count."""

ROW = np.dtype([*((name, "<f4") for name in COLUMNS), ("start", "<i8")])

# Points read together: bounds memory, also where one window is a whole long episode.
_BLOCK_POINTS = 64 * 16 * 400
_FRAMES = 64
_SPARSE = 4  # a cut shows in every fourth pixel of a row and column


def window_rows(view: ViewData, length: int) -> np.ndarray:
    """Compute the rows of one view of ``length`` frames, (S,) of ``ROW``, one per window."""
    starts = np.asarray(view.starts)
    rows = np.empty(len(starts), ROW)
    rows["start"] = starts
    _, horizon, points = view.vis.shape
    block = max(1, _BLOCK_POINTS // max(1, horizon * points))
    for at in range(0, len(starts), block):
        _fill(rows[at : at + block], view, slice(at, at + block), length)
    if len(starts):
        rows["cut"] = _cuts(view.frames, starts, horizon, length)
    return rows


def _fill(rows: np.ndarray, view: ViewData, block: slice, length: int) -> None:
    """Compute all columns but ``cut`` for some windows, a few steps of them at a time."""
    _, horizon, points = view.vis.shape
    steps = max(1, _BLOCK_POINTS // max(1, len(rows) * points))
    sums = np.zeros(len(rows), [(name, "<f8") for name in (*COLUMNS, "points", "steps")])
    sums["motion_max"] = -1
    for first in range(0, horizon, steps):
        # With the step before, to which the first one is a displacement.
        part = slice(max(first - 1, 0), first + steps)
        own = valid_steps(rows["start"], horizon, length)[:, part]
        _add(sums, view, (block, part), own, first - part.start)
        _release(view.tracks, view.vis, view.conf)
    for name, count in (("vis", "points"), ("clipped", "points"), ("conf", "points")):
        rows[name] = _mean(sums[name], sums[count])
    for name in ("motion", "zero", "saturated"):
        rows[name] = _mean(sums[name], sums["steps"])
    rows["motion_max"] = np.where(sums["steps"], sums["motion_max"], np.nan)
    if view.conf is None:
        rows["conf"] = np.nan


def _add(
    sums: np.ndarray, view: ViewData, part: tuple[slice, slice], own: np.ndarray, seen_before: int
) -> None:
    """Add some steps of some windows; the first ``seen_before`` of them only as origins.

    ``own`` (n, steps) tells which of them show a frame of their own.
    """
    xy = np.asarray(view.tracks[part], np.float32)
    seen = (np.asarray(view.vis[part]) > 0) & own[:, :, None]
    new = own[:, seen_before:]
    height, width = view.geometry.img_shape
    x, y = xy[:, seen_before:, :, 0], xy[:, seen_before:, :, 1]
    outside = (x < 0) | (x > width) | (y < 0) | (y > height)
    sums["points"] += new.sum(axis=1) * xy.shape[2]
    sums["vis"] += np.count_nonzero(seen[:, seen_before:], axis=(1, 2))
    sums["clipped"] += np.count_nonzero(outside & new[:, :, None], axis=(1, 2))
    if view.conf is not None:
        conf = np.asarray(view.conf[part])[:, seen_before:]
        sums["conf"] += (conf.sum(axis=2, dtype=np.float64) * new).sum(axis=1)
    moved = np.diff(xy, axis=1)
    both = seen[:, 1:] & seen[:, :-1]
    lengths = np.where(both, np.hypot(moved[..., 0], moved[..., 1]), 0)
    far = np.abs(moved).max(axis=-1, initial=0) > SATURATED_STEP_PX
    sums["steps"] += np.count_nonzero(both, axis=(1, 2))
    sums["motion"] += lengths.sum(axis=(1, 2), dtype=np.float64)
    sums["motion_max"] = np.maximum(sums["motion_max"], lengths.max(axis=(1, 2), initial=0))
    sums["zero"] += np.count_nonzero(both & (lengths < ZERO_STEP_PX), axis=(1, 2))
    sums["saturated"] += np.count_nonzero(both & far, axis=(1, 2))


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count, total / np.maximum(count, 1), np.nan)


def _cuts(frames: Any, starts: np.ndarray, horizon: int, length: int) -> np.ndarray:
    """Return the largest change from frame to frame in each window, NaN without frames."""
    if frames is None:
        return np.full(len(starts), np.nan)
    change, before = np.zeros(length, np.float32), None
    for index in range(length):
        now = np.asarray(frames[index])[::_SPARSE, ::_SPARSE].astype(np.int16)
        if before is not None:
            change[index] = np.abs(now - before).mean()
        before = now
        if index % _FRAMES == 0:
            _release(frames)
    return np.array([change[s + 1 : s + horizon].max(initial=0.0) for s in starts], np.float32)


def _release(*arrays: Any) -> None:
    """Release the pages of mapped arrays, so that memory does not grow with their length."""
    for array in arrays:
        at = getattr(array, "stored", array)
        while isinstance(at, np.ndarray | memoryview):
            at = at.base if isinstance(at, np.ndarray) else at.obj
        if isinstance(at, mmap.mmap) and hasattr(at, "madvise"):
            at.madvise(mmap.MADV_DONTNEED)
