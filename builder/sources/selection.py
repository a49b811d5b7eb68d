"""Which episodes, views and frames of a source are used: one place for all sources.

``Selected`` wraps any source, by the settings that every source has.  Sources list and open whole
episodes and know nothing of it.  Frames are picked by time, and views put on one reference clock.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.registry import require_base
from builder.inputs.listing import matches
from builder.inputs.streams import FrameStream, PickedStream, period
from builder.sources.base import Episode, EpisodeRef, Source
from schemas.base import Record, Side
from schemas.geometry import Orientation, oriented_shape

Seconds = Annotated[float, Field(ge=0)]
_RANGE = re.compile(r"(\d+)|(\d*):(\d*)", re.ASCII)


class Selection(Record):
    """Settings that every source has; the ``Config`` of a source extends this model.

    Globs match an episode's path relative to the source, slashes included (``*`` crosses them).
    """

    include: tuple[str, ...] = Field(
        default=(), strict=False, description="globs of paths to build"
    )
    exclude: tuple[str, ...] = Field(
        default=(), strict=False, description="globs of paths to leave out"
    )
    episodes: tuple[str | int, ...] = Field(
        default=(), strict=False, description="ids, paths, positions or ranges like 0:50"
    )
    views: tuple[str, ...] = Field(default=(), strict=False, description="default: all")
    missing_views: Literal["error", "skip", "mask"] = Field(
        default="error",
        description="skip: build an episode with those of `views` it has; mask: record also which "
        "it lacks, so that training sets fill them with zeros and a mask",
    )
    orientation: Orientation | dict[str, Orientation] | None = Field(
        default=None, description="turns frames upright, for all views or by view"
    )
    frame_step: Side = Field(default=1, description="keep every n-th frame")
    fps: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="keep the frames nearest to this rate"
    )
    start_seconds: Seconds | None = Field(default=None, description="on the reference clock")
    end_seconds: Seconds | None = Field(default=None, description="exclusive")
    max_frames: Side | None = Field(default=None, description="kept per episode, from its start")
    reference_view: str | None = Field(
        default=None, description="its frames are the clock; default: the source's, or first view"
    )
    tolerance_seconds: Seconds | None = Field(
        default=None, description="between a tick and a view's frame; default: half a tick"
    )
    licence: str | None = Field(
        default=None, description="of the source's data, when it does not say itself"
    )

    def turned_by_hand(self, view: str) -> Orientation | None:
        """Return the orientation set for a view; None where the source's own is kept.

        Sources pass it on to their videos: some cannot be read without it.
        """
        turn = self.orientation
        return turn.get(view) if isinstance(turn, dict) else turn


class Selected(Source):
    """A source with the selected episodes, views and frames of another source."""

    def __init__(self, source: Source, how: Selection) -> None:
        self.source, self.how = source, how

    def refs(self) -> Iterator[EpisodeRef]:
        """List the selected episodes in the source's order.

        Raises SourceError when an episode asked for by name is not there, when a number is
        the position of one and the path of another, or none is left.
        """
        spans = {name: _range_of(name) for name in self.how.episodes}
        missing = {name for name, span in spans.items() if span is None}
        ranges = [span for span in spans.values() if span] if spans else [(0, math.inf)]
        numbers = {item for item in self.how.episodes if str(item).isdecimal()}
        empty = True
        globbed = (
            ref
            for ref in self.source.refs()
            if (not self.how.include or matches(ref.path, self.how.include))
            and not matches(ref.path, self.how.exclude)
        )
        for position, ref in enumerate(globbed):
            if ref.path in numbers and int(ref.path) != position:
                raise SourceError(
                    f"episodes: {ref.path} is the position of one episode and the path of the one "
                    f"at {position}; give the range {int(ref.path)}:{int(ref.path) + 1} for the "
                    f"first, the id {ref.id} for the second"
                )
            names = missing & {ref.id, ref.path}
            if names or any(first <= position < last for first, last in ranges):
                empty = False
                missing -= names
                yield ref
        if missing:
            raise SourceError(
                f"there is no episode {sorted(map(str, missing))}; `letterset inspect` lists ids "
                f"and paths"
            )
        if empty:
            raise SourceError(
                "no episode is left by the source's include, exclude and episodes settings"
            )

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one episode with the selected views and frames, all of one length."""
        with self.source.open(ref) as episode:
            yield select(episode, self.how)

    def weight(self, ref: EpisodeRef) -> float:
        """Return how much work an episode is, whatever is selected of it."""
        return self.source.weight(ref)

    def files(self, ref: EpisodeRef) -> list[Path] | None:
        """List the files an episode is made of, whatever is selected of it."""
        return self.source.files(ref)


