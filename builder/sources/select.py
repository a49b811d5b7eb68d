"""Which episodes, views and frames of a source are used: one place for all sources.

``Selected`` wraps any source.  Sources list and open whole episodes and know nothing of it.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from builder.core.errors import SourceError
from builder.core.registry import require_base
from builder.inputs.listing import matches
from builder.inputs.streams import FrameStream, PickedStream
from builder.sources.base import Episode, EpisodeRef, Source
from builder.sources.clock import Ticks
from builder.sources.selection import Selection
from schemas.geometry import oriented_shape

_RANGE = re.compile(r"(\d+)|(\d*):(\d*)", re.ASCII)


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
