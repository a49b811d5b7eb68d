"""The embedded tracker: dense DIS optical flow, computed once per frame pair and chained.

CPU only, no torch; a small network tells what stands still.  Good where things move smoothly; see
``NOTICE``.
"""

from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
from pydantic import Field, model_validator

from builder.trackers.anchored import AnchoredSession, Judge
from builder.trackers.base import Session
from builder.trackers.camera import CameraMotion, composed
from builder.trackers.chained import ChainedTracker, Link, Observation, Observe
from builder.trackers.outlines import Outlines, Picture
from builder.trackers.sampling import sample, sample_fast
from builder.trackers.second_look import SecondLook, second_look, weights_sha256
from builder.trackers.still_head import still_head
from schemas.base import LATER, Record
from schemas.dataset import TrackerInfo, VisibilityRule

NOTICE = (
    "tracker 'dis' chains optical flow: fine for smooth motion, but it drifts and cannot see "
    "through occlusions; it is not CoTracker quality (use tracker.kind=cotracker for that)"
)

MIN_SIDE = 16
"""OpenCV's DIS fails or returns NaN on smaller pictures; they are padded by their edges."""

COLOUR_SIGMA = 1.5
"""Colours are compared after a Gaussian blur of this many pixels: noise and jitter go."""


LookUp = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""What samples a field (H, W, C) at points (M, 2): exactly, or fast."""


class Flow(NamedTuple):
    """How DIS computes flow: finest scale (0 is full resolution), pixels between patches, steps."""

    finest: int
    stride: int = 4
    descent: int = 12
    refinement: int = 2


_FINE, _CHECK, _COARSE = Flow(0), Flow(0, refinement=0), Flow(1)

PRESETS: dict[str, dict[int, tuple[Flow, Flow]]] = {
    "fast": {1: (_COARSE, _COARSE)},
    "balanced": {1: (_FINE, _CHECK)},
    "best": {1: (_FINE, _CHECK), 4: (_FINE, _CHECK)},
}
"""Which frame pairs get flow: gap in frames -> how, there and back.

Flow over several frames at once keeps chains short, and finds points again behind something
that passes by: it corrects drift.  Flow back is a check only.
"""

_PLAIN = {0: Flow(0, 3, 25, 5), 1: Flow(1, 3, 25, 5)}
PLAIN_PRESETS = {
    preset: {gap: (_PLAIN[finest],) * 2 for gap, finest in gaps.items()}
    for preset, gaps in {
        "fast": {1: 1},
        "balanced": {1: 1, 4: 0},
        "best": {1: 0, 4: 0},
    }.items()
}
"""The same, of chains that nothing holds: as they always were."""


class DisConfig(Record):
    """Settings of the DIS tracker."""

    preset: Literal["best", "balanced", "fast"] = Field(
        default="best", description="costs about 3 : 2 : 1; accuracy in BENCHMARKS.md"
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
    anchored: bool = Field(
        default=True,
        description="hold points to the picture their window began with, so that what stands still "
        "stays; false is the tracker of datasets that were built without it, to continue them",
    )
    conf: Annotated[bool, LATER] = Field(
        default=False,
        description="store how likely each point is visible and within 4 of 256 pixels",
    )

    @model_validator(mode="after")
    def _has_conf(self) -> "DisConfig":
        if self.conf and not self.anchored:
            raise ValueError("conf needs anchored: true; chains alone cannot tell")
        return self


class DisTracker(ChainedTracker):
    """Points that follow dense optical flow, held to the picture their window began with."""

    Config = DisConfig
    notice = NOTICE

    def __init__(self, config: DisConfig | None = None) -> None:
        self.config = config or DisConfig()
        self.max_error = self.config.fb_threshold
        self.max_colour = self.config.colour_threshold
        self.gives_conf = self.config.conf

    @property
    def info(self) -> TrackerInfo:
        """What the dataset records about it."""
        reach = max(PRESETS[self.config.preset])
        settings: dict[str, Any] = {**self.config.model_dump(mode="json"), "note": NOTICE}
        if not self.config.anchored:
            del settings["anchored"]  # as it was recorded before there was another way
        rule = "inside the frame, forward-backward flow agrees, and the colour is still "
        again = f"may be found again within {reach} steps" if reach > 1 else "stays lost"
        rule += f"that of the query; a point once lost {again}"
        if self.config.anchored:
            rule = (
                "inside the frame, and more likely than not within 4 of 256 pixels of the query's "
                "own place, by the patches around it, flow there and back, and colour"
            )
        return TrackerInfo(
            kind="dis",
            name="DIS optical flow, "
            + ("held to its query" if self.config.anchored else "chained"),
            version=f"opencv {cv2.__version__}",
            licence="Apache-2.0",
            settings=settings,
            visibility=VisibilityRule(
                rule=rule,
                threshold=0.5 if self.config.anchored else self.config.fb_threshold,
                unit="probability" if self.config.anchored else "pixels of the tracked frames",
                sticky=reach == 1 and not self.config.anchored,
            ),
            weights_sha256=weights_sha256(self.gives_conf) if self.config.anchored else None,
        )

    def observe(self) -> Observe:
        """Return what estimates motion, for one view."""
        if self.config.anchored:
            return _GuidedFlow(PRESETS[self.config.preset])
        return _Flow(PLAIN_PRESETS[self.config.preset], sample)

    def judges(self) -> tuple[Judge, SecondLook | None]:
        """Return what decides which points stay and show, at each step and at a window's end."""
        return still_head(), second_look()

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> Session:
        """Start a session; see ``Tracker.open``."""
        if not self.config.anchored:
            return super().open(shape, queries_xy, horizon, start_every)
        return AnchoredSession(
            shape,
            queries_xy,
            horizon,
            start_every,
            self.observe(),
            *self.judges(),
            self.max_error,
            self.max_colour,
            self.gives_conf,
        )


