"""Checks of an episode's arrays: digests, types, shapes and values; each yields complaints."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from builder.canvas.windows import episode_starts
from builder.core.errors import DatasetError, UnreadableError
from builder.core.working import still_working
from builder.stores.base import EpisodeReader, arrays_by_view
from builder.stores.reading import blocks
from schemas.dataset import ArrayMeta, EpisodeMeta, ViewMeta

REQUIRED = ("tracks", "vis", "starts", "queries", "timestamps")

# Query points are computed in float64 and stored in float32; u16 tracks are off by 1/128 px.
_QUERY_TOLERANCE_PX = 1e-3
_U16_TOLERANCE_PX = 1 / 128 + _QUERY_TOLERANCE_PX


def check_view(
    reader: EpisodeReader, view: ViewMeta, queries_xy: np.ndarray | None, deep: bool
) -> Iterator[tuple[str, str]]:
    """Yield (array name, complaint) for everything wrong with the arrays of a view.

    ``queries_xy`` (N, 2) are the query points the dataset's settings give for this view; None
    when they are not known.  ``deep`` decodes every frame.  Raises UnreadableError.
    """
    yield from ((name, "it is missing") for name in REQUIRED if name not in view.arrays)
    expected = _expected(reader.meta, view, queries_xy)
    checks = _Values(reader, view, queries_xy)
    for name, array in view.arrays.items():
        bad = list(check_digest(reader, view.name, name, array))
        if name in expected and (array.dtype, array.shape) != expected[name]:
            dtype, shape = expected[name]
            bad.append(f"expected {dtype} {shape}, got {array.dtype} {array.shape}")
        if not bad:
            # Complaints about the values of such an array would only follow from this one.
            bad += checks.of(name, deep)
        yield from ((name, complaint) for complaint in bad)


def check_digest(
    reader: EpisodeReader, view: str | None, name: str, array: ArrayMeta
) -> Iterator[str]:
    """Compare an array's bytes with its digest.  Raises UnreadableError."""
    digest = hashlib.sha256()
    try:
        for piece in reader.stored_bytes(view, name):
            digest.update(piece)
            still_working()
    except UnreadableError:
        raise
    except DatasetError as error:
        yield str(error)
        return
    if digest.hexdigest() != array.sha256:
        yield (
            f"its bytes changed after they were written: sha256 is {digest.hexdigest()[:12]}..., "
            f"expected {array.sha256[:12]}..."
        )


def check_digests(reader: EpisodeReader) -> list[str]:
    """Compare all arrays of an episode with their digests; returns complaints."""
    return [
        f"{name if view is None else f'{view}/{name}'}: {text}"
        for view, arrays in arrays_by_view(reader.meta).items()
        for name, array in arrays.items()
        for text in check_digest(reader, view, name, array)
    ]


