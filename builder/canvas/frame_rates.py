"""Frame rates of the clips of a dataset: a window of steps should last equally long in all."""

import math

TOLERANCE = 1.05
"""Rates that differ by less are equal: 29.97 and 30, or 24 and 25."""
RATES_FROM = 100
"""Episodes whose rates are looked at where not all are read anyway, spread evenly."""


class FrameRates:
    """The slowest and the fastest rate of many clips, and how many say nothing of theirs."""

    def __init__(self) -> None:
        self.lowest, self.highest = math.inf, 0.0

    def add(self, fps: float | None) -> None:
        """Count a clip with this rate; None where it is unknown, which tells nothing."""
        if fps:
            self.lowest, self.highest = min(self.lowest, fps), max(self.highest, fps)

    def text(self) -> str:
        """Write the rate, or the range of rates."""
        if not self.highest:
            return "unknown"
        low, high = f"{self.lowest:.3g}", f"{self.highest:.3g}"
        return low if low == high else f"{low} to {high}"

    def mixed(self, steps: int) -> str | None:
        """Say that windows of ``steps`` frames do not last equally long, and the cure; or None."""
        if self.highest <= self.lowest * TOLERANCE:
            return None
        short, long = (f"{steps / rate:.2g}" for rate in (self.highest, self.lowest))
        # Never above the slowest: its frames would have to be repeated.
        common = math.floor(self.lowest * 100) / 100 or self.lowest
        return (
            f"frame rates differ, {self.lowest:.3g} to {self.highest:.3g} per second: {steps} "
            f"steps last {short} to {long} s, and equal motion has unequal steps; build with "
            f"source.fps={common:g}, which takes frames evenly in time"
        )
