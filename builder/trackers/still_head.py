"""Whether a point stays where its window began, and whether it shows: a small network decides.

It weighs what the chain of motion says against what the pictures at both places show.  Its 2,300
numbers were fitted by ``scripts/train_still_head.py`` on rendered scenes, which are named beside
them; they need numpy alone.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

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
)
"""What it is shown of a point at a step; quantities without a bound as log(1 + x)."""

MARGIN = 2.5
"""Logarithm of the odds from which on a point stays: to hold what moves is worse than to move what
stands, by far fewer points."""

WEIGHTS = Path(__file__).with_name("still_head.json")


class Verdict(NamedTuple):
    """``stays`` (N,) bool: at the query; ``shows`` (N,) float32, the probability that it does.

    To show means: visible, and within 4 pixels of a raster of 256.
    """

    stays: np.ndarray
    shows: np.ndarray


class StillHead:
    """A network of two hidden layers."""

    def __init__(self, mean: np.ndarray, scale: np.ndarray, layers: list[list[np.ndarray]]) -> None:
        self._mean, self._scale, self._layers = mean, scale, layers

    def __call__(self, features: np.ndarray) -> Verdict:
        """Judge the points of one window, ``features`` (N, len(FEATURES)) float32."""
        hidden = (features - self._mean) / self._scale
        *inner, (weights, bias) = self._layers
        for each, offset in inner:
            hidden = np.maximum(hidden @ each + offset, 0)
        stays, shows_there, shows_along = (hidden @ weights + bias).T
        held = stays > MARGIN
        chosen = np.where(held, shows_there, shows_along)
        return Verdict(held, 1 / (1 + np.exp(-np.clip(chosen, -30, 30))))


@cache
def still_head() -> StillHead:
    """Return the head that letterset ships."""
    kept = json.loads(WEIGHTS.read_text())
    arrays = [[np.array(each, np.float32) for each in layer] for layer in kept["layers"]]
    return StillHead(
        np.array(kept["mean"], np.float32), np.array(kept["scale"], np.float32), arrays
    )
