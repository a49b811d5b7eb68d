"""The size of the frames that were tracked, and what older files tell of it.

The older route lays its query points over a square as high as the picture: their grid is scaled by
the height on both axes.  Step 0 therefore tells the height of the frames, never the width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from builder.canvas.query_grid import grid_span, is_older_grid
from builder.core.errors import ConfigError, DatasetError
from builder.core.messages import count
from builder.core.records import checked_shape
from builder.core.spacing import spread
from builder.dataset.episodes import TrackedSize, ViewData
from builder.dataset.legacy.files import LegacyRef, open_older
from schemas.legacy import QUERY_SLACK_PX, check_queries

if TYPE_CHECKING:
    from builder.dataset.legacy.videos import Videos

log = logging.getLogger("letterset.legacy")

Shape = tuple[int, int]
GivenSizes = Shape | Mapping[str, Shape]
"""One size (H, W) for all views, or one by view."""

SEEN_WINDOWS = 64
"""Windows of a view that are looked at for how far its points reach."""

HOW_TO_GIVE = (
    "give it, --tracked H W (or --tracked VIEW=HxW ...), or the folder of the videos that were "
    "tracked, --videos DIR"
)


def with_given_sizes(
    refs: Mapping[str, LegacyRef], given: GivenSizes | None
) -> dict[str, LegacyRef]:
    """Return files with a given size in the views that record none.

    What the attributes record goes before what is given, and a warning says where they differ.
    Raises ConfigError for what is no size, for a view that no file has, and where every file
    records another size than the given one.
    """
    if given is None:
        return dict(refs)
    by_view = dict(given) if isinstance(given, Mapping) else {}
    for name, shape in by_view.items():
        checked_shape(shape, f"tracked size of {name}")
        if not any(name in ref.sizes for ref in refs.values()):
            raise ConfigError(f"a tracked size is given for the view {name}, which no file has")
    every = None if isinstance(given, Mapping) else checked_shape(given, "tracked")
    _tell_recorded(refs, by_view, every)

    def size_of(name: str, size: TrackedSize) -> TrackedSize:
        shape = by_view.get(name, every)
        if shape is None or _stands(size):
            return size
        if size.origin == "relative":
            return TrackedSize(size.shape or shape, "relative")
        return TrackedSize(shape, "given")

    return {
        key: replace(ref, sizes={name: size_of(name, size) for name, size in ref.sizes.items()})
        for key, ref in refs.items()
    }


def _stands(size: TrackedSize) -> bool:
    """Whether the view's own attributes record its size."""
    return size.origin == "recorded" and not size.basis


def _tell_recorded(
    refs: Mapping[str, LegacyRef], by_view: Mapping[str, Shape], every: Shape | None
) -> None:
    given = [
        (ref, name, size, shape)
        for ref in refs.values()
        for name, size in ref.sizes.items()
        if (shape := by_view.get(name, every)) is not None
    ]
    others = [
        f"{ref.path}, view {name}: height and width are recorded as {_size(size.shape)}, but "
        f"--tracked gives {_size(shape)}"
        for ref, name, size, shape in given
        if size.shape is not None and _stands(size) and size.shape != shape
    ]
    if not others:
        return
    if all(_stands(size) for _, _, size, _ in given):
        raise ConfigError(f"{others[0]}; leave --tracked out, or correct the attributes")
    more = f" (and so do {count(len(others) - 1, 'other view')})" if len(others) > 1 else ""
    log.warning("%s%s; what is recorded counts", others[0], more)


def settled(ref: LegacyRef, videos: Videos | None) -> LegacyRef:
    """Return a file whose sizes were compared with its query points, or told by its videos.

    Sizes that stand at their own place, the group of the view, are only compared when the file is
    read.  Raises DatasetError where a given size contradicts the grid, and what
    ``Videos.tracked_size`` raises.
    """
    doubtful = {
        name: size
        for name, size in ref.sizes.items()
        if size.origin == "given"
        or (size.origin == "recorded" and size.basis)
        or (size.origin == "unknown" and videos is not None)
    }
    if not doubtful:
        return ref
    with open_older(ref.path) as file:
        spans = {
            name: grid_span(file.dataset(f"root/{name}/tracks")[0, 0], QUERY_SLACK_PX)
            for name in doubtful
        }
    sizes = {name: _settled(ref, name, spans[name], videos) for name in doubtful}
    return replace(ref, sizes={**ref.sizes, **sizes})


def _settled(
    ref: LegacyRef, name: str, span: tuple[float, float] | None, videos: Videos | None
) -> TrackedSize:
    size = ref.sizes[name]
    if size.shape is not None and (wrong := contradiction(span, size.shape)):
        told = f"{_size(size.shape)}, but {wrong}"
        if size.origin == "given":
            raise DatasetError(f"{ref.path}, view {name}: the given tracked size is {told}")
        size = TrackedSize(None, "unknown", f"{size.basis} and say {told}")
    if size.shape is not None or videos is None:
        return size
    found = videos.tracked_size(ref, name, span and round(span[0]))
    wrong = found.shape and contradiction(span, found.shape)
    if not (found.shape and wrong):
        return found
    told = f"{found.basis}: that makes the frames {_size(found.shape)}, but {wrong}"
    return TrackedSize(None, "unknown", told)