def _expected(
    meta: EpisodeMeta, view: ViewMeta, queries_xy: np.ndarray | None
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape, by name, of the arrays that letterset defines."""
    length, count = meta.length, len(_starts(meta, view))
    points = view.arrays["queries"].shape[0] if "queries" in view.arrays else 0
    if queries_xy is not None:
        points = len(queries_xy)
    windows = (count, meta.horizon, points)
    return {
        "frames": ("uint8", (length, *view.geometry.img_shape, 3)),
        "frames_offsets": ("int64", (length + 1,)),
        "tracks": ("float32", (*windows, 2)),
        "vis": ("uint8", windows),
        "conf": ("float32", windows),
        "starts": ("int64", (count,)),
        "queries": ("float32", (points, 2)),
        "timestamps": ("float64", (length,)),
    }


def has_windows(view: ViewMeta) -> bool:
    """Tell whether a view has windows; in a dataset without tracks it has none."""
    return "starts" not in view.arrays or view.arrays["starts"].shape != (0,)


def all_still(meta: EpisodeMeta) -> bool:
    """Tell whether an episode has no windows because all of them stand still."""
    return meta.still is not None and not len(episode_starts(meta))


def _starts(meta: EpisodeMeta, view: ViewMeta) -> np.ndarray:
    if not has_windows(view):
        return np.empty(0, np.int64)
    return episode_starts(meta)


class _Values:
    """Checks of the values of one view's arrays."""

    def __init__(
        self, reader: EpisodeReader, view: ViewMeta, queries_xy: np.ndarray | None
    ) -> None:
        self.reader, self.view, self.queries_xy = reader, view, queries_xy

    def of(self, name: str, deep: bool) -> Iterator[str]:
        """Yield complaints about the values of one array."""
        if name in (*REQUIRED, "conf", *(["frames"] if deep else [])):
            check: Callable[[Any], Iterator[str]] = getattr(self, name)
            yield from check(self.reader.array(self.view.name, name))

    def tracks(self, tracks: Any) -> Iterator[str]:
        """Check that numbers are finite and every window starts at the query points."""
        codec = self.view.arrays["tracks"].codec
        tolerance = _U16_TOLERANCE_PX if codec == "u16" else 0.0
        try:
            queries = self.reader.array(self.view.name, "queries")
        except UnreadableError:
            raise
        except (KeyError, DatasetError):
            queries = None  # reported by the check of the queries
        if queries is not None and tracks.shape[2] != queries.shape[0]:
            queries = None
        for at, block in blocks(tracks):
            if not np.isfinite(block).all():
                yield f"numbers are not finite, first in window {at + _first(~np.isfinite(block))}"
            if queries is not None:
                with np.errstate(invalid="ignore"):  # damaged points may both be infinite
                    off = ~(np.abs(block[:, 0] - queries) <= tolerance)
                if off.any():
                    yield f"step 0 is not at the query points in window {at + _first(off)}"
                    return

    def vis(self, vis: Any) -> Iterator[str]:
        """Check for 0 and 1."""
        for at, block in blocks(vis):
            if (block > 1).any():
                yield f"expected 0 or 1, got {block.max()} near window {at + _first(block > 1)}"
                return

    def conf(self, conf: Any) -> Iterator[str]:
        """Check for numbers from 0 to 1."""
        for at, block in blocks(conf):
            off = ~((block >= 0) & (block <= 1))
            if off.any():
                yield f"expected numbers from 0 to 1, see window {at + _first(off)}"
                return

    def starts(self, starts: np.ndarray) -> Iterator[str]:
        """Check the declared spacing."""
        meta = self.reader.meta
        expected = _starts(meta, self.view)
        if not np.array_equal(starts, expected):
            but = f", but for {meta.still.count} windows that stand still" if meta.still else ""
            yield f"expected a start at every {meta.start_every} frames of {meta.length}{but}"

    def queries(self, queries: np.ndarray) -> Iterator[str]:
        """Check for finite points where the dataset's settings put them."""
        if not np.isfinite(queries).all():
            yield "numbers are not finite"
        elif self.queries_xy is not None:
            off = np.abs(queries - self.queries_xy).max(initial=0.0)
            if off > _QUERY_TOLERANCE_PX:
                yield f"points are up to {off:g} px from where the dataset's grid puts them"

    def timestamps(self, seconds: np.ndarray) -> Iterator[str]:
        """Check for finite times that never go back."""
        if not np.isfinite(seconds).all():
            yield "numbers are not finite"
        elif (np.diff(seconds) < 0).any():
            yield f"time goes back after frame {_first(np.diff(seconds) < 0)}"

    def frames(self, frames: Any) -> Iterator[str]:
        """Decode every frame."""
        for at in range(len(frames)):
            still_working()
            try:
                frames[at]
            except UnreadableError:
                raise
            except DatasetError as error:
                yield str(error)


def _first(mask: np.ndarray) -> int:
    """Index of the first row with anything true."""
    return int(np.argmax(mask.reshape(len(mask), -1).any(axis=1)))
