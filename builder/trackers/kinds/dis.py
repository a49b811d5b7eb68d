"""The embedded tracker: dense DIS optical flow, computed once per frame pair and chained.

CPU only, no weights, no torch.  Good where things move smoothly; see ``NOTICE``.
"""

from collections import deque
from collections.abc import Callable
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field

from builder.trackers.chained import ChainedTracker, Link, Observation, Observe
from schemas.base import Record
from schemas.dataset import TrackerInfo, VisibilityRule

NOTICE = (
    "tracker 'dis' chains optical flow: fine for smooth motion, but it drifts and cannot see "
    "through occlusions; it is not CoTracker quality (use tracker.kind=cotracker for that)"
)

MIN_SIDE = 16
"""OpenCV's DIS fails or returns NaN on smaller pictures; they are padded by their edges."""

COLOUR_SIGMA = 1.5
"""Colours are compared after a Gaussian blur of this many pixels: noise and jitter go."""


PRESETS: dict[str, dict[int, int]] = {
    "fast": {1: 1},
    "balanced": {1: 1, 4: 0},
    "best": {1: 0, 4: 0},
}
"""Which frame pairs get flow: gap in frames -> DIS' finest scale (0 is full resolution).

Flow over several frames at once keeps chains short, and finds points again behind something
that passes by: it corrects drift.
"""


class DisConfig(Record):
    """Settings of the DIS tracker."""

    preset: Literal["best", "balanced", "fast"] = Field(
        default="best", description="costs about 6 : 4 : 1; accuracy in BENCHMARKS.md"
    )
    fb_threshold: Annotated[float, Field(gt=0)] = Field(
        default=1.5,
        description="a point is lost when flow there and back ends this far away, in pixels",
    )
    colour_threshold: Annotated[float, Field(gt=0)] | None = Field(
        default=30.0,
        description="a point is lost when its colour has changed by this much since its window "
        "began, in grey levels, overall change of light taken out; null switches this off",
    )


class DisTracker(ChainedTracker):
    """Points that follow dense optical flow, with a forward-backward check."""

    Config = DisConfig
    notice = NOTICE

    def __init__(self, config: DisConfig | None = None) -> None:
        self.config = config or DisConfig()
        self.max_error = self.config.fb_threshold
        self.max_colour = self.config.colour_threshold

    @property
    def info(self) -> TrackerInfo:
        """What the dataset records about it."""
        reach = max(PRESETS[self.config.preset])
        found_again = f"may be found again within {reach} steps" if reach > 1 else "stays lost"
        return TrackerInfo(
            kind="dis",
            name="DIS optical flow, chained",
            version=f"opencv {cv2.__version__}",
            licence="Apache-2.0",
            settings={**self.config.model_dump(mode="json"), "note": NOTICE},
            visibility=VisibilityRule(
                rule="inside the frame, forward-backward flow agrees, and the colour is still "
                f"that of the query; a point once lost {found_again}",
                threshold=self.config.fb_threshold,
                unit="pixels of the tracked frames",
                sticky=reach == 1,
            ),
        )

    def observe(self) -> Observe:
        """Return what estimates motion, for one view."""
        return _Flow(PRESETS[self.config.preset])


class _Flow:
    """Dense flow between each frame and some before it; keeps as many grey frames."""

    def __init__(self, finest_by_gap: dict[int, int]) -> None:
        self._dis = {gap: _dis(finest) for gap, finest in finest_by_gap.items()}
        self._greys: deque[np.ndarray] = deque(maxlen=max(finest_by_gap))

    def __call__(self, frame_rgb: np.ndarray) -> Observation:
        grey = _padded(cv2.cvtColor(frame_rgb, cv2.COLOR_RGB2GRAY))
        links = [
            Link(gap, _both_ways(dis, self._greys[-gap], grey))
            for gap, dis in self._dis.items()
            if gap <= len(self._greys)
        ]
        self._greys.append(grey)
        smooth = cv2.GaussianBlur(frame_rgb, (0, 0), COLOUR_SIGMA)
        return Observation(links, lambda points: sample(smooth, points))


def _dis(finest_scale: int) -> cv2.DISOpticalFlow:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(finest_scale)
    return dis


def _both_ways(
    dis: cv2.DISOpticalFlow, first: np.ndarray, second: np.ndarray
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Compute flow (H, W, 2) there and back; returns how to follow points by it."""
    forward = np.asarray(dis.calc(first, second, None))  # type: ignore[call-overload]
    backward = np.asarray(dis.calc(second, first, None))  # type: ignore[call-overload]

    def follow(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = points + sample(forward, points)
        back = moved + sample(backward, moved)
        return moved, np.linalg.norm(back - points, axis=1)

    return follow


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
