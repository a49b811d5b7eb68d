"""How much of a view stands still where tracks could not tell, and how much of it they move.

What the built-in tracker does by texture was measured on scenes with exact truth
(``scripts/measure_false_motion.py``); what the stored tracks do is counted in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median

import numpy as np
from pydantic import Field

from builder.core.messages import count
from builder.report.false_motion_rates import MEASURED
from builder.report.motion_findings import Bounds, Level
from builder.report.still_points import EDGES, PATCH, TELLING, look, moved_steps
from schemas.base import Record
from schemas.dataset import TrackerInfo

WINDOWS = 48
"""Looked at per view, spread over the episodes: each takes reading as many frames as its steps."""
MOVED = Bounds(0.05, 0.15, 1.0)
"""Judged: with chains of motion alone, textured still points of the scenes move at about 5% of
their steps; what share hurts a training was not measured, so nothing here is a problem."""
GAIN = 0.5  # of what the tracks have, below which another preset is worth naming
DEFAULT_RATES: dict[str, tuple[float, ...]] = MEASURED[0]["rates"]
FEW_STEPS = 200  # of still points, below which nothing is said of them


class StillReport(Record):
    """Points whose picture stands still, in the windows of a view that were looked at.

    Shares are null where there is too little to count.
    """

    basis: str = Field(description="what it was estimated from, or why it is unknown")
    windows: int = Field(description="whose pictures were looked at")
    noise: float | None = Field(description="in grey levels, one frame's; from what changes least")
    fixed_share: float | None = Field(description="windows in which the camera stands")
    still_share: float | None = Field(description="points whose picture stands still")
    low_texture_share: float | None = Field(
        description="points with too little texture for their noise to tell half a pixel of motion"
    )
    moved_share: float | None = Field(description="steps of still points that the tracks move")
    expected: dict[str, float] = Field(
        description="by preset of the built-in tracker, set as here, else as by default: that "
        "share on scenes with truth, for the texture and noise found here"
    )
    preset: str | None = Field(
        description="of those, the one that made these tracks; null for what was not measured"
    )


class StillTally:
    """Counts the still points of a view, window by window; memory does not grow."""

    def __init__(self, episodes: int) -> None:
        """Count in a view of a dataset of so many episodes."""
        self._every = max(1, episodes // WINDOWS)
        self.per_episode = max(1, WINDOWS // max(1, episodes))
        self._met = 0
        self._noises: list[float] = []
        self._counts: Counter[str] = Counter()
        self._steps = np.zeros(len(EDGES) + 1, np.int64)
        self._codecs: set[str] = set()

    def wants_next(self) -> bool:
        """Tell whether the next episode is one of those to look at."""
        self._met += 1
        return (self._met - 1) % self._every == 0

    def add(self, frames: np.ndarray, tracks_xy: np.ndarray, vis: np.ndarray, codec: str) -> None:
        """Count one window: content (K, H, W, 3), tracks (K, N, 2) in its pixels, vis (K, N)."""
        shape = frames.shape[1:3]
        if len(frames) < 2 or min(shape) < PATCH:
            return
        inside = ((tracks_xy[0] >= 0) & (tracks_xy[0] <= shape[::-1])).all(axis=1)
        chosen = inside & (vis[0] > 0)
        if not chosen.any():
            return
        xy, seen = tracks_xy[:, chosen], vis[:, chosen] > 0
        found = look(frames, xy[0])
        both = seen[1:] & seen[:-1]
        moved = moved_steps(xy, shape) & both
        still = found.still
        self._codecs.add(codec)
        self._noises.append(found.noise)
        self._counts.update(
            windows=1,
            fixed=int(found.fixed),
            points=len(still),
            still=int(still.sum()),
            low=int((found.ratio < TELLING).sum()),
            moved=int(moved[:, still].sum()),
        )
        np.add.at(self._steps, found.bins[still], both[:, still].sum(axis=0))

    def report(self, tracker: TrackerInfo, shown: object, stored: bool) -> StillReport:
        """Sum up; ``shown`` is the tracker.input of the tracks, ``stored``: frames are."""
        counts, steps = self._counts, int(self._steps.sum())
        windows, points, enough = counts["windows"], counts["points"], steps >= FEW_STEPS
        rates = measured_rates(tracker)
        expected = {
            preset: float(np.dot(self._steps, each)) / steps
            for preset, each in ((rates or DEFAULT_RATES).items() if enough else ())
        }
        return StillReport(
            basis=self._basis(stored),
            windows=windows,
            noise=median(self._noises) if windows else None,
            fixed_share=counts["fixed"] / windows if windows else None,
            still_share=counts["still"] / points if points else None,
            low_texture_share=counts["low"] / points if points else None,
            moved_share=counts["moved"] / steps if enough else None,
            expected=expected,
            preset=measured_preset(tracker) if shown == "content" else None,
        )

    def _basis(self, stored: bool) -> str:
        if not stored:
            return "unknown: the dataset stores no frames"
        if not self._counts["windows"]:
            return "unknown: no window has two frames of its own and a visible point"
        if not self._counts["fixed"]:
            return "unknown: the camera moves in every window that was looked at"
        lossy = ", as JPEG, which changes their noise" if "jpeg" in self._codecs else ""
        return f"the stored frames of {count(self._counts['windows'], 'window')}{lossy}"


def measured_rates(tracker: TrackerInfo) -> dict[str, tuple[float, ...]]:
    """Return the rates by preset that were measured of a tracker set so; empty for others."""
    own = facts(tracker)
    rates: dict[str, tuple[float, ...]] = next(
        (each["rates"] for each in MEASURED if each["tracker"] == own), {}
    )
    return rates


def measured_preset(tracker: TrackerInfo) -> str | None:
    """Return which of the measured presets made tracks; None for other trackers and settings."""
    preset = str(tracker.settings.get("preset"))
    return preset if preset in measured_rates(tracker) else None


def facts(tracker: TrackerInfo) -> dict[str, object]:
    """Return what decides where a tracker's points go, but for its preset."""
    own = {k: v for k, v in tracker.settings.items() if k not in ("note", "preset", "conf")}
    return {"kind": tracker.kind, "name": tracker.name, "own": own}


def still_line(found: StillReport) -> str:
    """Say in a line what was found."""
    if found.moved_share is None or found.noise is None:
        few = "" if found.basis.startswith("unknown") else "too few of them, in "
        return f"  still points: {few}{found.basis}"
    expected = found.expected.get(found.preset or "")
    told = "not measured for this tracker" if expected is None else f"{expected:.1%} expected"
    return (
        f"  still points {found.still_share:.1%}: {found.moved_share:.1%} of their steps move, "
        f"{told}; too little texture {found.low_texture_share:.1%} of the points (noise "
        f"{found.noise:.2f} grey levels)"
    )


def still_findings(found: StillReport) -> Iterator[tuple[Level, str]]:
    """Judge how much the tracks move what stands still."""
    if found.moved_share is None or not (level := MOVED.level(found.moved_share)):
        return
    text = (
        f"{found.moved_share:.1%} of the steps of points that stand still are motion in the "
        f"tracks; {found.low_texture_share:.1%} of the points have too little texture for their "
        "noise to tell half a pixel of motion"
    )
    better = [
        f"{preset} {share:.1%}"
        for preset, share in (found.expected.items() if found.preset else ())
        if share < GAIN * found.moved_share and preset != found.preset
    ]
    if better:
        text += f"; expected with another tracker.preset: {', '.join(better)}"
    yield level, text
