"""Walking through an episode: for every frame, the tracks of the window it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from builder.core.errors import DatasetError
from builder.dataset.episodes import EpisodeData, ViewData


class Moment(NamedTuple):
    """A frame and the points on it.

    ``frame_rgb`` (H, W, 3) uint8, black where no frames are stored; ``tracks_xy`` (steps, N, 2)
    img px from the window's start up to this frame; ``vis`` (steps, N).
    """

    frame: int
    seconds: float
    frame_rgb: np.ndarray
    window: int
    tracks_xy: np.ndarray
    vis: np.ndarray


def window_starts(episode: EpisodeData, view: ViewData) -> np.ndarray:
    """Return the start frames (S,) of a view's windows; raises DatasetError without any."""
    starts = np.asarray(view.starts)
    if not len(starts):
        raise DatasetError(f"{episode.meta.id}: there are no tracks to show; see letterset track")
    return starts


def moments(episode: EpisodeData, view: ViewData) -> Iterator[Moment]:
    """Yield every frame once, windows back to back; the frozen tail is left out.

    Raises DatasetError, before the first, where there are no tracks.
    """
    return _moments(episode, view, window_starts(episode, view))


def _moments(episode: EpisodeData, view: ViewData, starts: np.ndarray) -> Iterator[Moment]:
    meta, times = episode.meta, view.timestamps
    window = 0
    for index in range(meta.length):
        # The next window begins where the last one ends, or as soon after as there is one.
        if index >= starts[window] + meta.horizon:
            later = np.flatnonzero(starts <= index)
            window = int(later[-1])
        step = int(min(index - starts[window], meta.horizon - 1))
        frame = np.zeros((*view.geometry.img_shape, 3), np.uint8)
        if view.frames is not None:
            frame = np.asarray(view.frames[index])
        yield Moment(
            index,
            float(times[index]),
            frame,
            window,
            np.asarray(view.tracks[window, : step + 1]),
            np.asarray(view.vis[window, : step + 1]),
        )
