"""Which windows of a view are looked at, and reading them."""

from __future__ import annotations

import numpy as np

from builder.canvas.windows import EPISODE_HORIZON, valid_steps, whole_windows
from builder.core.errors import DatasetError
from builder.core.spacing import spread
from builder.dataset.episodes import EpisodeData, ViewData


def window_places(
    episode: EpisodeData, view: ViewData, windows: int, short: bool
) -> list[tuple[int, slice, int]]:
    """Choose windows that lie within the clip: row, steps and start frame of each."""
    length, horizon = episode.meta.length, episode.meta.horizon
    if episode.meta.mode == "episode":
        horizon = min(EPISODE_HORIZON, length)
        firsts = spread(length - horizon + 1, windows)
        return [(0, slice(first, first + horizon), first) for first in firsts]
    starts = np.asarray(view.starts)
    whole = whole_windows(starts, horizon, length)
    rows = np.flatnonzero(whole | short)
    rows = rows[spread(len(rows), windows)]
    return [(int(row), slice(None), int(starts[row])) for row in rows]


def read_tracks(
    episode: EpisodeData, view: ViewData, places: list[tuple[int, slice, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return windows (W, horizon, N, 2) float32 xy, their vis and valid (W, horizon, 1)."""
    tracks_xy = np.stack([np.asarray(view.tracks[row, steps]) for row, steps, _ in places])
    tracks_xy = tracks_xy.astype(np.float32)
    vis = np.stack([np.asarray(view.vis[row, steps]) for row, steps, _ in places])
    for name, values, cure in (
        ("tracks hold", tracks_xy, "build the episode again"),
        ("vis holds", vis, "write 0 where a point is not visible"),
    ):
        if not np.isfinite(values).all():
            raise DatasetError(
                f"episode {episode.meta.id}, view {view.name}: {name} NaN or infinity, which "
                f"would enter training; {cure}"
            )
    starts = np.array([start for *_, start in places])
    return tracks_xy, vis, valid_steps(starts, vis.shape[1], episode.meta.length)[:, :, None]


def read_content(view: ViewData, place: tuple[int, slice, int], steps: int) -> np.ndarray:
    """Return the pictures (K, h, w, 3) without bars that a window of ``steps`` shows, K <= steps.

    K is less where the clip ends before the window does.  The view stores frames.
    """
    left, top, right, bottom = view.geometry.content_box
    first = place[2]
    frames = [view.frames[t] for t in range(first, min(first + steps, len(view.frames)))]
    return np.stack([np.asarray(frame)[top:bottom, left:right] for frame in frames])