def check_size(queries_xy: np.ndarray, shape: Shape, where: str) -> None:
    """Refuse a recorded size (H, W) that step 0 of all windows (..., N, 2) does not fit.

    Raises DatasetError for points that lie neither in the frames nor on the grid of the older
    route for that height, and for height and width in each other's place.
    """
    try:
        check_queries(queries_xy, shape, where)
    except ValueError as error:
        raise DatasetError(str(error)) from None
    first = queries_xy.reshape(-1, *queries_xy.shape[-2:])[0]
    span = grid_span(first, QUERY_SLACK_PX)
    wrong = contradiction(span, shape)
    if wrong and not contradiction(span, shape[::-1]):
        raise DatasetError(
            f"{where}: the declared size (height, width) is {shape}, but {wrong}, as it would be "
            f"of {shape[::-1]}: they stand in each other's place; correct the attributes"
        )
    if wrong and first[:, 0].max() > shape[1] + QUERY_SLACK_PX:
        raise DatasetError(
            f"{where}: the declared size (height, width) is {shape}, but {wrong}; the "
            f"attributes do not describe the frames these points were tracked in"
        )


def contradiction(span: tuple[float, float] | None, shape: Shape) -> str | None:
    """Say which grid it is when a grid's (height, width) does not belong to frames of a size.

    It may span the whole of them, or the square of the older route; None when it does, or when
    the points are no grid.
    """
    if span is None:
        return None
    (span_height, span_width), (height, width) = span, shape
    off = min(abs(span_width - width), abs(span_width - height))
    # Half a pixel may have been added to both ends.
    return None if max(off, abs(span_height - height)) <= 2 * QUERY_SLACK_PX else grid_words(span)


def grid_words(span: tuple[float, float]) -> str:
    """Say which frames a grid of (height, width) belongs to."""
    height, width = span
    if abs(width - height) <= QUERY_SLACK_PX:
        return f"its query grid is that of frames {height:.0f} high"
    return f"its query grid spans {height:.0f} x {width:.0f} (H x W)"


def grid_note(queries_xy: np.ndarray, shape: Shape) -> str | None:
    """Say where the older route's grid lies in pictures of ``shape`` (H, W), unless all over.

    ``queries_xy`` (N, 2) are in their pixels.
    """
    height, width = shape
    if abs(width - height) <= 0.01 * height or not is_older_grid(queries_xy, height):
        return None
    why = "the older route scales its grid by the height on both axes"
    if width > height:
        return (
            f"query points cover {height / width:.0%} of the width, the left part: {why}. A model "
            "sees no motion in the rest, and an index is another place than in a grid over the "
            "whole picture: do not train on both together; build from the videos to cover it"
        )
    outside = queries_xy[queries_xy[:, 0] > width, 0]
    return (
        f"{len(outside)} of {count(len(queries_xy), 'query point')} "
        f"({count(len(np.unique(outside)), 'column')} of {math.isqrt(len(queries_xy))}) start to "
        f"the right of the picture: {why}. They follow nothing; in_content is false for them"
    )


def seen_size(view: ViewData) -> str:
    """Say what the tracks of a view without a size tell of it: see :func:`told_size`."""
    rows = spread(len(view.tracks), SEEN_WINDOWS)
    tracks_xy = np.stack([np.asarray(view.tracks[row]) for row in rows])
    vis = np.stack([np.asarray(view.vis[row]) for row in rows])
    return told_size(grid_span(np.asarray(view.queries), QUERY_SLACK_PX), reach_of(tracks_xy, vis))


def reach_of(tracks_xy: np.ndarray, vis: np.ndarray) -> float:
    """Return the largest x of visible points (..., 2)."""
    return float(tracks_xy[..., 0].max(initial=0.0, where=vis > 0.5))


def told_size(span: tuple[float, float] | None, reach: float) -> str:
    """Say what older tracks without a size tell of it.

    ``span`` is that of their query grid, ``reach`` the largest x of visible points at later steps.
    """
    if span is None:
        return f"the query points are no grid; visible points reach x = {reach:.0f}"
    height, width = (round(side) for side in span)
    if abs(height - width) > QUERY_SLACK_PX:
        return f"the query grid spans {height} x {width} (H x W): their size, if it covers them"
    told = f"the query grid tells that the frames were {height} high; it tells no width"
    if reach > height + QUERY_SLACK_PX:
        return (
            f"{told}. Visible points reach x = {reach:.0f}: if they were in the picture, it was "
            f"at least so wide; a portrait picture is below {height}, and points started outside"
        )
    return f"{told}, and visible points reach no further than x = {reach:.0f}"


def _size(shape: Shape) -> str:
    return f"{shape[0]} x {shape[1]} (H x W)"
