"""Whether a point stays where its window began, and whether it shows: a small network decides.

It weighs what the chain of motion says against what the pictures at both places show.  Its
numbers, a few thousand, were fitted by ``scripts/train_still_head.py`` on rendered scenes, which
are named beside them; they need numpy alone.  That fit weighs points by the harm that a wrong
answer does, so what it says is no share of points: ``scripts/calibrate_conf.py`` fitted lines that
make it one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from builder.trackers.surround import NAMES as SURROUND

FEATURES = (
    "change at the query",
    "change along the chain",
    "change of the last step along the chain",
    "change of the last step at the query",
    "gain at the query",
    "gain at the query since it last showed",
    "gain along the chain",
    "weakest gradient by noise",
    "gradient by noise",
    "distance from the query",
    "found",
    "forward-backward error",
    "stands, near",
    "changes, near",
    "stands among both, near",
    "stands, around",
    "changes, around",
    "stands among both, around",
    "stands among both, everywhere",
    "changes, everywhere",
    "went before",
    "showed before",
    "step",
    "most change at the query so far",
    "length of the last step",
    "change at the query by gradient",
    "change along the chain by gradient",
    "colour",
    "noise",
    "speed at the query",
    "speed everywhere",
    "change at the query by that along the chain",
    "beyond the edge",
    "least change along the chain so far",
    *SURROUND,
    "how far the camera's motion leads",
    "distance of the chain from there",
)
"""What it is shown of a point at a step; quantities without a bound as log(1 + x)."""

MARGIN = 2.5
"""Logarithm of the odds from which on a point stays: to hold what moves is worse than to move what
stands, by far fewer points."""

WEIGHTS = Path(__file__).with_name("still_head.json")
CALIBRATION = Path(__file__).with_name("still_conf.json")

STANDING = FEATURES.index("stands among both, everywhere")
"""Tells a camera that stands from one that moves: their points go wrong in other ways."""


class Verdict(NamedTuple):
    """``stays`` (N,) bool: at the query; ``shows`` (N,) float32, above 0.5 where it shows.

    To show means: visible, and within 4 pixels of a raster of 256.  ``conf`` (N,) float32 is the
    probability of it; None where it was not asked for.
    """

    stays: np.ndarray
    shows: np.ndarray
    conf: np.ndarray | None = None


class Lines:
    """Shares of points by the odds that the head gives them: lines that never fall.

    One of them holds for points that stay and one for those that go, each where most of the
    picture stands and where it does not.
    """

    def __init__(self, standing: float, lines: Mapping[tuple[bool, bool], np.ndarray]) -> None:
        """``standing``: the share from which on the picture stands; lines (2, K) by both kinds."""
        self._standing, self._lines = standing, lines

    def __call__(self, odds: np.ndarray, stays: np.ndarray, standing: np.ndarray) -> np.ndarray:
        """Return ``conf`` (N,) of logarithms of odds; ``standing`` (N,) is the feature."""
        conf = np.empty(len(odds), np.float32)
        for (stands, held), (at, share) in self._lines.items():
            own = (stays == held) & ((standing >= self._standing) == stands)
            conf[own] = np.interp(odds[own], at, share)
        return conf


class StillHead:
    """A network of two hidden layers."""

    def __init__(
        self,
        mean: np.ndarray,
        scale: np.ndarray,
        layers: list[list[np.ndarray]],
        lines: Lines | None = None,
    ) -> None:
        self._mean, self._scale, self._layers, self._lines = mean, scale, layers, lines

    def __call__(self, features: np.ndarray, conf: bool = False) -> Verdict:
        """Judge the points of one window, ``features`` (N, len(FEATURES)) float32."""
        hidden = (features - self._mean) / self._scale
        *inner, (weights, bias) = self._layers
        for each, offset in inner:
            hidden = np.maximum(hidden @ each + offset, 0)
        stays, shows_there, shows_along = (hidden @ weights + bias).T
        held = stays > MARGIN
        odds = np.clip(np.where(held, shows_there, shows_along), -30, 30)
        told = self._lines(odds, held, features[:, STANDING]) if conf and self._lines else None
        return Verdict(held, 1 / (1 + np.exp(-odds)), told)


@cache
def still_head() -> StillHead:
    """Return the head that letterset ships."""
    kept = json.loads(WEIGHTS.read_text())
    arrays = [[np.array(each, np.float32) for each in layer] for layer in kept["layers"]]
    told = json.loads(CALIBRATION.read_text())
    lines = {
        (each["stands"], each["stays"]): (each["odds"], each["share"]) for each in told["lines"]
    }
    return StillHead(
        np.array(kept["mean"], np.float32),
        np.array(kept["scale"], np.float32),
        arrays,
        Lines(told["standing"], {key: np.array(line) for key, line in lines.items()}),
    )
