"""Where flow is told by the outlines of plain surfaces, for such surfaces show no motion inside.

Between two frames, standing and going with the camera explain some places equally well, and some
not.  A place with detail tells which of both it does.  A plain surface does what its outline tells:
it stands where all of the outline does, and goes with the camera where some of it does, for what
stands in front of a surface is a part of its outline too.
"""

from __future__ import annotations

import cv2
import numpy as np

from builder.trackers.camera import flow_of
from builder.trackers.evidence import in_the_light_of, quiet_variance

_BLUR = 1.0  # px
_AROUND = (5, 5)  # pixels of half the size that are judged together
_DETAIL = 5.0  # squared gradient, in units of noise, from which on a place has detail
_NOISE, _SHIFT = 5.0, 0.14  # what is explained differs by this noise, and by this shift in pixels
_WORSE = 1.2  # how much worse than flow a motion may explain a place
_OUTLINE = 3  # pixels from a place with detail to the surfaces that it outlines
_GOES, _MOVES = 0.2, 0.7  # share of the outline that goes with the camera; or moves, if it stands
_WIDE = 0.35  # share of the picture over which what stands is spread: from it on, the camera stands
_WIDEST = 0.8  # share of places by which spread is measured
_FEWEST = 10
_SOFT = 1.0  # px


class Picture:
    """A frame at half its size, blurred, and its squared gradient: (h, w) float32."""

    def __init__(self, grey: np.ndarray) -> None:
        """Take a frame (H, W) uint8."""
        self.shape = grey.shape
        self.grey = _halved(cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _BLUR))
        right, down = (cv2.Scharr(self.grey, cv2.CV_32F, *axes) / 32 for axes in ((1, 0), (0, 1)))
        self.gradient = cv2.blur(right * right + down * down, _AROUND)


class Outlines:
    """What tells how plain surfaces move from one picture to another.

    ``camera_flow`` (H, W, 2) is that of the camera's motion; None where it stands, or leads out of
    all bounds.
    """

    def __init__(self, first: Picture, second: Picture, camera: np.ndarray | None) -> None:
        """``camera``: the homography (3, 3) from one to the other, None if the camera stands."""
        self._first, self._second = first.grey, in_the_light_of(first.grey, second.grey)
        apart = self._second - self._first
        self._noise = quiet_variance(apart * apart)
        limit = _NOISE * self._noise + _SHIFT**2 * first.gradient
        self._detail = first.gradient > _DETAIL * self._noise
        self._standing = cv2.blur(apart * apart, _AROUND)
        self._stands = self._detail & (self._standing < limit)
        self._goes = self._detail & ~self._stands
        self.camera_flow = None if camera is None else flow_of(camera, first.shape)
        if self.camera_flow is not None:
            self._going = self._left(self.camera_flow)
            goes = self._detail & (self._going < limit)
            self._stands, self._goes = self._stands & ~goes, goes & ~self._stands

    @property
    def camera_goes(self) -> bool:
        """Whether what goes with the camera is spread wider over the picture than what stands."""
        return self.camera_flow is not None and _spread(self._goes) > _spread(self._stands)

    def settled(self, flow: np.ndarray) -> np.ndarray:
        """Return flow (H, W, 2) in which plain surfaces do what their outlines tell."""
        enough = _WORSE * self._left(flow) + 2 * self._noise
        surfaces_stand, surfaces_go = self._surfaces()
        stand = surfaces_stand & (self._standing <= enough)
        if self.camera_flow is None:
            return _blended(flow, None, stand)
        go = surfaces_go & (self._going <= enough)
        return _blended(_blended(flow, self.camera_flow, go), None, stand)

    def _left(self, flow: np.ndarray) -> np.ndarray:
        """Return what a flow (H, W, 2) leaves unexplained: mean squared differences (h, w)."""
        height, width = self._first.shape
        small = _halved(flow) / 2
        x = np.arange(width, dtype=np.float32)[None] + small[..., 0]
        y = np.arange(height, dtype=np.float32)[:, None] + small[..., 1]
        there = cv2.remap(self._second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return cv2.blur((there - self._first) ** 2, _AROUND)

    def _surfaces(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which places (h, w) are of plain surfaces that stand, and of such that go."""
        count, labels = cv2.connectedComponents((~self._detail).view(np.uint8), connectivity=4)
        standing, going = (_outlined(each, labels, count) for each in (self._stands, self._goes))
        sure = self.camera_flow is None and _spread(self._stands) > _WIDE
        goes = going > (_MOVES if sure else _GOES) * np.maximum(standing + going, 1)
        stands = (standing > 0) & ~goes
        goes[0] = stands[0] = False  # 0 is all that has detail
        return stands[labels], goes[labels]


def _outlined(places: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Count the places (h, w) bool beside each of the surfaces that labels (h, w) number."""
    height, width = labels.shape
    rows, columns = np.nonzero(places)
    beside = [
        labels[
            np.clip(rows + down, 0, height - 1),
            np.clip(columns + right, 0, width - 1),
        ]
        for down, right in ((0, _OUTLINE), (0, -_OUTLINE), (_OUTLINE, 0), (-_OUTLINE, 0))
    ]
    return np.bincount(np.concatenate(beside), minlength=count)


def _spread(places: np.ndarray) -> float:
    """Return the share of the picture over which most of the places (h, w) bool are spread."""
    rows, columns = np.nonzero(places)
    if len(rows) < _FEWEST:
        return 0.0
    ends = (1 - _WIDEST) / 2, (1 + _WIDEST) / 2
    sides = [np.diff(np.quantile(each, ends)) for each in (rows, columns)]
    return float((sides[0] * sides[1])[0] / places.size)


def _blended(flow: np.ndarray, other: np.ndarray | None, where: np.ndarray) -> np.ndarray:
    """Put another flow, None for none, in the places (h, w) of half the size, softly."""
    height, width = flow.shape[:2]
    soft = cv2.GaussianBlur(where.astype(np.float32), (0, 0), _SOFT)
    share = cv2.resize(soft, (width, height))[..., None]
    return flow * (1 - share) if other is None else flow + share * (other - flow)


def _halved(field: np.ndarray) -> np.ndarray:
    height, width = field.shape[:2]
    size = max(1, width // 2), max(1, height // 2)
    return cv2.resize(field, size, interpolation=cv2.INTER_AREA)
