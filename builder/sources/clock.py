"""Times of frames: picking frames by time, and putting views on one reference clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from builder.core.errors import SourceError
from builder.inputs.streams import period
from builder.sources.base import Episode

if TYPE_CHECKING:
    from builder.sources.selection import Selection


class Ticks:
    """The reference clock of one episode and the ticks picked from it.

    ``None`` as the name of a view stands for the episode's own clock.  The clock is left out,
    and no times are looked up, when one view is the clock and frames are picked by number.
    """

    def __init__(self, episode: Episode, how: Selection, chosen: list[str]) -> None:
        self._episode, self._how = episode, how
        self._own = None if episode.clock is not None else next(iter(episode.views))
        # Without arrays to keep in step, a view that was not chosen need not be looked at.
        free = self._own is not None and self._own not in chosen and not episode.arrays
        self.reference = how.reference_view or (chosen[0] if free else self._own)
        if self.reference is not None and self.reference not in episode.views:
            raise SourceError(
                f"there is no reference_view {self.reference!r}; the episode has "
                f"{list(episode.views)}"
            )
        timed = how.fps or how.start_seconds is not None or how.end_seconds is not None
        owners = {*chosen, self._own} if episode.arrays else {*chosen}
        alone = owners == {self.reference}
        self.clock = None if alone and not timed else self._times(self.reference)
        count = self._count(self.reference)
        times = np.arange(count, dtype=np.float64) if self.clock is None else self.clock
        self.picks = pick(times, how)

    def indices(self, owner: str | None, label: str) -> tuple[np.ndarray, str | None]:
        """Return the frames of a view for the picked ticks, and a note if not one to one."""
        if owner == self.reference or self.clock is None:
            return self.picks, None
        return align(self._times(owner), self.clock, self.picks, self._how, label)

    def rows(self) -> dict[str, np.ndarray]:
        """Return the arrays at the picked ticks.  Raises SourceError for another number of rows."""
        arrays, count = self._episode.arrays, self._count(self._own)
        for name, array in arrays.items():
            if array.ndim == 0 or len(array) != count:
                raise SourceError(
                    f"the array {name} has shape {array.shape}, but the episode has {count} frames"
                )
        if not arrays:
            return {}
        picks, _ = self.indices(self._own, "what the arrays belong to")
        return {name: array[picks] for name, array in arrays.items()}

    def _times(self, owner: str | None) -> np.ndarray:
        if owner is not None:
            return self._episode.views[owner].times()
        return np.asarray(self._episode.clock, np.float64)

    def _count(self, owner: str | None) -> int:
        if owner is None:
            return len(self._times(None))
        return self._episode.views[owner].info.num_frames


def pick(times: np.ndarray, how: Selection) -> np.ndarray:
    """Return the indices (T,) of the frames with start <= seconds < end, thinned out.

    Raises SourceError when nothing is left or ``fps`` is beyond the recorded rate.
    """
    start, end = how.start_seconds, how.end_seconds
    inside = np.ones(len(times), bool)
    if start is not None:
        inside &= times >= start
    if end is not None:
        inside &= times < end
    indices = np.flatnonzero(inside)
    if len(indices) == 0:
        raise SourceError(
            f"no frame lies in the seconds from {start} to {end}; the clock goes from "
            f"{times[0]:.3f} to {times[-1]:.3f}"
        )
    if how.fps is not None:
        indices = _thin(times, indices, how.fps)
    return indices[:: how.frame_step][: how.max_frames]


def _thin(times: np.ndarray, indices: np.ndarray, fps: float) -> np.ndarray:
    first, last = times[indices[0]], times[indices[-1]]
    wanted = first + np.arange(int((last - first) * fps + 1e-6) + 1) / fps
    kept = indices[nearest(times[indices], wanted)]
    if len(np.unique(kept)) != len(kept):
        rate = (len(indices) - 1) / (last - first)
        raise SourceError(
            f"fps {fps:g} would repeat frames: they come at about {rate:.3g} per second, not "
            f"evenly everywhere; ask for fewer"
        )
    return kept


def nearest(have: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the index into ascending ``have`` (N,) nearest to each of ``wanted`` (T,)."""
    right = np.searchsorted(have, wanted).clip(1, max(1, len(have) - 1))
    left = right - 1
    right = np.minimum(right, len(have) - 1)
    return np.where(wanted - have[left] <= have[right] - wanted, left, right)


def align(
    have: np.ndarray, clock: np.ndarray, picks: np.ndarray, how: Selection, name: str
) -> tuple[np.ndarray, str | None]:
    """Find a view's frame for every picked tick of a reference clock; errors call it ``name``.

    ``have`` (N,) and ``clock`` (M,) are seconds, ``picks`` (T,) indices into the clock.
    The tolerance is half a tick if ``how`` sets none.  Returns the indices (T,) of the nearest
    frames, and a note when they are not one to one.  Raises SourceError when a tick has no frame
    within the tolerance, or frames before the first or after the last tick would be cut unasked.
    """
    if (np.diff(have) < 0).any():
        raise SourceError(f"{name}: its frames are not in the order of their times")
    tolerance, tick = how.tolerance_seconds, period(clock)
    allowed = (tick / 2 if tolerance is None else tolerance) * 1.001 + 1e-6
    # A faster view has frames between the last tick and the one that would follow.
    spare = max(allowed, tick - period(have) / 2)
    # What was asked to be cut may be cut.
    early = have[0] < clock[0] - spare and how.start_seconds is None
    late = have[-1] > clock[-1] + spare and how.end_seconds is None and how.max_frames is None
    if early or late:
        raise SourceError(
            f"{name} goes from {have[0]:.3f} to {have[-1]:.3f} s, the reference clock from "
            f"{clock[0]:.3f} to {clock[-1]:.3f} s; choose another reference_view, or set "
            f"tolerance_seconds, start_seconds or end_seconds"
        )
    indices = nearest(have, clock[picks])
    apart = np.abs(have[indices] - clock[picks])
    worst = int(np.argmax(apart))
    if apart[worst] > allowed:
        raise SourceError(
            f"{name} has no frame within {allowed:.4f} s of {clock[picks[worst]]:.3f} s on "
            f"the reference clock, the nearest is {apart[worst]:.4f} s away; it has {len(have)} "
            f"frames up to {have[-1]:.3f} s, the clock {len(clock)} up to {clock[-1]:.3f} s; set "
            f"tolerance_seconds or end_seconds"
        )
    if np.array_equal(indices, picks) and len(have) == len(clock):
        return indices, None
    repeated = len(indices) - len(np.unique(indices))
    return indices, (
        f"aligned to the reference clock: {len(indices)} of {len(have)} frames, {repeated} "
        f"repeated, at most {apart.max():.4f} s apart"
    )
