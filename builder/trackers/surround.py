"""What happens around a point that seems to go: whether it goes, or something comes over it.

Flow ahead of an edge that moves is that of the edge, so a point of a plain wall would run before
the arm that comes to cover it.  But ahead of it the wall stands and looks like it, and what is
now in its place has come from behind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from builder.trackers.sampling import sample_fast

NAMES = (
    "own speed",
    "speed ahead",
    "speed behind",
    "speed of what came to the query",
    "other colour ahead",
    "other colour behind",
)
"""Speeds along the way from the query, in pixels a frame; all as log(1 + x), with their sign."""

_REACH = 5.0  # px of the raster: how far ahead and behind is looked
_SURE = 0.5  # px: nearer to the query, no way can be told
_COLOURS = 3.0  # grey levels that count as one

Moves = Callable[[np.ndarray], np.ndarray]
"""Maps points (M, 2) of one frame to where they are in another."""


def surround(
    queries_xy: np.ndarray,
    before_xy: np.ndarray,
    now_xy: np.ndarray,
    raster: float,
    goes_to: Moves,
    came_from: Moves,
    picture: np.ndarray,
    colours: np.ndarray,
) -> np.ndarray:
    """Look around points (M, 2) that went from ``before_xy`` to ``now_xy`` in the newest frame.

    ``raster`` is a pixel of the raster in pixels, ``picture`` (H, W, 3) the newest frame, blurred,
    and ``colours`` (M, 3) what the points look like.  Returns (M, len(NAMES)) float32.
    """
    way = now_xy - queries_xy
    way = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), _SURE * raster)
    reach = way * (_REACH * raster)

    def speed(moved: np.ndarray) -> np.ndarray:
        along = np.einsum("mk,mk->m", moved, way) / raster
        return np.asarray(np.sign(along) * np.log1p(np.abs(along)))

    def other(points_xy: np.ndarray) -> np.ndarray:
        apart = np.abs(sample_fast(picture, points_xy) - colours).mean(axis=1)
        return np.asarray(np.log1p(apart / _COLOURS))

    ahead, behind = before_xy + reach, before_xy - reach
    columns = [
        speed(now_xy - before_xy),
        speed(goes_to(ahead) - ahead),
        speed(goes_to(behind) - behind),
        speed(queries_xy - came_from(queries_xy)),
        other(now_xy + reach),
        other(now_xy - reach),
    ]
    return np.stack(columns, axis=1).astype(np.float32)
