"""Episodes cut into clips, each an episode of its own: where they begin and end, and their refs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import unquote_to_bytes

import numpy as np

from builder.core.errors import SourceError
from builder.core.paths import episode_id, printable_path
from builder.sources.base import EpisodeRef
from builder.sources.selection import Clips


@dataclass(frozen=True)
class Clip:
    """The locator of a clip: frames ``first`` to ``last``, exclusive, of an episode.

    They are counted among those that are selected of ``whole``, which are ``length``.  The last
    ``shared`` of them are the next clip's, too.
    """

    whole: EpisodeRef
    first: int
    last: int
    length: int
    shared: int = 0


@dataclass(frozen=True)
class Uncut:
    """The locator of an episode whose clips cannot be told, and why: opening it raises that."""

    whole: EpisodeRef
    error: SourceError


def clip_of(ref: EpisodeRef) -> Clip | None:
    """Return where a ref's clip lies; None for an episode that is none."""
    return ref.locator if isinstance(ref.locator, Clip) else None


def whole_of(ref: EpisodeRef) -> EpisodeRef:
    """Return the ref of the episode that a clip is cut from, or the ref itself."""
    return ref.locator.whole if isinstance(ref.locator, Clip | Uncut) else ref


def may_be_clip_of(ref: EpisodeRef) -> Callable[[str | int], bool]:
    """Return what tells whether an id or a path may be that of a clip of an episode."""
    folders = {_at(ref, 0)[0].rpartition("/")[0], ref.path}
    return lambda name: str(name).rpartition("/")[0] in folders


def _at(ref: EpisodeRef, number: int) -> tuple[str, str]:
    """Return the id and the path of a clip."""
    path = unquote_to_bytes(ref.path) + f"/clip-{number:04d}".encode()
    return episode_id(path), printable_path(path)


def part_of(ref: EpisodeRef, first: int, last: int, length: int) -> EpisodeRef:
    """Return the ref of frames ``first`` to ``last`` of an episode, or a clip, of ``length``."""
    episode, path = _at(ref, first)
    if clip := clip_of(ref):
        part = replace(clip, first=clip.first + first, last=clip.first + last, shared=0)
    else:
        part = Clip(ref, first, last, length)
    return replace(ref, id=episode, path=path, locator=part)


def clip_refs(
    ref: EpisodeRef,
    how: Clips,
    times: np.ndarray,
    steps: int,
    scenes: np.ndarray | None = None,
) -> Iterator[EpisodeRef]:
    """Return the refs of an episode's clips, in order.

    ``times`` (T,) are the seconds of the frames that are selected of it; a window has ``steps``.
    ``scenes`` (C,) are the first frames of its shots: clips are cut within them, and counted.
    """
    length, count = len(times), 0
    overlap = steps - 1 if how.overlap == "windows" else how.overlap
    begins = [0] if scenes is None else scenes.tolist()
    for begin, end in zip(begins, [*begins[1:], length], strict=True):
        numbers, firsts = _seams(times[begin:end], how)
        firsts = [begin + first for first in firsts]
        last = begin
        for number, first, seam in zip(numbers, firsts, [*firsts[1:], end], strict=True):
            if last == end:
                break  # the clip before has all that is left
            last = min(end, seam + overlap)
            clip = Clip(ref, first, last, length, last - seam)
            episode, path = _at(ref, number if scenes is None else count)
            count += 1
            yield replace(ref, id=episode, path=path, locator=clip)


def _seams(times: np.ndarray, how: Clips) -> tuple[list[int], list[int]]:
    """Return the numbers of clips and the frames they begin with.

    By seconds, a clip's number is that of its time: where no frame is shown there is no clip.
    """
    if how.seconds is None:
        firsts = list(range(0, len(times), how.frames or len(times)))
        return list(range(len(firsts))), firsts
    if (np.diff(times) < 0).any():
        raise SourceError("its frames are not in the order of their times, by which clips are cut")
    # Times are sums of what is no round binary number.
    periods = np.floor((times - times[0]) / how.seconds + 1e-6).astype(np.int64)
    found, first = np.unique(periods, return_index=True)
    return found.tolist(), first.tolist()
