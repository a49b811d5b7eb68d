"""Scores of tracks against the exact truth of rendered scenes (``scripts/robot_scenes.py``).

Points are grouped by what they truly do within their window: with a fixed camera ``still``
(never more than 0.05 px from the start) and ``moving`` (more than 1 px, where visible); with a
moving camera ``gripper`` and ``scene`` likewise.  What lies between is ``slow`` and ``slow scene``.
Distances are in pixels of a picture whose longer side is 256; step 0, the query itself, counts
nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

RASTER = 256
THRESHOLDS = (1, 2, 4, 8, 16)
WIDEST_STEP = 7
"""Longest step, in pixels per axis, that is told apart: velocities are classes of whole pixels."""

STILL_PX, MOVING_PX = 0.05, 1.0
"""Farther from its start never, and at some visible step, is a point still, and moving."""

NEAR_PX = 4.0
"""``conf`` of ``dis`` is how likely a point is visible and nearer to its truth than this."""

CAMERAS = {"fixed": ("still", "moving", "slow"), "moving": ("gripper", "scene", "slow scene")}
"""Groups of points by whether the camera moves."""

BINS = 10
"""Equal parts of 0 to 1 in which ``conf`` is compared with the truth."""

STANDS, GOES = 0.02, 1.0
"""A step shorter than the first, in pixels, stands; one longer than the second goes."""


class Truth(NamedTuple):
    """Truth of the windows of a view, and what to make of it.

    ``tracks_xy`` (S, horizon, N, 2) pixels of the tracked raster, ``visible`` (S, horizon, N),
    ``known`` (S, N): points that count; ``fixed``: whether the camera stands; ``shape`` (H, W).
    """

    tracks_xy: np.ndarray
    visible: np.ndarray
    known: np.ndarray
    fixed: bool
    shape: tuple[int, int]


class Steps(NamedTuple):
    """All steps of the points of one group, one after another, as arrays (horizon - 1, M).

    ``error`` in pixels of the raster, ``true_px`` the length of the true step before, ``stays``
    and ``said_stays`` whether its class of velocity is none, truly and as tracked; ``counted``
    whether both ends of the step are truly visible; ``conf`` is NaN where the tracker gives none.
    """

    error: np.ndarray
    visible: np.ndarray
    said_visible: np.ndarray
    true_px: np.ndarray
    said_stays: np.ndarray
    counted: np.ndarray
    conf: np.ndarray


def by_group(
    truth: Truth, tracks_xy: np.ndarray, vis: np.ndarray, conf: np.ndarray | None = None
) -> dict[str, Steps]:
    """Compare tracks (S, horizon, N, 2), visibility and conf (S, horizon, N) with the truth."""
    raster = RASTER / max(truth.shape)
    away = np.linalg.norm(truth.tracks_xy - truth.tracks_xy[:, :1], axis=-1) * raster
    still = away.max(axis=1) < STILL_PX
    moving = np.where(truth.visible, away, 0).max(axis=1) > MOVING_PX
    names = CAMERAS["fixed" if truth.fixed else "moving"]
    groups = dict(zip(names, (still, moving, ~still & ~moving), strict=True))
    true_step = np.linalg.norm(np.diff(truth.tracks_xy, axis=1), axis=-1)
    steps = Steps(
        np.linalg.norm(tracks_xy - truth.tracks_xy, axis=-1)[:, 1:] * raster,
        truth.visible[:, 1:],
        vis[:, 1:].astype(bool),
        true_step,
        (velocity_class(tracks_xy, truth.shape) == 0).all(axis=-1),
        truth.visible[:, 1:] & truth.visible[:, :-1],
        np.full(vis[:, 1:].shape, np.nan) if conf is None else conf[:, 1:].astype(float),
    )
    flat = Steps(*(np.moveaxis(each, 1, 0) for each in steps))
    return {
        name: Steps(*(each[:, mask & truth.known] for each in flat))
        for name, mask in groups.items()
    }


def velocity_class(tracks_xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return steps (..., horizon - 1, N, 2) in whole pixels, as a model is taught to predict."""
    inside = np.clip(tracks_xy, 0, np.array(shape[::-1]) - 1)
    steps = np.diff(np.rint(inside), axis=-3)
    return np.asarray(np.clip(steps, -WIDEST_STEP, WIDEST_STEP), int)


