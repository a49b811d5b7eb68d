"""The embedded tracker: dense DIS optical flow, computed once per frame pair and chained.

CPU only, no weights, no torch.  Good where things move smoothly; see ``NOTICE``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field

from builder.carry import Advance, CarriedSession
from schemas.base import Record
from schemas.dataset import TrackerInfo, VisibilityRule

NOTICE = (
    "tracker 'dis' chains optical flow: fine for smooth motion, but it drifts and cannot see "
    "through occlusions; it is not CoTracker quality (use tracker.kind=cotracker for that)"
)

MIN_SIDE = 16
"""OpenCV's DIS fails or returns NaN on smaller pictures; they are padded by their edges."""


class DisConfig(Record):
    """Settings of the DIS tracker."""

    preset: Literal["best", "fast"] = Field(
        default="best", description="best refines flow to full resolution, fast to half"
    )
    fb_threshold: Annotated[float, Field(gt=0)] = Field(
        default=2.0,
        description="a point is lost when flow there and back ends this far away, in pixels",
    )


class DisTracker:
    """Points carried by dense optical flow, with a forward-backward check."""

    Config = DisConfig
    gives_conf = False
    notice = NOTICE

    def __init__(self, config: DisConfig | None = None) -> None:
        self.config = config or DisConfig()

    @property
    def info(self) -> TrackerInfo:
        """What the dataset records about it."""
        return TrackerInfo(
            kind="dis",
            name="DIS optical flow, chained",
            version=f"opencv {cv2.__version__}",
            licence="Apache-2.0",
            settings={**self.config.model_dump(mode="json"), "note": NOTICE},
            visibility=VisibilityRule(
                rule="inside the frame, and forward-backward flow agrees at every step so far",
                threshold=self.config.fb_threshold,
                unit="pixels of the tracked frames",
                sticky=True,
            ),
        )

    def open(
        self,
        shape: tuple[int, int],
        queries_xy: np.ndarray,
        horizon: int,
        start_every: int,
    ) -> CarriedSession:
        """Start tracking; see ``Tracker.open``."""
        return CarriedSession(_PairFlow(self.config), shape, queries_xy, horizon, start_every)


class _PairFlow:
    """Flow between each frame and the one before, both ways; keeps one grey frame."""

    def __init__(self, config: DisConfig) -> None:
        self._threshold = config.fb_threshold
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        if config.preset == "best":
            self._dis.setFinestScale(0)
        self._previous: np.ndarray | None = None

    def __call__(self, frame_rgb: np.ndarray) -> Advance | None:
        grey = _padded(cv2.cvtColor(frame_rgb, cv2.COLOR_RGB2GRAY))
        previous, self._previous = self._previous, grey
        if previous is None:
            return None
        forward, backward = self._flow(previous, grey), self._flow(grey, previous)

        def advance(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            moved = points + sample(forward, points)
            error = moved + sample(backward, moved) - points
            return moved, np.einsum("ij,ij->i", error, error) < self._threshold**2

        return advance

    def _flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the dense flow (H, W, 2) float32, (x, y) pixels, from first to second."""
        return np.asarray(self._dis.calc(first, second, None))  # type: ignore[call-overload]


def sample(field: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Sample a dense field (H, W, C) at continuous (x, y) points (M, 2), bilinearly.

    The value of pixel (i, j) belongs to its centre (j + 0.5, i + 0.5); beyond the outermost
    centres the nearest value is taken.  Returns (M, C).
    """
    height, width = field.shape[:2]
    x = np.clip(points_xy[:, 0] - 0.5, 0, width - 1)
    y = np.clip(points_xy[:, 1] - 0.5, 0, height - 1)
    left = np.minimum(x.astype(np.intp), max(width - 2, 0))
    top = np.minimum(y.astype(np.intp), max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    wx, wy = (x - left)[:, None], (y - top)[:, None]
    upper = field[top, left] * (1 - wx) + field[top, right] * wx
    lower = field[bottom, left] * (1 - wx) + field[bottom, right] * wx
    return upper * (1 - wy) + lower * wy


def _padded(grey: np.ndarray) -> np.ndarray:
    """Repeat the bottom and right edges until both sides have MIN_SIDE pixels."""
    height, width = grey.shape
    missing = max(MIN_SIDE - height, 0), max(MIN_SIDE - width, 0)
    if missing == (0, 0):
        return grey
    return cv2.copyMakeBorder(grey, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
