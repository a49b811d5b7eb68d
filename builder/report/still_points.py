"""Points whose picture stands still, and tracks that move them all the same.

Without truth, a point counts as still when the camera stands, so that most of the picture does not
change, and its surroundings change by no more than noise from its window's first frame to any
later one.  What noise is taken for depends on the texture that it competes with, so points are told
apart by :func:`texture_ratio`.  With a camera that moves nothing counts as still: on scenes with
truth few of the still points were found there, and others with them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from builder.canvas.loss_steps import rounded_steps

PATCH = 9
"""Side of the square around a point that is looked at, in pixels: about what optical flow sees."""
_BLOCK = 8  # side of the squares whose change tells the noise
_QUIETEST = 0.2  # share of them that nothing but noise changes, in any picture
# The mean of 64 squares of normal numbers is below this at its 0.2 quantile, and noise-free
# pictures are rounded to whole levels all the same.
_BIAS, _ROUNDING = 0.85, 1 / 12
_UNCHANGED = 2.0
"""Mean square of a patch's change, in units of noise alone, up to which it is unchanged."""
TELLING = 3.0
"""Texture ratio from which on a motion by half a pixel changes a patch by more than noise does."""
_FIXED = 0.6  # share of blocks that are unchanged while a camera stands


EDGES = (0.25, 0.5, 1.0, 2.0, 3.0, 6.0, 12.0)
"""Between the bins of :func:`texture_ratio` that points are counted in."""


class WindowLook(NamedTuple):
    """What the pictures of one window tell: noise in grey levels, and (N,) of its points.

    ``ratio`` as in :func:`texture_ratio`, ``bins`` its place among ``EDGES``; ``still``: counted
    as still.
    """

    noise: float
    fixed: bool
    ratio: np.ndarray
    bins: np.ndarray
    still: np.ndarray


def look(frames: np.ndarray, points_xy: np.ndarray) -> WindowLook:
    """Look at the frames (K, H, W, 3) of a window, K >= 2, around its query points (N, 2)."""
    grays = luma(frames)
    noise, fixed = noise_level(grays)
    ratio = texture_ratio(grays[0], points_xy, noise)
    bins = np.searchsorted(EDGES, ratio, side="right")
    still = unchanged(grays, points_xy, noise) & fixed
    return WindowLook(noise, fixed, ratio, bins, still)


def luma(frames: np.ndarray) -> np.ndarray:
    """Return the brightness (K, H, W) float32 of frames (K, H, W, 3) uint8 RGB, in grey levels."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(frames, np.float32) @ weights


def noise_level(grays: np.ndarray) -> tuple[float, bool]:
    """Measure the noise of frames (K, H, W), K >= 2, that follow one another.

    Returns its standard deviation in one frame, in grey levels, from the blocks that change least
    between frames, and whether the camera stands: most blocks change by no more than that.
    """
    blocks = _block_means(np.diff(grays, axis=0) ** 2)
    per_step = np.quantile(blocks, _QUIETEST, axis=(1, 2)) / _BIAS
    variance = max(float(np.median(per_step)) / 2, _ROUNDING)
    since = _block_means((grays[1:] - grays[0]) ** 2)
    fixed = (since <= 2 * variance * _UNCHANGED).mean(axis=(1, 2)).min() >= _FIXED
    return float(np.sqrt(variance)), bool(fixed)


def texture_ratio(gray: np.ndarray, points_xy: np.ndarray, noise: float) -> np.ndarray:
    """Return how much more texture than noise there is around points (N, 2) of a frame (H, W).

    The change that a motion by one pixel in the direction of least texture makes, root of the mean
    square over a patch, divided by the noise; noise's own share of it is taken out.  The smaller
    eigenvalue of the structure tensor is that of Shi and Tomasi, "Good features to track", 1994.
    """
    down, right = np.gradient(gray)
    a, b, c = (
        _patches(each[None], points_xy)[0].mean(axis=(1, 2), dtype=np.float64)
        for each in (right * right, right * down, down * down)
    )
    least = (a + c) / 2 - np.sqrt(((a - c) / 2) ** 2 + b * b)
    # A central difference of white noise has half its variance.
    return np.asarray(np.sqrt(np.maximum(least - noise * noise / 2, 0)) / noise)


def unchanged(grays: np.ndarray, points_xy: np.ndarray, noise: float) -> np.ndarray:
    """Tell (N,) where nothing but noise changes around points (N, 2), in all frames (K, H, W)."""
    patches = _patches(grays, points_xy)
    change = ((patches[1:] - patches[0]) ** 2).mean(axis=(2, 3))
    return np.asarray((change <= 2 * noise * noise * _UNCHANGED).all(axis=0))


def moved_steps(tracks_xy: np.ndarray, img_shape: tuple[int, int]) -> np.ndarray:
    """Tell (horizon - 1, N) which steps of tracks (horizon, N, 2) are motion in AMPLIFY's loss."""
    across, down = rounded_steps(tracks_xy, img_shape[::-1])
    return np.asarray((across != 0) | (down != 0))


def _block_means(values: np.ndarray) -> np.ndarray:
    """Average (K, H, W) over blocks; what does not fill one at the right and bottom is left out."""
    count, height, width = values.shape
    side = min(_BLOCK, height, width)
    rows, columns = height // side, width // side
    cut = values[:, : rows * side, : columns * side]
    return cut.reshape(count, rows, side, columns, side).mean(axis=(2, 4), dtype=np.float64)


def _patches(pictures: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Cut the patches (K, N, side, side) around points out of pictures (K, H, W)."""
    height, width = pictures.shape[1:]
    side = min(PATCH, height, width)
    at = np.floor(points_xy).astype(np.intp) - side // 2
    at = np.clip(at, 0, np.subtract((width, height), side))
    steps = np.arange(side)
    return pictures[:, at[:, 1, None, None] + steps[:, None], at[:, 0, None, None] + steps[None, :]]
