"""Small squares of a picture around points, and how much they differ beyond noise."""

from __future__ import annotations

import cv2
import numpy as np

from builder.trackers.sampling import ROWS

REACH = 2
"""A patch reaches this many pixels to each side of its point: 5 x 5."""

_DARK = 8.0  # grey levels added before brightnesses are compared as a ratio
_WIDEST_GAIN = 3.3
_BLUR = 0.15  # px: such a shift is no change, for sampling between pixels makes one
_SIDE = np.arange(-REACH, REACH + 1, dtype=np.float32) - np.float32(0.5)
_ACROSS, _DOWN = (each.ravel() for each in np.meshgrid(_SIDE, _SIDE))


def patches(picture: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Cut patches (M, 25 * C) around points (M, 2) out of a picture (H, W, C) float32.

    Bilinear between pixels; beyond the edges the nearest pixel is repeated.
    """
    across, down = np.ascontiguousarray(points_xy.T, np.float32)
    parts = [
        cv2.remap(
            picture,
            across[low : low + ROWS, None] + _ACROSS,
            down[low : low + ROWS, None] + _DOWN,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        ).reshape(-1, len(_ACROSS) * picture.shape[2])
        for low in range(0, len(points_xy), ROWS)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def structure(patch: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean squared gradient of patches (M, 25 * C), and that along its weakest axis."""
    side = 2 * REACH + 1
    square = patch.reshape(len(patch), side, side, channels)
    down = (square[:, 2:, 1:-1] - square[:, :-2, 1:-1]) / 2
    right = (square[:, 1:-1, 2:] - square[:, 1:-1, :-2]) / 2
    a, b, c = (
        (x * y).mean(axis=(1, 2, 3)) for x, y in ((right, right), (right, down), (down, down))
    )
    return a + c, np.maximum((a + c) / 2 - np.sqrt(((a - c) / 2) ** 2 + b * b), 0)


def mismatch(
    first: np.ndarray, now: np.ndarray, noise: float, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compare patches (M, K) with others, whatever the light: a common gain is taken out.

    ``noise`` is the variance of one picture's pixels, ``gradient`` (M,) the mean squared gradient
    of ``first``.  Returns the mean squared difference in units of what noise and sampling make
    (about 1 for the same thing), and the logarithm of the gain.
    """
    a, b = first + np.float32(_DARK), now + np.float32(_DARK)
    both = np.einsum("mk,mk->m", a, b)
    gain = np.clip(both / np.einsum("mk,mk->m", a, a), 1 / _WIDEST_GAIN, _WIDEST_GAIN)
    apart = b - gain[:, None] * a
    square = np.einsum("mk,mk->m", apart, apart) / np.float32(first.shape[1])
    expected = noise * (1 + gain * gain) + _BLUR**2 * gradient * gain * gain
    return square / expected, np.log(gain)


def difference(
    first: np.ndarray, now: np.ndarray, noise: float, gradient: np.ndarray
) -> np.ndarray:
    """Compare patches (M, K) as they are; see :func:`mismatch`."""
    apart = now - first
    square = np.einsum("mk,mk->m", apart, apart) / np.float32(first.shape[1])
    return square / (2 * noise + _BLUR**2 * gradient)
