"""Windows of a clip: where they start, which steps are real, and clips for per-window models.

Window s covers frames starts[s] ... starts[s] + horizon - 1.  Windows that run past the last
frame see it repeated: their tail stands still and is not real motion.

Windows start at every n-th frame, but for those that were left out since nothing moves in them
(``tracker.skip_still``): runs of windows, (number of the first, how many).
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from schemas.dataset import DatasetMeta, EpisodeMeta

Runs = tuple[tuple[int, int], ...]
NONE_SKIPPED: Mapping[int, Runs] = MappingProxyType({})

EPISODE_HORIZON = 16
"""Steps of a window that is cut from whole-episode tracks: AMPLIFY's ``true_horizon``."""


def window_starts(length: int, start_every: int, skipped: Runs = ()) -> np.ndarray:
    """Return the start frame of every window of a clip of ``length`` frames, (S,) int64."""
    starts = np.arange(0, length, start_every, dtype=np.int64)
    if not skipped:
        return starts
    kept = np.ones(len(starts), bool)
    for first, count in skipped:
        kept[first : first + count] = False
    return starts[kept]


def episode_starts(meta: EpisodeMeta) -> np.ndarray:
    """Return the start frame of every window that an episode's views have, (S,) int64."""
    return window_starts(meta.length, meta.start_every, meta.still.skipped if meta.still else ())


def window_counts(
    meta: DatasetMeta, lengths: np.ndarray, skipped: Mapping[int, Runs] = NONE_SKIPPED
) -> np.ndarray:
    """Return how many windows a view has in episodes of ``lengths`` (E,) frames, (E,) int64.

    ``skipped`` are the runs that were left out, by the number of the episode.
    """
    if not meta.has_tracks:
        return np.zeros_like(lengths)
    if meta.mode == "episode":
        return np.ones_like(lengths)
    counts = -(-lengths // meta.start_every)
    for at, runs in skipped.items():
        counts[at] = len(window_starts(int(lengths[at]), meta.start_every, runs))
    return counts


def runs_of(left_out: np.ndarray) -> Runs:
    """Return the runs in which windows (S,) bool were left out."""
    edges = np.flatnonzero(np.diff(left_out.astype(np.int8), prepend=0, append=0))
    return tuple((int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True))


def disjoint_rows(starts: np.ndarray, horizon: int) -> list[int]:
    """Choose windows (rows of ``starts``) of which no two share a frame, from the first on."""
    rows: list[int] = []
    for row, start in enumerate(starts.tolist()):
        if not rows or start >= starts[rows[-1]] + horizon:
            rows.append(row)
    return rows


def covering_rows(starts: np.ndarray, horizon: int, length: int) -> list[int]:
    """Choose as few windows as pass every frame of a clip that any window passes."""
    rows = [0] if len(starts) else []
    while rows and starts[rows[-1]] + horizon < min(length, starts[-1] + horizon):
        end = starts[rows[-1]] + horizon
        rows.append(max(rows[-1] + 1, int(np.searchsorted(starts, end, side="right")) - 1))
    return rows


def valid_steps(starts: np.ndarray, horizon: int, length: int) -> np.ndarray:
    """Tell which steps show a frame that exists: ``t + h < length``, (S, horizon) bool.

    The others are the frozen tail: the last frame repeated.
    """
    return np.asarray(starts)[:, None] + np.arange(horizon) < length


def whole_windows(starts: np.ndarray, horizon: int, length: int | np.ndarray) -> np.ndarray:
    """Tell which windows lie within the clip, (S,) bool: those that training takes by default.

    ``length`` is the clip's, or (S,) that of each window's.
    """
    return np.asarray(starts) + horizon <= length
