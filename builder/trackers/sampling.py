"""Values of a dense field between its pixels."""

import cv2
import numpy as np

ROWS = 30_000
"""Points at once: cv2.remap takes fewer than 32768."""


def sample(field: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Sample a dense field (H, W, C) at continuous (x, y) points (M, 2), bilinearly.

    The value of pixel (i, j) belongs to its centre (j + 0.5, i + 0.5); beyond the outermost
    centres the nearest value is taken.  Returns (M, C).
    """
    height, width = field.shape[:2]
    x = np.clip(points_xy[:, 0] - 0.5, 0, width - 1)
    y = np.clip(points_xy[:, 1] - 0.5, 0, height - 1)
    left = np.minimum(x.astype(np.intp), max(width - 2, 0))
    top = np.minimum(y.astype(np.intp), max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    wx, wy = (x - left)[:, None], (y - top)[:, None]
    upper = field[top, left] * (1 - wx) + field[top, right] * wx
    lower = field[bottom, left] * (1 - wx) + field[bottom, right] * wx
    return upper * (1 - wy) + lower * wy


def sample_fast(field: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Sample like ``sample``, float32 or uint8, at points rounded to 1/32 of a pixel.

    Takes a tenth of the time.  Returns (M, C) float32.
    """
    at = np.ascontiguousarray((points_xy - 0.5).T, np.float32)
    parts = [
        cv2.remap(
            field,
            at[0, low : low + ROWS, None],
            at[1, low : low + ROWS, None],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        ).reshape(-1, field.shape[2])
        for low in range(0, len(points_xy), ROWS)
    ]
    return np.concatenate(parts).astype(np.float32, copy=False)
