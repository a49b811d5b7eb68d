"""Points given in normalized coordinates, from 0 to 1 over the whole picture, as pixels."""

import numpy as np

from builder.core.errors import SourceError


def check_normalized(xy: np.ndarray, visible: np.ndarray, where: str) -> None:
    """Refuse points (..., 2) that cannot be shares of a picture; ``visible`` (...) bool.

    Single points may leave the picture, and in ATM's files many begin outside it: it queries
    points in frames drawn at random, with noise, and tracks them both ways.  Raises SourceError,
    naming ``where``, when most that are visible are half a picture or more outside.
    """
    seen_xy = xy[visible]
    outside = ((seen_xy < -0.5) | (seen_xy > 1.5)).any(axis=-1)
    if outside.size and outside.mean() > 0.5:
        raise SourceError(
            f"{where}: points must be normalized, from 0 to 1 over the picture, but they go up to "
            f"{np.nanmax(xy):g}; if they are pixels, divide them by its width and height"
        )


def normalized_to_pixels(
    xy: np.ndarray, visible: np.ndarray, shape: tuple[int, int], where: str
) -> np.ndarray:
    """Turn points (..., 2) from 0 to 1 over the whole picture into its pixels, float32.

    Both count from the outer corner.  ``visible`` (...) bool, ``shape`` (H, W).  Raises
    SourceError as :func:`check_normalized` does.
    """
    check_normalized(xy, visible, where)
    return xy.astype(np.float32) * np.array(shape[::-1], np.float32)
