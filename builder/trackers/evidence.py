"""Where a picture stands still, and where it has changed, since a window began: for flat surfaces.

A flat surface shows no motion by itself.  Its neighbours with texture do: those that would betray
half a pixel and have not changed are evidence that nothing moves there, those that change are
evidence of the contrary.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from builder.trackers.sampling import sample_fast

FLOOR = 0.12
"""Least standard deviation of noise, in grey levels of a blurred picture: that of rounding."""

LOUDEST = 4.0
"""What is louder is no camera's noise: everything has changed."""

_DARK = np.float32(8)  # grey levels added before brightnesses are compared as a ratio
_SOME = 4  # every so many rows and columns tell the light
_BLOCK, _QUIETEST = 8, 0.2  # noise is that of the fifth of the blocks that changes least
_BIAS = 0.7  # such a block's mean square, by that of all blocks of white noise that was blurred
_SURROUND, _SMOOTH, _CHANGED = 9, 5, 3  # sides of squares, in pixels of half the size
_SHIFT = 0.15  # px: less than this is no change
_UNCHANGED = 4.0  # mean square up to which a place is unchanged, in units of noise alone
_TELLING = 16.0  # gradient, in units of noise, from which half a pixel of motion shows
_NEAR, _WIDE = 1.5, 5.0  # how far evidence reaches, in pixels of a quarter of the size


def in_the_light_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return a second picture (H, W) float32 as bright as the first, as most places tell."""
    some = slice(None, None, _SOME)
    before, now = (each[some, some] + _DARK for each in (first, second))
    return (second + _DARK) / np.float32(np.median(now / before)) - _DARK


def quiet_variance(square: np.ndarray, floor: float = FLOOR) -> float:
    """Return the variance of one picture's noise, of squared differences (H, W) of two."""
    height, width = square.shape
    size = max(1, width // _BLOCK), max(1, height // _BLOCK)
    blocks = cv2.resize(square, size, interpolation=cv2.INTER_AREA)
    found = float(np.quantile(blocks, _QUIETEST)) / 2 / _BIAS
    return min(max(found, floor**2), LOUDEST**2)


class Relief(NamedTuple):
    """Detail of a picture at half its size: (h, w) float32 each.

    ``detail`` is the brightness without that of the surroundings, which light changes; ``gradient``
    its mean squared gradient around each pixel, ``least`` that along the weakest axis.
    """

    detail: np.ndarray
    gradient: np.ndarray
    least: np.ndarray

    @classmethod
    def of(cls, grey: np.ndarray) -> Relief:
        """Measure a picture (H, W) float32."""
        height, width = grey.shape
        size = max(1, width // 2), max(1, height // 2)
        half = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        detail = half - cv2.blur(half, (_SURROUND, _SURROUND))
        right, down = (cv2.Scharr(detail, cv2.CV_32F, *axes) / 32 for axes in ((1, 0), (0, 1)))
        a, b, c = (
            cv2.blur(x * y, (_SMOOTH, _SMOOTH))
            for x, y in ((right, right), (right, down), (down, down))
        )
        least = (a + c) / 2 - np.sqrt(((a - c) / 2) ** 2 + b * b)
        return cls(detail, a + c, least)

    def noise(self, before: Relief) -> float:
        """Return the variance of the noise in ``detail``, from that of the frame before."""
        apart = self.detail - before.detail
        return quiet_variance(apart * apart, FLOOR / 2)


class Evidence:
    """The evidence of one window, from its first frame on."""

    def __init__(self, start: Relief) -> None:
        self._start = start
        self._most = np.zeros_like(start.detail)

    def at(
        self, now: Relief, noise: float, points_xy: np.ndarray, shape: tuple[int, int]
    ) -> np.ndarray:
        """Take the next frame; return the evidence (N, 6) at points (N, 2) of a frame (H, W).

        Shares of the pixels that stand still and that change: near, around, and everywhere.
        """
        start = self._start
        apart = now.detail - start.detail
        change = cv2.blur(apart * apart, (_CHANGED, _CHANGED))
        change /= 2 * noise + _SHIFT**2 * start.gradient
        np.maximum(self._most, change, out=self._most)
        stands = (start.least > _TELLING * noise) & (self._most < _UNCHANGED)
        changes = change > 2 * _UNCHANGED
        height, width = shape
        size = max(1, width // 4), max(1, height // 4)
        quarter = np.stack(
            [
                cv2.resize(each.astype(np.float32), size, interpolation=cv2.INTER_AREA)
                for each in (stands, changes)
            ],
            axis=-1,
        )
        near, wide = (cv2.GaussianBlur(quarter, (0, 0), sigma) for sigma in (_NEAR, _WIDE))
        field = np.concatenate([near, wide], -1)
        scale = np.array([size[0] / width, size[1] / height], np.float32)
        local = sample_fast(field, points_xy * scale)
        everywhere = np.broadcast_to(quarter.mean(axis=(0, 1)), (len(points_xy), 2))
        return np.concatenate([local, everywhere], axis=1)