class _Flow:
    """Dense flow between each frame and some before it; keeps as many grey frames."""

    def __init__(self, flows: dict[int, tuple[Flow, Flow]], look_up: LookUp) -> None:
        self._look_up = look_up
        self._dis = {gap: (_Dis(there), _Dis(back)) for gap, (there, back) in flows.items()}
        self._greys: deque[np.ndarray] = deque(maxlen=max(flows))
        self._motion: np.ndarray | None = None

    def __call__(self, frame_rgb: np.ndarray) -> Observation:
        grey = _padded(cv2.cvtColor(frame_rgb, cv2.COLOR_RGB2GRAY))
        found = self._flows(grey)
        self._greys.append(grey)
        smooth = cv2.GaussianBlur(frame_rgb, (0, 0), COLOUR_SIGMA)
        look_up = self._look_up
        return Observation(
            [Link(gap, _there_and_back(*both, look_up)) for gap, both in found.items()],
            lambda points: look_up(smooth, points),
            (lambda points: points + look_up(found[1][0], points)) if found else None,
            (lambda points: points + look_up(found[1][1], points)) if found else None,
            self._motion,
        )

    def _flows(self, grey: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Return flow there and back (H, W, 2) of each gap."""
        return {
            gap: _both_ways(*dis, self._greys[-gap], grey, (None, None))
            for gap, dis in self._dis.items()
            if gap <= len(self._greys)
        }


class _GuidedFlow(_Flow):
    """Flow that starts from how the camera moved, and over several frames from the steps between.

    Plain surfaces do what their outlines tell; see ``Outlines``.  Keeps flow there and back of as
    many pairs of frames.
    """

    def __init__(self, flows: dict[int, tuple[Flow, Flow]]) -> None:
        super().__init__(flows, sample_fast)
        self._camera = CameraMotion()
        self._last: Picture | None = None
        self._steps: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=max(flows))

    def _flows(self, grey: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        last, self._last = self._last, Picture(grey)
        self._motion = self._camera(self._greys[-1] if self._greys else None, grey)
        if last is None:
            return {}
        there = Outlines(last, self._last, self._motion)
        if not there.camera_goes:
            self._motion, there = None, Outlines(last, self._last, None)
        inverse = None if self._motion is None else np.linalg.inv(self._motion)
        back = Outlines(self._last, last, inverse)
        found = {}
        for gap, dis in self._dis.items():
            if gap == 1:
                start = there.camera_flow, back.camera_flow
                forward, backward = _both_ways(*dis, self._greys[-1], grey, start)
                found[1] = there.settled(forward), back.settled(backward)
                self._steps.append(found[1])
            elif gap <= len(self._greys):
                steps = list(self._steps)[-gap:]
                start = (
                    composed([forward for forward, _ in steps]),
                    composed([backward for _, backward in reversed(steps)]),
                )
                found[gap] = _both_ways(*dis, self._greys[-gap], grey, start)
        return found


Starts = tuple[np.ndarray | None, np.ndarray | None]
"""Flow (H, W, 2) there and back from which DIS goes on; None: from nothing."""


class _Dis:
    """DIS flow from one picture to another.

    What OpenCV's gives without a start depends on whether it was given one before, so there are
    two.
    """

    def __init__(self, flow: Flow) -> None:
        self._alone, self._started = _dis(flow), _dis(flow)

    def __call__(
        self, first: np.ndarray, second: np.ndarray, start: np.ndarray | None
    ) -> np.ndarray:
        """Compute flow (H, W, 2); ``start`` is what it goes on from, None: nothing."""
        if start is None:
            return np.asarray(self._alone.calc(first, second, None))  # type: ignore[call-overload]
        return np.asarray(self._started.calc(first, second, start.copy()))


def _dis(flow: Flow) -> cv2.DISOpticalFlow:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(flow.finest)
    dis.setPatchStride(flow.stride)
    dis.setGradientDescentIterations(flow.descent)
    dis.setVariationalRefinementIterations(flow.refinement)
    return dis


def _both_ways(
    there: _Dis, back: _Dis, first: np.ndarray, second: np.ndarray, starts: Starts
) -> tuple[np.ndarray, np.ndarray]:
    """Compute flow (H, W, 2) there and back."""
    return there(first, second, starts[0]), back(second, first, starts[1])


def _there_and_back(
    forward: np.ndarray, backward: np.ndarray, look_up: LookUp
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return how to follow points by flow, and how far they end from where they began."""

    def follow(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = points + look_up(forward, points)
        returned = moved + look_up(backward, moved)
        return moved, np.linalg.norm(returned - points, axis=1)

    return follow


def _padded(grey: np.ndarray) -> np.ndarray:
    """Repeat the bottom and right edges until both sides have MIN_SIDE pixels."""
    height, width = grey.shape
    missing = max(MIN_SIDE - height, 0), max(MIN_SIDE - width, 0)
    if missing == (0, 0):
        return grey
    return cv2.copyMakeBorder(grey, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
