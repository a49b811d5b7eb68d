"""What a whole window tells of each of its steps: a second look, when all of it is known.

At the moment a plain wall that is pushed before an arm, as flow has it, looks like a thing that
moves; what comes before and after tells.  Each step is judged once more by a small network, which
is shown what the head saw and said then, and what it saw and said before and after.  Its numbers
were fitted by ``scripts/train_second_look.py``.  That fit weighs points by the harm that a wrong
answer does, so what it says is no share of points: ``scripts/calibrate_conf.py`` fitted lines that
make it one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from builder.trackers import still_head
from builder.trackers.still_head import FEATURES, LEADS, STANDING, Network, Verdict

QUANTITIES = (
    *FEATURES,
    "odds of staying",
    "odds of showing at the query",
    "odds of showing along the chain",
    "stays",
    "change where the camera leads",
)
"""What is kept of a point at a step."""

STAYED = QUANTITIES.index("stays")
LED = QUANTITIES.index("how far the camera's motion leads")

MARGIN, MARGIN_MOVING = 3.5, 4.0
"""As that of the head, but more is known; and where the camera moves, more moves."""

MARGIN_LED = 1.0
"""Logarithm of the odds from which on a point is put where the camera's motion leads."""

WEIGHTS = Path(__file__).with_name("second_look.json")
CALIBRATION = Path(__file__).with_name("second_look_conf.json")

_SURE = 10.0  # odds beyond it are all the same
_STANDS = 0.5  # share of the picture that stands, from which on the camera does


def keep(
    features: np.ndarray, odds: np.ndarray, stays: np.ndarray, led_change: np.ndarray
) -> np.ndarray:
    """Return what is kept of a step (N, len(QUANTITIES)) float16."""
    columns = [features, np.clip(odds, -_SURE, _SURE), stays[:, None], led_change[:, None]]
    return np.concatenate(columns, axis=1).astype(np.float16)


def inputs(steps: np.ndarray) -> list[np.ndarray]:
    """Return what the network is shown of what was kept (T, N, K) float16.

    Of each quantity what it is, its means later and earlier (T, N, K), and its most and least in
    the window (1, N, K).
    """
    now = steps.astype(np.float32)
    count = len(now)
    so_far = np.cumsum(now, axis=0)
    number = np.arange(1, count + 1, dtype=np.float32)[:, None, None]
    later = (so_far[-1] - so_far) / np.maximum(count - number, 1)
    earlier = (so_far - now) / np.maximum(number - 1, 1)
    later[-1], earlier[0] = now[-1], now[0]
    return [now, later, earlier, now.max(axis=0, keepdims=True), now.min(axis=0, keepdims=True)]


class Lines:
    """Shares of points by the odds that they are given: lines that never fall.

    One of them holds for points that stay and one for those that go, each where most of the
    picture stands and where it does not.
    """

    def __init__(self, standing: float, lines: Mapping[tuple[bool, bool], np.ndarray]) -> None:
        """``standing``: the share from which on the picture stands; lines (2, K) by both kinds."""
        self._standing, self._lines = standing, lines

    def __call__(self, verdict: Verdict, standing: np.ndarray) -> np.ndarray:
        """Return the probability of showing (...) float32; ``standing`` (...) is the feature."""
        conf = np.empty(verdict.odds.shape, np.float32)
        for (stands, held), (at, share) in self._lines.items():
            own = (verdict.stays == held) & ((standing >= self._standing) == stands)
            conf[own] = np.interp(verdict.odds[own], at, share)
        return conf


class SecondLook(NamedTuple):
    """The network and the lines that make its odds a probability."""

    network: Network
    lines: Lines

    def __call__(self, steps: np.ndarray) -> Verdict:
        """Judge every step of a window, given what was kept (T, N, len(QUANTITIES))."""
        odds = self.network(*inputs(steps))
        odds[..., LEADS] = np.where(steps[..., LED] > 0, odds[..., LEADS] - MARGIN_LED, -np.inf)
        standing = steps[..., STANDING] >= _STANDS
        return Verdict.of(odds, np.where(standing, MARGIN, MARGIN_MOVING))

    def conf(self, steps: np.ndarray, verdict: Verdict) -> np.ndarray:
        """Return how likely points show (T, N) float32."""
        return self.lines(verdict, steps[..., STANDING].astype(np.float32))


@cache
def second_look() -> SecondLook:
    """Return the one that letterset ships."""
    told = json.loads(CALIBRATION.read_text())
    lines = {
        (each["stands"], each["stays"]): np.array((each["odds"], each["share"]))
        for each in told["lines"]
    }
    return SecondLook(Network.read(WEIGHTS), Lines(told["standing"], lines))


@cache
def weights_sha256(conf: bool) -> str:
    """Return the SHA-256 of the numbers that decide, with those of ``conf`` where it is told."""
    files = [still_head.WEIGHTS, WEIGHTS, *([CALIBRATION] if conf else [])]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
