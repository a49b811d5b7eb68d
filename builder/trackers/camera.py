"""How a camera moved between two frames, from the corners that move.

Flow finds nothing to hold on to where a surface is plain.  Where the camera moves, most of the
picture goes one way, which a few corners tell: flow that starts from there stays there unless the
picture says otherwise.
"""

from __future__ import annotations

import cv2
import numpy as np

from builder.trackers.alignment import NEAREST, SQUASHED, Alignment

RASTER = 256
"""Distances are felt as those of pictures of this size."""

_CORNERS, _QUALITY, _APART, _BLOCK = 200, 0.01, 5, 5
_WINDOW, _LEVELS = (15, 15), 4
_RETURNS = 0.7  # px: a corner that is followed there and back ends within it
_MOVES = 0.3  # px
_SHARE = 0.1  # of the corners that move: from it on, the camera may
_FEWEST, _FEWEST_AFFINE, _FEWEST_OF_A_PLANE = 4, 6, 10
_AGREES = 1.0, 3.0  # px
_TRIED, _REFINED = 2, 6  # steps towards a better motion: of each that is told, and of the best


class CameraMotion:
    """The motion of a camera from frame to frame; keeps the last corners."""

    def __init__(self) -> None:
        self._corners: np.ndarray | None = None

    def __call__(self, before: np.ndarray | None, now: np.ndarray) -> np.ndarray | None:
        """Take the next frame (H, W) uint8; return what maps points of the one before to it.

        A homography (3, 3) of points (x, y) whose pixel centres are at halves; None where nothing
        tells.  Where the camera stands it is the motion of what moves; ``Outlines`` tells them
        apart.
        """
        corners = self._corners
        self._corners = cv2.goodFeaturesToTrack(now, _CORNERS, _QUALITY, _APART, blockSize=_BLOCK)
        if before is None or corners is None:
            return None
        raster = max(1.0, max(now.shape) / RASTER)
        there, found = _follow(before, now, corners)
        again, found_again = _follow(now, before, there)
        found &= found_again & (np.linalg.norm(again - corners, axis=-1)[:, 0] < _RETURNS * raster)
        first, second = corners[found, 0] + np.float32(0.5), there[found, 0] + np.float32(0.5)
        moves = np.linalg.norm(second - first, axis=1) > _MOVES * raster
        if moves.sum() < max(_FEWEST, _SHARE * len(moves)):
            return None
        told = _agreed(first[moves], second[moves], raster)
        return _best(Alignment(before, now, raster), told)


def _follow(first: np.ndarray, second: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Follow points (N, 1, 2) by Lucas-Kanade; returns them and which were found (N,)."""
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        first, second, xy, np.empty_like(xy), winSize=_WINDOW, maxLevel=_LEVELS
    )
    return moved, (status[:, 0] == 1) & np.isfinite(moved).all(axis=(1, 2))


def _agreed(first: np.ndarray, second: np.ndarray, raster: float) -> list[np.ndarray]:
    """Return motions on which most agree, of few points the simpler ones alone."""
    parts = [
        cv2.estimateAffinePartial2D(first, second, ransacReprojThreshold=within * raster)[0]
        for within in _AGREES
    ]
    if len(first) >= _FEWEST_AFFINE:
        within = _AGREES[0] * raster
        parts.append(cv2.estimateAffine2D(first, second, ransacReprojThreshold=within)[0])
    found = [np.vstack([part, [0, 0, 1]]) for part in parts if part is not None]
    if len(first) >= _FEWEST_OF_A_PLANE:
        plane, _ = cv2.findHomography(first, second, cv2.USAC_MAGSAC, _AGREES[0] * raster)
        found += [] if plane is None else [plane]
    return [
        each for each in found if np.isfinite(each).all() and abs(np.linalg.det(each)) > SQUASHED
    ]


def _best(alignment: Alignment, told: list[np.ndarray]) -> np.ndarray | None:
    """Return the motion that explains the frames best, near to one of those that are told."""
    tried = [alignment.refine(each, _TRIED) for each in told]
    refined = [each for each in tried if each is not None]
    if not refined:
        return None
    best = min(refined, key=alignment.cost)
    found = alignment.refine(best, _REFINED)
    return best if found is None else found


def flow_of(homography: np.ndarray, shape: tuple[int, int]) -> np.ndarray | None:
    """Return a homography as flow (H, W, 2) float32; None where it leads out of all bounds."""
    height, width = shape
    x = np.arange(width, dtype=np.float32)[None] + np.float32(0.5)
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    right, down, scale = (a * x + (b * y + c) for a, b, c in homography.astype(np.float32))
    if scale.min() < NEAREST:
        return None
    flow = np.stack([right / scale - x, down / scale - y], axis=-1)
    return flow if np.abs(flow).max() < max(shape) else None


def led(homography: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Return where a homography leads points (N, 2), float32; not beyond the horizon."""
    right, down, scale = (a * points_xy[:, 0] + b * points_xy[:, 1] + c for a, b, c in homography)
    return (np.stack([right, down], axis=1) / np.maximum(scale, NEAREST)[:, None]).astype(
        np.float32
    )


def composed(flows: list[np.ndarray]) -> np.ndarray:
    """Put flows (H, W, 2) one after the other."""
    height, width = flows[0].shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    total = flows[0]
    for flow in flows[1:]:
        at = total[..., 0] + x, total[..., 1] + y
        total = total + cv2.remap(flow, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(total)
