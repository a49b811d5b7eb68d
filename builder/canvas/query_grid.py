"""Where tracked points start: the cell centres of a grid over the content or the canvas."""

import math

import numpy as np

from builder.core.errors import TrackingError
from schemas.dataset import QuerySpec
from schemas.geometry import Geometry

EDGE_PX = 1e-3
"""Queries come through float32 maps: one on the frame's very edge may land this far outside."""


def query_points(spec: QuerySpec, geometry: Geometry) -> np.ndarray:
    """Return the query points (N, 2) float32, continuous (x, y) img pixels.

    Point k of a (rows, columns) grid is the centre of cell (row, column) with
    ``k = column * rows + row`` for ``rows_fastest`` (AMPLIFY's order) and
    ``k = row * columns + column`` for ``columns_fastest``.  Raises TrackingError for the
    region ``stored``, whose points only the array ``queries`` tells.
    """
    if spec.region == "stored":
        raise TrackingError(
            "the region 'stored' has no grid: its query points are the array queries of each view; "
            "choose content or canvas to track new ones"
        )
    rows, columns = spec.grid
    height, width = geometry.img_shape
    whole = (0, 0, width, height)
    left, top, right, bottom = geometry.content_box if spec.region == "content" else whole
    x = left + (np.arange(columns) + 0.5) * ((right - left) / columns)
    y = top + (np.arange(rows) + 0.5) * ((bottom - top) / rows)
    # "ij" makes the first argument the slow axis.
    if spec.order == "rows_fastest":
        grid_x, grid_y = np.meshgrid(x, y, indexing="ij")
    else:
        grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    return np.stack([grid_x.ravel(), grid_y.ravel()], axis=-1).astype(np.float32)


def queries_in_frame(shape: tuple[int, int], queries_xy: np.ndarray) -> np.ndarray:
    """Return ``queries_xy`` as a float32 copy (N, 2) if all lie in a frame of ``shape`` (H, W).

    The frame's edges count as inside, and so does rounding within EDGE_PX of them.  Raises
    TrackingError naming the first bad point.
    """
    queries = np.array(queries_xy, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != 2:
        raise TrackingError(f"queries must be (N, 2) points (x, y), got shape {queries.shape}")
    height, width = shape
    low, high = -EDGE_PX, np.add((width, height), EDGE_PX)
    inside = np.all((queries >= low) & (queries <= high), axis=1)  # False for NaN
    if not inside.all():
        first = int(np.argmin(inside))
        x, y = queries[first]
        raise TrackingError(
            f"query point {first} (x, y) = ({x:g}, {y:g}) lies outside its frame of "
            f"{height} x {width} (H x W); {int((~inside).sum())} of {len(queries)} points do"
        )
    return queries


def grid_span(queries_xy: np.ndarray, slack: float) -> tuple[float, float] | None:
    """Return the (height, width) whose cell centres, in AMPLIFY's order, points (N, 2) are.

    The grid has as many rows as columns, at least 2, and its corner at (0, 0); both sides are in
    the points' own unit.  None when a point is more than ``slack`` from its centre.
    """
    side = math.isqrt(len(queries_xy))
    if side < 2 or side * side != len(queries_xy):
        return None
    points = np.asarray(queries_xy, np.float64)
    width, height = points.min(axis=0) + points.max(axis=0)
    centres = (np.arange(side) + 0.5) / side
    on_x, on_y = np.repeat(centres, side) * width, np.tile(centres, side) * height
    off = np.abs(points - np.stack([on_x, on_y], axis=-1)).max()
    return (float(height), float(width)) if off <= slack and min(height, width) > 0 else None


def is_older_grid(points_xy: np.ndarray, height: int) -> bool:
    """Tell whether points (N, 2) are the older route's grid in pictures so high.

    It is scaled by the height on both axes, whatever the width.  The pictures may be those that
    were tracked, or of another size: sides were rounded then.
    """
    slack = max(1.0, 0.005 * height)
    span = grid_span(points_xy, slack)
    return span is not None and max(abs(side - height) for side in span) <= slack
