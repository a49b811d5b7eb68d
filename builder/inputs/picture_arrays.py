"""Pictures kept as arrays: where their channels are, and what floats among them mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from builder.inputs.streams import BlockStream, array_stream
from schemas.config import Limits

FloatPictures = Literal["0..255", "0..1", "-1..1"]
_ENDS = {"0..255": (0.0, 255.0), "0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0)}
MIN_SIDE = 8
"""Of what is taken for a picture when nothing but its shape says so."""
_LOOKED_AT = 8
# Pictures of 0..255 that are nowhere brighter show nothing: they may be brighter than 1 of 0..1.
_BLACK = 16


def channels_axis(shape: tuple[int, ...]) -> int | None:
    """Return which axis of an array of pictures holds their three channels.

    3 of (T, H, W, 3), 1 of (T, 3, H, W), None of an array of any other shape.
    """
    if len(shape) != 4 or 0 in shape:
        return None
    return next((axis for axis in (3, 1) if shape[axis] == 3), None)


def is_large(shape: tuple[int, ...]) -> bool:
    """Tell whether an array of pictures (T, H, W, 3) or (T, 3, H, W) has sides of pictures.

    Rotations (T, arms, 3, 3), or a few points with three coordinates, have the same axes.
    """
    axis = channels_axis(shape)
    return axis is not None and min(shape[1:3] if axis == 3 else shape[2:4]) >= MIN_SIDE


def kept_as_numbers(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str | None:
    """Say that an array that is kept as numbers may be pictures; None of any other array."""
    channels = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or min(shape[1:3]) < MIN_SIDE or channels not in (1, 3, 4):
        return None
    if dtype == np.uint8 and channels != 3:
        how = "pictures of (T, H, W, 3) are read: give it three channels to make it a camera"
    elif dtype.kind == "f" and channels == 3:
        how = "list it among source.views to make it a camera"
    else:
        return None
    return f"array {name}: {shape} {dtype} may be pictures, and is kept as numbers; {how}"


def picture_stream(
    rows: Callable[[int, int], np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fps: float,
    limits: Limits,
    error: Callable[[str], Exception],
    *,
    floats: FloatPictures | None = None,
    span: tuple[int, int] | None = None,
    chunk: int = 1,
    **info: Any,
) -> BlockStream:
    """Return pictures of an array (T, H, W, 3) or (T, 3, H, W), uint8 or floats, as frames.

    ``rows(first, last)`` reads a part of the array, ``span`` (first, last) is the part to show.
    What ``floats`` hold is looked at where it is not stated: some pictures all over the array,
    so that every part of it is read alike.  The rest is as in ``array_stream``.  Raises
    ``error(message)`` for other arrays, and for floats of which that cannot be told.
    """
    axis = channels_axis(shape)
    if axis is None or not (dtype == np.uint8 or dtype.kind == "f"):
        raise error(f"expected pictures (T, H, W, 3) or (T, 3, H, W) of uint8, got {shape} {dtype}")
    if dtype.kind == "f" and floats is None:
        floats, note = _look(rows, shape[0], error)
        info["notes"] = (*info.get("notes", ()), *([note] if note else []))
    first, last = span or (0, shape[0])

    def read(start: int, stop: int) -> np.ndarray:
        pictures = rows(first + start, first + stop)
        if floats is not None and dtype.kind == "f":
            pictures = _levels(pictures, floats, error)
        return pictures if axis == 3 else np.ascontiguousarray(np.moveaxis(pictures, 1, 3))

    height, width = shape[1:3] if axis == 3 else shape[2:4]
    return array_stream(
        read,
        (last - first, height, width),
        fps,
        limits,
        error,
        chunk=chunk,
        frame_bytes=math.prod(shape[1:]) * dtype.itemsize,
        **info,
    )


def _look(
    rows: Callable[[int, int], np.ndarray], count: int, error: Callable[[str], Exception]
) -> tuple[FloatPictures, str | None]:
    """Tell what float pictures hold by some of them, and what to note."""
    indices = sorted({*np.linspace(0, count - 1, _LOOKED_AT).astype(int).tolist()})
    sample = np.concatenate([rows(index, index + 1) for index in indices])
    low, high = float(sample.min()), float(sample.max())
    if low >= 0 and _BLACK < high <= 255:
        return "0..255", None
    seen = f"float pictures from {low:.4g} to {high:.4g} in {len(indices)} that were looked at"
    # Nothing but 0 and 1 may be either; a little more than 1 too: resizing overshoots.
    if low >= 0 and high <= 1 and (sample != np.rint(sample)).any():
        return "0..1", f"{seen}: read as 0..1 (float_pictures)"
    raise error(f"{seen}: say what they hold, source.float_pictures: one of {', '.join(_ENDS)}")


def _levels(
    pictures: np.ndarray, floats: FloatPictures, error: Callable[[str], Exception]
) -> np.ndarray:
    low, high = _ENDS[floats]
    scaled = (pictures - np.float32(low)) * np.float32(255 / (high - low))
    # What rounds to a level is one.
    if not (np.isfinite(scaled).all() and scaled.min() >= -0.5 and scaled.max() <= 255.5):
        raise error(
            f"its values leave {floats}; set source.float_pictures to one of {', '.join(_ENDS)}"
        )
    return np.rint(scaled).clip(0, 255).astype(np.uint8)
