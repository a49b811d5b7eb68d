"""Steps of points as AMPLIFY's loss sees them: from whole pixel to whole pixel of the canvas."""

from collections.abc import Iterator

import numpy as np

LOSS_WINDOW = (15, 15)
"""Rows and columns, in img pixels, of AMPLIFY's window of per-step displacements."""


def rounded_steps(pixels: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield, for both coordinates of ``pixels`` (..., T, N, 2), the steps (..., T - 1, N).

    ``size`` is the canvas's, in the order of the coordinates.  Positions are clamped to
    [0, size - 1] and rounded (half to even) *before* the difference is taken, so steps are whole
    numbers, in the dtype of the points.
    """
    for axis in (0, 1):  # numpy is slow along an axis of 2
        place = np.rint(np.clip(pixels[..., axis], 0, size[axis] - 1))
        yield np.diff(place, axis=-2)
