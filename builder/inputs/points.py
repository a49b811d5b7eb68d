"""Tracks that others bring: pickles of TAP-Vid, and shares of the picture made pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from builder.core.errors import SourceError
from builder.inputs.pickled import load_pickle
from schemas.config import Limits


def load_videos(path: Path, limits: Limits) -> dict[str, Any]:
    """Load a TAP-Vid pickle: its videos by name; those of a list are video_0, video_1, ...

    Raises SourceError for anything else, and for names that read alike.
    """
    data = load_pickle(path, limits)
    if isinstance(data, list):
        data = {f"video_{index}": sample for index, sample in enumerate(data)}
    if not isinstance(data, dict) or not data:
        what = type(data).__name__ if data else "an empty one"
        raise SourceError.at(path, f"expected a dict or list of videos, got {what}")
    videos = {str(key): value for key, value in data.items()}
    if len(videos) != len(data):
        raise SourceError.at(
            path,
            f"{len(data)} videos have {len(videos)} names, since "
            f"a number and a text may read alike; give each a name of its own",
        )
    return videos


def pixels_of_shares(
    xy: np.ndarray, visible: np.ndarray, shape: tuple[int, int], where: str
) -> np.ndarray:
    """Turn points (..., 2) from 0 to 1 over the whole picture into its pixels, float32.

    Both count from the outer corner.  ``visible`` (...) bool, ``shape`` (H, W).  Single points
    may leave the picture; raises SourceError, naming ``where``, when most that are visible do.
    """
    seen_xy = xy[visible]
    outside = ((seen_xy < -0.5) | (seen_xy > 1.5)).any(axis=-1)
    if outside.size and outside.mean() > 0.5:
        raise SourceError(
            f"{where}: points must be shares of the picture, from 0 to 1, but they go up to "
            f"{np.nanmax(xy):g}; if they are pixels, divide them by its width and height"
        )
    return xy.astype(np.float32) * np.array(shape[::-1], np.float32)
