"""Live frames on one clock: the frames a build would pick, without knowing how the video ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

MAX_WAITING = 64
"""Frames of a view, or ticks, that wait for another view; older ones are dropped, and counted."""

_SLOWER = 1.05  # a camera slower than this many ticks cannot fill them
_LOST = 1.5  # ticks from frame to frame, beyond which one was lost
_PERIODS = 32  # of the camera, over which its rate is the median
_AT_ONCE = 0.4  # periods before its tick at which a frame need not wait for the next


@dataclass
class Counts:
    """What became of the frames so far; ``reset`` begins at zero."""

    frames: int = 0
    """Pushed, of all views."""
    ticks: int = 0
    """Moments of the clock that had a frame of every view."""
    windows: int = 0
    still: int = 0
    """Windows that were not tracked, since nothing moves in them (``tracker.skip_still``)."""
    late: int = 0
    """Frames older than the one before them, or as old: left out."""
    dropped: int = 0
    """Frames and ticks that waited too long for another view."""
    gaps: int = 0
    """Times that tracking began anew, because a tick had no frame of its own."""
    hasty: int = 0
    """Frames that were taken at once, and the next one then came nearer to the tick."""

    def __str__(self) -> str:
        return ", ".join(f"{value} {name}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Tick:
    """One moment of the clock, in seconds, and what every view has for it; None: a gap."""

    seconds: float
    items: dict[str, Any] | None


class LiveClock:
    """Picks frames of several views, each pushed with its own time, as a build picks them.

    With ``fps`` the reference view's frames nearest to a grid of that rate are taken, every
    ``step``-th of them; without it every ``step``-th frame is.  Of other views it is the frame
    nearest in time, at most ``tolerance`` seconds away.  Nothing is ever interpolated.

    A build knows the next frame; a camera's is still to come.  So a frame that came at most 0.4
    of the camera's usual period before its tick is taken at once: the next is nearer only if it
    comes a fifth of a period too soon, which ``counts.hasty`` counts.  With ``wait`` every tick
    waits for the frame after it, and picks are always those of a build.
    """

    def __init__(
        self,
        views: Sequence[str],
        reference: str,
        fps: float | None,
        step: int,
        tolerance: float | None,
        wait: bool = False,
    ) -> None:
        self._wait = wait
        self._reference, self._fps, self._step = reference, fps, step
        if tolerance is None and fps is not None:
            tolerance = step / fps / 2
        # As in a build: clocks are rounded.
        self._allowed = None if tolerance is None else tolerance * 1.001 + 1e-6
        self._others: dict[str, deque[tuple[float, Any]]] = {
            name: deque() for name in views if name != reference
        }
        self._last: dict[str, float] = {}
        self._ticks: deque[Tick] = deque()
        self._periods: dict[str, deque[float]] = {
            name: deque(maxlen=_PERIODS) for name in (reference, *views)
        }
        self._hasty: dict[str, tuple[float, float]] = {}
        self._before: tuple[float, Any] | None = None
        self._picked: float | None = None
        self._first, self._number = 0.0, 0
        self.counts = Counts()

    def push(self, view: str, seconds: float, item: Any) -> None:
        """Take a frame of a view.

        Raises ValueError when the time jumps back by more than a frame can be late, and when the
        reference view is slower than the clock.
        """
        self.counts.frames += 1
        last = self._last.get(view)
        if last is not None and seconds <= last:
            if last - seconds > 1:
                raise ValueError(
                    f"view {view}: the time went back from {last:.3f} to {seconds:.3f} s; call "
                    "reset() where a new episode begins"
                )
            self.counts.late += 1
            return
        self._last[view] = seconds
        if last is not None:
            self._periods[view].append(seconds - last)
        wanted, lead = self._hasty.pop(view, (seconds, 0.0))
        self.counts.hasty += abs(seconds - wanted) < lead
        if view != self._reference:
            waiting = self._others[view]
            waiting.append((seconds, item))
            if len(waiting) > MAX_WAITING:
                waiting.popleft()
                self.counts.dropped += 1
            return
        if self._fps is not None:
            self._pick(seconds, item, self._fps)
        else:
            if self._number % self._step == 0:
                self._add(seconds, item)
            self._number += 1
        self._before = seconds, item

    def settled(self, end: bool = False) -> Iterator[Tick]:
        """Yield the ticks of which it is known what every view has; at the ``end`` all of them."""
        if end and self._fps is not None and self._before is not None:
            # As a build does, which counts ticks with this much to spare.
            if (self._wanted(self._fps) - self._before[0]) * self._fps <= 1e-6:
                self._pick(self._wanted(self._fps), self._before[1], self._fps)
        while self._ticks:
            tick = self._ticks[0]
            waiting = (
                not frames or not self._settles(name, frames[-1][0], tick.seconds)
                for name, frames in self._others.items()
            )
            if tick.items is not None and not end and any(waiting):
                return
            yield self._complete(self._ticks.popleft())

    def _complete(self, tick: Tick) -> Tick:
        """Add what the other views have nearest to a tick; a gap where one has nothing."""
        if tick.items is None:
            return tick
        items = dict(tick.items)
        for name, frames in self._others.items():
            while len(frames) > 1 and frames[1][0] <= tick.seconds:
                frames.popleft()
            # Of two equally near frames the earlier one, as in a build.
            near = min(list(frames)[:2], key=lambda each: abs(each[0] - tick.seconds), default=None)
            too_far = self._allowed is not None and (
                near is None or abs(near[0] - tick.seconds) > self._allowed
            )
            if near is None or too_far:
                return Tick(tick.seconds, None)
            items[name] = near[1]
        self.counts.ticks += 1
        return Tick(tick.seconds, items)

    def _pick(self, seconds: float, item: Any, fps: float) -> None:
        """Settle the ticks up to a frame of the reference view: each gets the nearest frame."""
        if self._before is None:
            self._first = seconds
        while (wanted := self._wanted(fps)) <= seconds or (
            seconds != self._picked and self._settles(self._reference, seconds, wanted)
        ):
            near = (seconds, item)
            if self._before is not None and wanted - self._before[0] <= seconds - wanted:
                near = self._before
            if near[0] == self._picked:
                self._repeat(seconds, wanted, self._step / fps)
            else:
                self._picked = near[0]
                self._add(*near)
                self._number += 1

    def _settles(self, view: str, seconds: float, wanted: float) -> bool:
        """Tell whether the newest frame of a view leaves no doubt which is nearest to a tick."""
        lead, periods = wanted - seconds, self._periods[view]
        if lead <= 0:
            return True
        if self._wait or not periods or lead > _AT_ONCE * median(periods):
            return False
        self._hasty[view] = wanted, lead
        return True

    def _wanted(self, fps: float) -> float:
        return self._first + self._number * self._step / fps

    def _repeat(self, seconds: float, wanted: float, tick: float) -> None:
        """Go on where the frame nearest to a tick is taken: the clocks drift, or a frame is lost.

        Raises ValueError when the camera is too slow.
        """
        usual = median(self._periods[self._reference])
        if usual > _SLOWER * tick:
            raise ValueError(
                f"view {self._reference}: the camera gives about {1 / usual:.3g} frames a second, "
                f"the model was trained on {1 / tick:.3g}; frames are never made up: use a faster "
                "camera, or a dataset built with a lower source.fps"
            )
        if self._before is not None and seconds - self._before[0] <= _LOST * tick:
            self._first += seconds - wanted
            return
        self._ticks.append(Tick(wanted, None))
        # On from the first tick after this frame.
        self._number = int((seconds - self._first) / tick) + 1

    def _add(self, seconds: float, item: Any) -> None:
        self._ticks.append(Tick(seconds, {self._reference: item}))
        if len(self._ticks) > MAX_WAITING:
            self._ticks.popleft()
            self._ticks[0] = Tick(self._ticks[0].seconds, None)
            self.counts.dropped += 1