def joined(parts: list[dict[str, Steps]]) -> dict[str, Steps]:
    """Put the groups of several views together."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: Steps(
            *(
                np.concatenate(arrays, axis=1)
                for arrays in zip(*(p[name] for p in parts if name in p), strict=True)
            )
        )
        for name in names
    }


def scores(steps: Steps) -> Mapping[str, float]:
    """Return the scores of one group; NaN where nothing can be counted.

    ``d_avg``, ``OA`` and ``AJ`` are TAP-Vid's.  ``false_motion``: steps of points that stand and
    are said to move to another pixel; ``false_still``: the reverse, of those that go by a pixel
    or more; ``ghosts``: hidden points said to be visible; ``error``: mean, of visible points.
    """
    seen, said, error = steps.visible, steps.said_visible, steps.error
    within = [error < limit for limit in THRESHOLDS]
    jaccard = [
        (near & seen & said).sum() / max(1, seen.sum() + (said & ~(near & seen)).sum())
        for near in within
    ]
    stands = steps.counted & (steps.true_px < STANDS)
    goes = steps.counted & (steps.true_px >= GOES)
    return {
        "points": float(seen.size),
        "d_avg": float(np.mean([share(near, seen) for near in within])),
        "OA": share(said == seen, np.ones_like(seen)),
        "AJ": float(np.mean(jaccard)) if seen.any() else float("nan"),
        "false_motion": share(~steps.said_stays, stands),
        "false_still": share(steps.said_stays, goes),
        "ghosts": share(said, ~seen),
        "missed": share(~said, seen),
        "error": float(np.minimum(error[seen], 50).mean()) if seen.any() else float("nan"),
    }


def share(what: np.ndarray, among: np.ndarray) -> float:
    """Return how much of ``among`` is ``what``; NaN of nothing."""
    return float((what & among).sum() / among.sum()) if among.any() else float("nan")


def error_by_step(steps: Steps) -> list[float]:
    """Return the mean error of visible points at steps 1, 2, ..."""
    return [
        float(np.minimum(error[seen], 50).mean()) if seen.any() else float("nan")
        for error, seen in zip(steps.error, steps.visible, strict=True)
    ]


def error_by_speed(
    steps: Steps, edges: tuple[float, ...] = (0, 0.02, 0.5, 1, 2, 4, 8, 1e9)
) -> dict[str, float]:
    """Return the mean error of visible points by the length of their true step, in pixels."""
    found = {}
    for low, high in pairwise(edges):
        chosen = steps.counted & (steps.true_px >= low) & (steps.true_px < high)
        if chosen.any():
            found[f"{low:g} to {high:g}" if high < 1e9 else f"{low:g} and more"] = float(
                np.minimum(steps.error[chosen], 50).mean()
            )
    return found


class Bin(NamedTuple):
    """Points whose ``conf`` is alike: how many, its mean, and the share that it is to foretell."""

    points: int
    conf: float
    right: float


def reliability(groups: Mapping[str, Steps]) -> dict[str, list[Bin]]:
    """Compare ``conf`` with the truth, by whether the camera moves, in ``BINS`` parts of 0 to 1.

    Points that are visible and within ``NEAR_PX`` are right.  Cameras without a ``conf`` are left
    out.
    """
    found = {}
    for camera, names in CAMERAS.items():
        parts = [groups[name] for name in names if name in groups]
        conf = np.concatenate([each.conf.ravel() for each in parts] or [np.empty(0)])
        right = [(each.visible & (each.error < NEAR_PX)).ravel() for each in parts]
        told = np.isfinite(conf)
        if told.any():
            conf, truth = conf[told], np.concatenate(right)[told].astype(float)
            at = np.minimum((conf * BINS).astype(int), BINS - 1)
            count, sums, rights = (
                np.bincount(at, weights, BINS) for weights in (None, conf, truth)
            )
            of = np.maximum(count, 1)
            found[camera] = [
                Bin(int(n), float(c), float(r))
                for n, c, r in zip(count, sums / of, rights / of, strict=True)
            ]
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: how far conf is from the truth, over all points."""
    total = sum(each.points for each in bins)
    return sum(each.points * abs(each.conf - each.right) for each in bins) / max(1, total)
