"""TAP-Vid's tracking metrics: d_avg, occlusion accuracy and average Jaccard.

Definitions of the TAP-Vid benchmark (Doersch et al., 2022, section 3): thresholds of 1, 2, 4,
8 and 16 pixels on a 256 x 256 raster, query frames left out, averaged per video.
"""

from typing import NamedTuple

import numpy as np

THRESHOLDS_PX = (1.0, 2.0, 4.0, 8.0, 16.0)
RASTER = 256.0


class TapVidScores(NamedTuple):
    """The three scores of one video, each in [0, 1] (NaN where nothing can be counted)."""

    d_avg: float
    occlusion_accuracy: float
    average_jaccard: float


def tapvid_scores(
    true_xy: np.ndarray,
    true_visible: np.ndarray,
    tracks_xy: np.ndarray,
    visible: np.ndarray,
    shape: tuple[int, int],
    counted: np.ndarray | None = None,
) -> TapVidScores:
    """Score predicted tracks against the truth.

    ``*_xy`` are (..., 2) continuous pixels of frames of ``shape`` (H, W), ``*visible`` (...)
    are truthy where visible.  ``counted`` (...) bool leaves points out where False: give
    False for query frames.  ``d_avg`` is the mean share of truly visible points within each
    threshold; a point counts for Jaccard when it is visible, said to be so, and within.
    """
    truth, said = np.asarray(true_visible, bool), np.asarray(visible, bool)
    keep = np.ones(truth.shape, bool) if counted is None else np.asarray(counted, bool)
    to_raster = RASTER / np.array([shape[1], shape[0]], np.float64)
    offset = (np.asarray(tracks_xy, np.float64) - np.asarray(true_xy, np.float64)) * to_raster
    distance = np.hypot(offset[..., 0], offset[..., 1])
    truth, said, distance = truth[keep], said[keep], distance[keep]
    within_shares, jaccards = [], []
    for threshold in THRESHOLDS_PX:
        within = distance < threshold
        hits = (truth & said & within).sum()
        false_alarms = (said & ~(truth & within)).sum()
        within_shares.append(_share((truth & within).sum(), truth.sum()))
        jaccards.append(_share(hits, truth.sum() + false_alarms))
    return TapVidScores(
        float(np.mean(within_shares)),
        _share((truth == said).sum(), truth.size),
        float(np.mean(jaccards)),
    )


def _share(part: np.integer, whole: np.integer | int) -> float:
    return float(part / whole) if whole else float("nan")