def _range_of(item: str | int) -> tuple[float, float] | None:
    match = _RANGE.fullmatch(str(item))
    if match is None:
        return None
    single, first, last = match.groups()
    if single:
        return int(single), int(single) + 1
    return int(first or 0), float(last or "inf")


def select(episode: Episode, how: Selection) -> Episode:
    """Return the episode with chosen views, upright, on one clock, and chosen frames.

    In the result every view and every array in ``arrays`` has one length.  Raises SourceError
    for views that are missing or do not fit.
    """
    views = _choose(episode, how)
    for name, stream in views.items():
        for each in (stream, *episode.maps.get(name, {}).values()):
            require_base(type(each), FrameStream, f"the stream of view {name}")
    ticks = Ticks(episode, how, list(views))
    streams: dict[str, FrameStream] = {}
    maps: dict[str, dict[str, FrameStream]] = {}
    for name, stream in views.items():
        indices, note = ticks.indices(name, f"view {name}")
        streams[name] = _taken(_turned(stream, name, how), indices, note, how)
        found = episode.maps.get(name, {}).items()
        maps[name] = {
            key: _taken(_turned(each, name, how), indices, None, how) for key, each in found
        }
    lacking = [name for name in how.views if name not in views]
    return replace(
        episode,
        views=streams,
        maps={name: found for name, found in maps.items() if found},
        arrays=ticks.rows(),
        missing_views=tuple(lacking) if how.missing_views == "mask" else (),
        clock=None if ticks.clock is None else ticks.clock[ticks.picks],
        licence=episode.licence or how.licence,
    )


def _choose(episode: Episode, how: Selection) -> dict[str, FrameStream]:
    missing = [name for name in how.views if name not in episode.views]
    if missing and how.missing_views == "error":
        raise SourceError(
            f"the views {missing} are missing, the episode has {list(episode.views)}; "
            f"missing_views: skip builds it without them, mask records that they are missing"
        )
    chosen = {
        name: episode.views[name] for name in how.views or episode.views if name in episode.views
    }
    turned = {*how.orientation} if isinstance(how.orientation, dict) else set()
    if odd := sorted(turned - {*how.views} - {*episode.views}):
        raise SourceError(
            f"orientation names {odd}, the episode has the views {list(episode.views)}; where they "
            f"may be missing, list them in views and set missing_views"
        )
    if not chosen:
        raise SourceError(f"none of the views {list(how.views)}: it has {list(episode.views)}")
    return chosen


def _turned(stream: FrameStream, name: str, how: Selection) -> FrameStream:
    chosen, info = how.turned_by_hand(name), stream.info
    if chosen is None or chosen == info.orientation:
        return stream
    aspect = info.sample_aspect_ratio
    square = (1, 2)
    if oriented_shape(chosen, square) != oriented_shape(info.orientation, square):
        aspect = aspect[::-1]
    everything = np.arange(info.num_frames)
    return PickedStream(stream, everything, orientation=chosen, sample_aspect_ratio=aspect)


def _taken(
    stream: FrameStream, indices: np.ndarray, note: str | None, how: Selection
) -> FrameStream:
    info = stream.info
    if np.array_equal(indices, np.arange(info.num_frames)):
        return stream
    rate = how.fps or (info.fps / how.frame_step if info.fps else None)
    return PickedStream(stream, indices, fps=rate, notes=(*info.notes, *([note] if note else [])))


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
