"""One reference clock for the views of an episode: frames are picked by time, and aligned to it."""

from collections.abc import Mapping

import numpy as np

from builder.core.errors import SourceError
from builder.inputs.streams import FrameStream, period
from builder.sources.base import Episode
from builder.sources.clips import Clip
from builder.sources.selection import Selection
from builder.sources.side_data import SideData

ALIGNED = "aligned to the reference clock"
"""How the note of a view begins whose frames are not those of the clock, one to one."""


class Ticks:
    """The reference clock of one episode and the ticks picked from it.

    ``None`` as the name of a view stands for the episode's own clock.  The clock is left out,
    and no times are looked up, when one view is the clock and frames are picked by number.
    ``owned`` is how many rows an array has, ``opened`` names the views that were looked at.
    """

    def __init__(
        self,
        episode: Episode,
        how: Selection,
        views: Mapping[str, FrameStream],
        side: SideData,
        clip: Clip | None = None,
    ) -> None:
        self._episode, self._how, self._views = episode, how, dict(views)
        self._own = None if episode.clock is not None else self._owner(side)
        self.reference = how.reference_view or self._own
        if self.reference is not None and self.reference not in self._views:
            if self.reference not in episode.views:
                raise SourceError(
                    f"there is no reference_view {self.reference!r}; the episode has "
                    f"{list(episode.views)}"
                )
            self._views[self.reference] = episode.views[self.reference]
        timed = how.fps or how.start_seconds is not None or how.end_seconds is not None
        owners = {*views, self._own} if side.lengths else {*views}
        alone = owners == {self.reference}
        self.clock = None if alone and not timed else self._times(self.reference)
        count = self._count(self.reference)
        times = np.arange(count, dtype=np.float64) if self.clock is None else self.clock
        self.picks = pick(times, how)
        if clip is not None:
            if len(self.picks) != clip.length:
                raise SourceError(
                    f"it has {len(self.picks)} frames, and had {clip.length} when it was cut into "
                    "clips; build again"
                )
            self.picks = self.picks[clip.first : clip.last]
        self.opened = tuple(self._views)
        self.owned = self._count(self._own)

    def indices(self, owner: str | None, label: str) -> tuple[np.ndarray, str | None]:
        """Return the frames of a view for the picked ticks, and a note if not one to one."""
        if owner == self.reference or self.clock is None:
            return self.picks, None
        return align(self._times(owner), self.clock, self.picks, self._how, label)

    def rows(self) -> np.ndarray:
        """Return the rows of arrays for the picked ticks."""
        picks, _ = self.indices(self._own, "what the arrays belong to")
        return picks

    def _owner(self, side: SideData) -> str:
        """Name the view whose frames rows of arrays belong to: the first of the episode.

        One that was not chosen is opened only for arrays that do not fit one that was.
        """
        first, chosen = next(iter(self._episode.views)), next(iter(self._views))
        fits = not side.lengths or self._views[chosen].info.num_frames in side.lengths
        if first in self._views or fits:
            return first if first in self._views else chosen
        try:
            self._views[first] = self._episode.views[first]
        except SourceError:
            return chosen
        return first

    def _times(self, owner: str | None) -> np.ndarray:
        if owner is not None:
            return self._views[owner].times()
        return np.asarray(self._episode.clock, np.float64)

    def _count(self, owner: str | None) -> int:
        if owner is None:
            return len(self._times(None))
        return self._views[owner].info.num_frames


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
        f"{ALIGNED}: {len(indices)} of {len(have)} frames, {repeated} "
        f"repeated, at most {apart.max():.4f} s apart"
    )
