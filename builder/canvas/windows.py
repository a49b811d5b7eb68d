"""Windows of a clip: where they start, which steps are real, and clips for per-window models.

Window s covers frames starts[s] ... starts[s] + horizon - 1.  Windows that run past the last
frame see it repeated: their tail stands still and is not real motion.
"""

import numpy as np

from schemas.dataset import DatasetMeta

EPISODE_HORIZON = 16
"""Steps of a window that is cut from whole-episode tracks: AMPLIFY's ``true_horizon``."""


def window_starts(length: int, start_every: int) -> np.ndarray:
    """Return the start frame of every window of a clip of ``length`` frames, (S,) int64."""
    return np.arange(0, length, start_every, dtype=np.int64)


def window_counts(meta: DatasetMeta, lengths: np.ndarray) -> np.ndarray:
    """Return how many windows a view has in episodes of ``lengths`` (E,) frames, (E,) int64."""
    if not meta.has_tracks:
        return np.zeros_like(lengths)
    if meta.mode == "episode":
        return np.ones_like(lengths)
    return -(-lengths // meta.start_every)


def valid_steps(starts: np.ndarray, horizon: int, length: int) -> np.ndarray:
    """Tell which steps show a frame that exists: ``t + h < length``, (S, horizon) bool.

    The others are the frozen tail: the last frame repeated.
    """
    return np.asarray(starts)[:, None] + np.arange(horizon) < length
