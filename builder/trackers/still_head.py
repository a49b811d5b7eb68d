"""Whether a point stays where its window began, and whether it shows: a small network decides.

It weighs what the chain of motion says against what the pictures at both places show, step by
step; ``second_look`` decides again when a window is whole.  Its numbers, a few thousand, were
fitted by ``scripts/train_still_head.py`` on rendered scenes, which are named beside them; they need
numpy alone.
"""

from __future__ import annotations

import json
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

LEADS = 3
"""The column of odds that tells whether the camera's motion leads nearer than the chain."""

WEIGHTS = Path(__file__).with_name("still_head.json")

STANDING = FEATURES.index("stands among both, everywhere")
"""Tells a camera that stands from one that moves: their points go wrong in other ways."""


class Verdict(NamedTuple):
    """Where points are, and whether they show.

    ``stays`` (...) bool: at the query; ``leads``: where the camera's motion leads from there, else
    along the chain.  ``odds`` (...) float32: of showing, a logarithm; to show means visible, and
    within 4 pixels of a raster of 256.
    """

    stays: np.ndarray
    leads: np.ndarray
    odds: np.ndarray

    @classmethod
    def of(cls, odds: np.ndarray, margin: float | np.ndarray = MARGIN) -> Verdict:
        """Decide by odds (..., 3): of staying, of showing at the query, and along the chain.

        They may be (..., 5): then also of the camera's motion leading nearer than the chain, and
        of showing there.
        """
        stays, along = odds[..., 0] > margin, odds[..., 2]
        leads = np.zeros_like(stays)
        if odds.shape[-1] > LEADS:
            leads = ~stays & (odds[..., LEADS] > 0)
            along = np.where(leads, odds[..., LEADS + 1], along)
        return cls(stays, leads, np.where(stays, odds[..., 1], along))


class Network:
    """A network of two hidden layers, from features to the logarithms of odds."""

    def __init__(self, mean: np.ndarray, scale: np.ndarray, layers: list[list[np.ndarray]]) -> None:
        """``mean`` and ``scale`` (F,) are those of the features, ``layers`` weights and biases."""
        (weights, bias), *self._layers = layers
        self._weights = weights / scale[:, None]
        self._bias = bias - mean @ self._weights

    @classmethod
    def read(cls, path: Path) -> Network:
        """Read what ``scripts/train_still_head.py`` or ``train_second_look.py`` has written."""
        kept = json.loads(path.read_text())
        arrays = [[np.array(each, np.float32) for each in layer] for layer in kept["layers"]]
        mean, scale = (np.array(kept[name], np.float32) for name in ("mean", "scale"))
        return cls(mean, scale, arrays)

    def __call__(self, *parts: np.ndarray) -> np.ndarray:
        """Return the logarithms of odds (..., K) of points, whose features are in ``parts``.

        Each part is (..., F) float32, and they are broadcast together.
        """
        hidden, at = self._bias, 0
        for part in parts:
            hidden = hidden + part @ self._weights[at : at + part.shape[-1]]
            at += part.shape[-1]
        for weights, bias in self._layers:
            hidden = np.maximum(hidden, 0) @ weights + bias
        return hidden


@cache
def still_head() -> Network:
    """Return the head that letterset ships."""
    return Network.read(WEIGHTS)
