"""How well a motion of the camera explains two frames, and which one nearby explains them best.

A few corners tell about how a camera has moved, but where only few are seen, the motion that fits
them may be far off elsewhere.  Edges tell more: every pixel that changed and has a gradient has to
be explained.
"""

from __future__ import annotations

import cv2
import numpy as np

from builder.trackers.evidence import in_the_light_of

NEAREST = 0.1
"""A plane that comes nearer than this leads out of all bounds."""

SQUASHED = 1e-3
"""A motion that makes areas this small is none."""

_BLUR = 1.2  # px
_PIXELS = 800  # of those that changed, as many are looked at
_FEWEST = 30
_QUIETEST, _LEAST_NOISE = 0.3, 0.3  # share of the pixels that tell the noise; grey levels
_CHANGED = 3.0  # times the noise
_STEEP = 1.5  # times the noise, for each pixel
_WITHIN = 0.5  # px: what is further off counts ever less, for it moves by itself
_BEYOND = 0.6  # what a pixel costs that is led out of the picture
_STIFFNESS = 0.05  # how much a camera is held to turning, zooming and shifting alone
_SETTLED = 0.02  # px


class Alignment:
    """Two frames, and the pixels by which motions between them are judged."""

    def __init__(self, before: np.ndarray, now: np.ndarray, raster: float) -> None:
        """Frames (H, W) uint8; ``raster`` is a pixel of the raster in pixels."""
        first, second = (
            cv2.GaussianBlur(each.astype(np.float32), (0, 0), _BLUR) for each in (before, now)
        )
        second = in_the_light_of(first, second)
        self._shape, self._within = first.shape, _WITHIN * raster
        apart = np.abs(second - first)
        self._noise = max(_LEAST_NOISE, 1.5 * float(np.quantile(apart[::4, ::4], _QUIETEST)))
        right, down = _gradient(first)
        changed = cv2.dilate((apart > _CHANGED * self._noise).view(np.uint8), np.ones((5, 5)))
        tell = (right * right + down * down > (_STEEP * self._noise) ** 2) & (changed > 0)
        at = np.flatnonzero(tell)
        at = at[np.linspace(0, len(at) - 1, min(len(at), _PIXELS)).astype(int)]
        rows, columns = np.divmod(at, first.shape[1])
        self._points = np.stack([columns + 0.5, rows + 0.5, np.ones(len(at))])
        self._values = first[rows, columns]
        self._field = np.dstack([second, *_gradient(second)])

    def cost(self, homography: np.ndarray) -> float:
        """Return how badly a motion (3, 3) explains what has changed: 0 to 1."""
        _, _, apart, steep, inside = self._led(homography)
        square = (apart / steep) ** 2
        return float(np.where(inside, square / (square + self._within**2), _BEYOND).mean())

    def refine(self, homography: np.ndarray, steps: int) -> np.ndarray | None:
        """Return the motion (3, 3) near to one that explains more; None where too little tells.

        Gauss-Newton, in which what is further off than some tenths of a pixel weighs less, and
        what is no turn, zoom or shift has to be told by much.
        """
        if len(self._values) < _FEWEST:
            return None
        height, width = self._shape
        middle = np.array([[2 / width, 0, -1], [0, 2 / width, -height / width], [0, 0, 1]])
        back = np.linalg.inv(middle)
        for _ in range(steps):
            points, gradient, apart, steep, inside = self._led(homography)
            weight = inside / ((1 + (apart / steep / self._within) ** 2) * steep) ** 2
            across, down = (points * middle[0, 0]) + middle[:2, 2:]
            right, below = gradient
            outward = right * across + below * down
            columns = np.stack(
                [right, below, right * across, right * down, below * across, below * down,
                 outward * across, outward * down]
            )  # fmt: skip
            weighed = columns * weight
            normal = np.einsum("im,jm->ij", weighed, columns)  # the same bits on any cores
            normal += _stiff(float(np.trace(normal)) / len(normal))
            change = -np.linalg.solve(normal, np.einsum("im,m->i", weighed, apart)) * 2 / width
            delta = np.eye(3)
            delta[:2, 2], delta[2, :2] = change[:2], -change[6:]
            delta[:2, :2] += change[2:6].reshape(2, 2)
            homography = back @ delta @ middle @ homography
            if not np.isfinite(homography).all() or homography[2, 2] < NEAREST:
                return None
            homography = homography / homography[2, 2]
            if abs(np.linalg.det(homography)) < SQUASHED:
                return None
            if np.abs(change).max() * width / 2 < _SETTLED:
                break
        return homography

    def _led(self, homography: np.ndarray) -> tuple[np.ndarray, ...]:
        """Follow the pixels by a motion.

        Returns where they get to (2, M), the gradient there (2, M), how much brighter it is (M,),
        how steep it is beyond noise (M,), and which are in the picture (M,).
        """
        x, y, scale = homography @ self._points
        points = np.stack([x, y]) / np.maximum(scale, NEAREST)
        height, width = self._shape
        inside = ((points >= 1) & (points <= [[width - 1], [height - 1]])).all(axis=0)
        at = np.clip(points - 0.5, -1, max(width, height)).astype(np.float32)
        found = cv2.remap(
            self._field, at[0][:, None], at[1][:, None], cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )[:, 0].T  # fmt: skip
        gradient = found[1:].astype(np.float64)
        steep = np.sqrt((gradient**2).sum(axis=0) + (2 * self._noise) ** 2)
        return points, gradient, found[0] - self._values, steep, inside


def _gradient(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradient of a picture (H, W) float32, in grey levels a pixel."""
    return (
        cv2.Scharr(picture, cv2.CV_32F, 1, 0) / 32,
        cv2.Scharr(picture, cv2.CV_32F, 0, 1) / 32,
    )


def _stiff(strength: float) -> np.ndarray:
    """Return what is added to the normal equations (8, 8): little for a turn, a zoom or a shift."""
    added = np.diag([0.01, 0.01, 1, 1, 1, 1, 1, 1])
    added[2, 5] = added[5, 2] = -0.9  # widths and heights grow together
    added[3, 4] = added[4, 3] = 0.9  # and turn together
    return added * (_STIFFNESS * strength) + np.eye(8) * 1e-9 * (1 + strength)
