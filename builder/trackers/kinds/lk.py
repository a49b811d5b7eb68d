"""Sparse Lucas-Kanade flow, frame to frame: for few points over whole episodes.

Costs nothing per pixel of picture beyond its pyramid, but every point of every open window
pays: for a grid in many windows ``dis`` is both cheaper and better.
"""

from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from builder.trackers.chained import ChainedTracker, Link, Observation, Observe
from schemas.base import Record
from schemas.dataset import TrackerInfo, VisibilityRule


class LkConfig(Record):
    """Settings of the Lucas-Kanade tracker."""

    window: Annotated[int, Field(ge=5, le=101)] = Field(
        default=21, description="side of the square that is matched, in pixels"
    )
    levels: Annotated[int, Field(ge=0, le=8)] = Field(
        default=3, description="times the picture is halved to catch faster motion"
    )
    fb_threshold: Annotated[float, Field(gt=0)] = Field(
        default=2.0,
        description="a point is lost when flow there and back ends this far away, in pixels",
    )


class LkTracker(ChainedTracker):
    """Points that follow pyramidal Lucas-Kanade flow, with a forward-backward check."""

    Config = LkConfig
    notice = (
        "tracker 'lk' chains optical flow: it drifts and cannot see through occlusions; "
        "it is not CoTracker quality"
    )

    def __init__(self, config: LkConfig | None = None) -> None:
        self.config = config or LkConfig()
        self.max_error = self.config.fb_threshold

    @property
    def info(self) -> TrackerInfo:
        """What the dataset records about it."""
        return TrackerInfo(
            kind="lk",
            name="pyramidal Lucas-Kanade, chained",
            version=f"opencv {cv2.__version__}",
            licence="Apache-2.0",
            settings=self.config.model_dump(mode="json"),
            visibility=VisibilityRule(
                rule="inside the frame, and found there and back at every step so far",
                threshold=self.config.fb_threshold,
                unit="pixels of the tracked frames",
                sticky=True,
            ),
        )

    def observe(self) -> Observe:
        """Return what estimates motion, for one view."""
        return _PairLk(self.config)


class _PairLk:
    """Sparse flow between each frame and the one before; keeps one grey frame."""

    def __init__(self, config: LkConfig) -> None:
        self._size = (config.window, config.window)
        self._levels = config.levels
        self._previous: np.ndarray | None = None

    def __call__(self, frame_rgb: np.ndarray) -> Observation:
        grey = cv2.cvtColor(frame_rgb, cv2.COLOR_RGB2GRAY)
        previous, self._previous = self._previous, grey
        if previous is None:
            return Observation([])

        def follow(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            moved, found = self._flow(previous, grey, points)
            back, found_back = self._flow(grey, previous, moved)
            error = np.linalg.norm(back - points, axis=1)
            return moved, np.where(found & found_back, error, np.inf)

        return Observation([Link(1, follow)])

    def _flow(
        self, first: np.ndarray, second: np.ndarray, points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Follow points (M, 2); those not found stay where they are."""
        # OpenCV counts from pixel centres, we from the corner.
        start = np.ascontiguousarray(points - 0.5, np.float32)[:, None]
        end, status, _ = cv2.calcOpticalFlowPyrLK(
            first, second, start, np.empty_like(start), winSize=self._size, maxLevel=self._levels
        )
        moved = end[:, 0] + np.float32(0.5)
        found = (status[:, 0] == 1) & np.isfinite(moved).all(axis=1)
        return np.where(found[:, None], moved, points), found
