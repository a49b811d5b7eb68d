"""Which episodes, views and frames of a source are used: one place for all sources.

``Selected`` wraps any source, by the settings that every source has.  Sources list and open whole
episodes and know nothing of it.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np

from builder.core.errors import AbsentError, DepthError, SourceError
from builder.core.registry import require_base
from builder.inputs.foreign import foreign
from builder.inputs.listing import matches
from builder.inputs.streams import BY_HAND, FrameStream, PickedStream
from builder.sources.base import Episode, EpisodeRef, Source
from builder.sources.clips import Clip, Uncut, clip_of, clip_refs, may_be_clip_of, whole_of
from builder.sources.clock import Ticks
from builder.sources.scenes import scene_starts
from builder.sources.selection import Selection
from builder.sources.side_data import SideData, fitting_maps, one_or_several
from schemas.base import canonical_json
from schemas.dataset import Fingerprint
from schemas.geometry import oriented_shape

_UNLISTED = "its episodes cannot be listed"
_RANGE = re.compile(r"(\d+)|(\d*):(\d*)", re.ASCII)


class Selected(Source):
    """A source with the selected episodes, views and frames of another source."""

    def __init__(
        self,
        source: Source,
        how: Selection,
        make: Callable[[Selection], Source] | None = None,
        steps: int = 1,
    ) -> None:
        """Select from ``source``; ``make`` makes it anew with the settings of one episode.

        Clips overlap so that windows of ``steps`` are whole.
        """
        self.source, self.how, self._make, self._steps = source, how, make, steps
        self._turned: dict[str, Source] = {}

    def refs(self) -> Iterator[EpisodeRef]:
        """List the selected episodes in the source's order.

        Raises SourceError when an episode asked for by name is not there, when a number is
        the position of one and the path of another, or none is left.
        """
        spans = {name: _range_of(name) for name in self.how.episodes}
        missing = {name for name, span in spans.items() if span is None}
        ranges = [span for span in spans.values() if span] if spans else [(0, math.inf)]
        numbers = {item for item in self.how.episodes if str(item).isdecimal()}
        empty, turned = True, {glob: set[str]() for glob in self.how.turned_paths}
        globbed = (
            ref
            for ref in self._all_refs()
            if (not self.how.include or matches(ref.path, self.how.include))
            and not matches(ref.path, self.how.exclude)
        )
        for position, ref in enumerate(globbed):
            for glob, fitting in turned.items():
                if matches(ref.path, (glob,)):
                    fitting.add("itself" if ref.path == glob else ref.path)
            if turned:
                self.how.for_path(ref.path)  # it tells of globs that contradict one another
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
                yield from self._clips(ref)
            elif clips := self._named_clips(ref, missing):
                empty = False
                for clip in clips:
                    missing -= {clip.id, clip.path}
                    yield clip
        if missing:
            raise SourceError(
                f"there is no episode {sorted(map(str, missing))}; `letterset inspect` lists ids "
                f"and paths"
            )
        if unused := sorted(glob for glob, fitting in turned.items() if not fitting):
            raise SourceError(
                f"orientation names {unused}, which no episode's path fits; `letterset inspect` "
                "lists paths, relative to the source"
            )
        for glob, fitting in turned.items():
            if others := sorted(fitting - {"itself"}) if "itself" in fitting else []:
                raise SourceError(
                    f"orientation names {glob!r}, which is a path and, as a glob, fits "
                    f"{others[0]!r} as well; write [[] for a bracket, [?] and [*] for these signs"
                )
        if empty:
            raise SourceError(
                "no episode is left by the source's include, exclude and episodes settings"
            )

    def _all_refs(self) -> Iterator[EpisodeRef]:
        refs = iter(self.source.refs())
        while True:
            with foreign(getattr(self.source, "path", "the source"), what=_UNLISTED):
                ref = next(refs, None)
            if ref is None:
                return
            yield ref

    def _clips(self, ref: EpisodeRef) -> Iterator[EpisodeRef]:
        """Yield the refs of an episode's clips; the episode itself where none are wanted."""
        if self.how.clip is None:
            yield ref
            return
        try:
            with foreign(ref.path), self.open(ref) as episode:
                times, how = times_of(episode), self.how.clip
                scenes = scene_starts(episode, ref.path, how.scenes) if how.scenes else None
        except SourceError as error:
            yield replace(ref, locator=Uncut(ref, error))
        else:
            yield from clip_refs(ref, how, times, self._steps, scenes)

    def _named_clips(self, ref: EpisodeRef, names: set[str | int]) -> list[EpisodeRef]:
        """Return the clips of an episode that are named; it is opened only if any may be."""
        if self.how.clip is None or not any(map(may_be_clip_of(ref), names)):
            return []
        return [clip for clip in self._clips(ref) if names & {clip.id, clip.path}]

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one episode with the selected views and frames, all of one length."""
        if isinstance(ref.locator, Uncut):
            raise ref.locator.error
        whole, clip = whole_of(ref), clip_of(ref)
        how = self.how.for_path(whole.path)
        with ExitStack() as stack:
            # Not around the yield: what a reader of the episode raises is not the source's.
            with foreign(ref.path):
                opened = stack.enter_context(self._source_of(how).open(whole))
                episode = select(opened, how, clip)
            yield episode

    def _source_of(self, how: Selection) -> Source:
        """Return the source with the settings of one episode: some videos need to know them."""
        if how is self.how or self._make is None:
            return self.source
        key = canonical_json(how.model_dump(mode="json")["orientation"])
        if key not in self._turned:
            self._turned[key] = self._make(how)
        return self._turned[key]

    def left_out(self) -> Mapping[str, int]:
        """Count the files that are not read, whatever is selected of the others."""
        return self.source.left_out()

    def fetch_ahead(self, ref: EpisodeRef) -> None:
        """Begin to fetch what opening an episode, or a clip of it, needs."""
        self.source.fetch_ahead(whole_of(ref))

    def clear(self) -> None:
        """Delete what was fetched and is not in use."""
        self.source.clear()

    def weight(self, ref: EpisodeRef) -> float:
        """Return how much work an episode is, whatever is selected of it; of a clip, its frames."""
        if self.how.clip is None:
            return self.source.weight(ref)
        clip = clip_of(ref)
        return float(clip.last - clip.first) if clip else 0.0


def _range_of(item: str | int) -> tuple[float, float] | None:
    match = _RANGE.fullmatch(str(item))
    if match is None:
        return None
    single, first, last = match.groups()
    if single:
        return int(single), int(single) + 1
    return int(first or 0), float(last or "inf")


def times_of(episode: Episode) -> np.ndarray:
    """Return the seconds (T,) of the frames of a selected episode, on its reference clock."""
    return next(iter(episode.views.values())).times() if episode.clock is None else episode.clock


def select(episode: Episode, how: Selection, clip: Clip | None = None) -> Episode:
    """Return the episode with chosen views, upright, on one clock, and chosen frames.

    Of those, a ``clip`` has its own.
    In the result every view and every array in ``arrays`` has one length, and ``notes`` tell
    what was left out.  Nothing that was not chosen is opened.  Raises SourceError for views and
    arrays that were asked for and are missing or do not fit.
    """
    views, lacking, notes = _choose(episode, how)
    for name, stream in views.items():
        require_base(type(stream), FrameStream, f"the stream of view {name}")
    side = SideData(episode, how.arrays)
    ticks = Ticks(episode, how, views, side, clip)
    arrays, constants = side.fitting(ticks.owned)
    rows = ticks.rows() if arrays or episode.text_index is not None else ticks.picks
    arrays = {name: array[rows] for name, array in arrays.items()}
    text, texts = episode.text, episode.texts
    if episode.text_index is not None:
        text, texts, arrays = one_or_several(texts, episode.text_index[rows], arrays)
    streams: dict[str, FrameStream] = {}
    maps: dict[str, dict[str, FrameStream]] = {}
    for name, stream in views.items():
        indices, note = ticks.indices(name, f"view {name}")
        streams[name] = _taken(_turned(stream, name, how), indices, note, how)
        if clip and stream.decoded_whole:
            notes.append(
                f"view {name}: {stream.decoded_whole}, so each clip is decoded from the start of "
                "the file"
            )
        found, left = fitting_maps(name, stream.info, episode.maps.get(name, {}))
        notes += left
        for key, each in found.items():
            require_base(type(each), FrameStream, f"the map {key} of view {name}")
            maps.setdefault(name, {})[key] = _taken(_turned(each, name, how), indices, None, how)
    return replace(
        episode,
        views=streams,
        maps=maps,
        arrays=arrays,
        constants=constants,
        text=text,
        texts=texts,
        text_index=None,
        files={**episode.files, **_files_of(episode, {*views, *ticks.opened})},
        view_files={},
        missing_views=tuple(lacking) if how.missing_views == "mask" else (),
        clock=None if ticks.clock is None else ticks.clock[ticks.picks],
        licence=episode.licence or how.licence,
        notes=(*episode.notes, *notes, *side.notes),
    )


def _choose(
    episode: Episode, how: Selection
) -> tuple[dict[str, FrameStream], list[str], list[str]]:
    """Open the chosen views; also return those that are missing, and what is to be told."""
    there = list(episode.views)
    lacking = [name for name in how.views if name not in there]
    if lacking and how.missing_views == "error":
        raise SourceError(
            f"the views {lacking} are missing, the episode has {there}; missing_views: skip "
            f"builds it without them, mask records that they are missing"
            + "".join(f"; {note}" for note in episode.notes)
        )
    turned = {*how.orientation} if isinstance(how.orientation, dict) else set()
    if odd := sorted(turned - {*how.views} - {*there}):
        raise SourceError(
            f"orientation names {odd}, the episode has the views {there}; where they may be "
            f"missing, list them in views and set missing_views; a path is named by a glob, such "
            f"as {odd[0]}*"
        )
    chosen: dict[str, FrameStream] = {}
    notes = []
    for name in [name for name in how.views or there if name in there]:
        try:
            chosen[name] = episode.views[name]
        except AbsentError as error:
            if how.missing_views == "error":
                raise AbsentError(
                    f"{error} (view {name}); missing_views: skip builds the episode without it, "
                    f"and views names those to use"
                ) from None
            lacking.append(name)
            notes.append(f"view {name} is missing: {error.reason}")
        except DepthError as error:
            if name in how.views:
                raise
            notes.append(f"view {name} is left out: {error.reason}")
    if not chosen:
        why = "".join(f"; {note}" for note in notes)
        raise SourceError(f"none of the views {list(how.views) or there}: it has {there}{why}")
    return chosen, lacking, notes


def _files_of(episode: Episode, views: set[str]) -> dict[str, Fingerprint]:
    found = (episode.view_files[view] for view in episode.view_files if view in views)
    return {path: mark for each in found for path, mark in each.items()}


def _turned(stream: FrameStream, name: str, how: Selection) -> FrameStream:
    chosen, info = how.turned_by_hand(name), stream.info
    if chosen is None or chosen == info.orientation:
        return stream
    aspect = info.sample_aspect_ratio
    square = (1, 2)
    if oriented_shape(chosen, square) != oriented_shape(info.orientation, square):
        aspect = aspect[::-1]
    everything = np.arange(info.num_frames)
    return PickedStream(
        stream,
        everything,
        orientation=chosen,
        orientation_from=BY_HAND,
        sample_aspect_ratio=aspect,
    )


def _taken(
    stream: FrameStream, indices: np.ndarray, note: str | None, how: Selection
) -> FrameStream:
    info = stream.info
    if np.array_equal(indices, np.arange(info.num_frames)):
        return stream
    every = how.fps or info.fps
    rate = every / how.frame_step if every else None
    return PickedStream(stream, indices, fps=rate, notes=(*info.notes, *([note] if note else [])))
