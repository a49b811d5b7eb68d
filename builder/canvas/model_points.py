"""Points (x, y) in pixels to what a model takes, (row, col) in [-1, 1], always with the same bits.

Training and the live camera both go through here, in float32 and in one order of operations.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from schemas.affine import AxisAffine, swap_xy

Operation = tuple[np.ufunc, tuple[float, float]]
"""A ufunc on all points, and its second operand (row, col)."""


def map_operations(maps: Iterable[AxisAffine]) -> tuple[Operation, ...]:
    """Return what applies maps of (x, y), one after another, to points that are (row, col)."""
    return tuple(
        (ufunc, swap_xy(numbers_xy))
        for each in maps
        for ufunc, numbers_xy in ((np.multiply, each.scale_xy), (np.add, each.offset_xy))
    )


def write_points(points_xy: np.ndarray, operations: Sequence[Operation], out: np.ndarray) -> None:
    """Write points (horizon, N, 2) (x, y) into ``out`` as (row, col), operations applied.

    The first operation multiplies.  Points are float32, or uint16 of fixed point; ``out`` is
    float32 and contiguous.
    """
    numbers = out.reshape(-1)
    if points_xy.dtype == np.uint16:
        numbers[...] = _swapped(points_xy)
    else:
        points_xy = np.asarray(points_xy, np.float32)
        cv2.transform(points_xy, _swap_and_scale(operations[0][1]), out)
        operations = operations[1:]
    for ufunc, numbers_rc in operations:
        ufunc(numbers, _per_point(numbers_rc, numbers.size), out=numbers)


def affine_matrix(affine: AxisAffine) -> np.ndarray:
    """Return the (2, 3) float64 matrix that maps (x, y, 1) as ``affine`` maps (x, y)."""
    (sx, sy), (ox, oy) = affine.scale_xy, affine.offset_xy
    if affine.transpose:
        return np.array([[0.0, sx, ox], [sy, 0.0, oy]])
    return np.array([[sx, 0.0, ox], [0.0, sy, oy]])


@lru_cache(maxsize=64)
def _swap_and_scale(scale_rc: tuple[float, float]) -> np.ndarray:
    """Return the matrix that makes (row, col) of (x, y) and scales them, in one pass.

    Finite numbers times 0 add nothing: the bits are those of scaling alone.
    """
    row, column = scale_rc
    return np.array([[0, row], [column, 0]], np.float32)


def _swapped(points: np.ndarray) -> np.ndarray:
    """Return points (..., 2) of uint16 as one row of numbers, the two of every point swapped.

    All bytes of a point are reversed, then those of each number: numpy does that fastest.
    """
    reversed_points = np.ascontiguousarray(points).reshape(-1).view(">u4").astype("<u4")
    return reversed_points.view(">u2").astype("<u2")


@lru_cache(maxsize=64)
def _per_point(numbers_rc: tuple[float, float], size: int) -> Any:
    """Return what to combine with ``size`` numbers so that every point gets these two."""
    row, column = numbers_rc
    return row if row == column else np.tile(np.array(numbers_rc, np.float32), size // 2)
