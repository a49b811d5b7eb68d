"""Which arrays and maps of an episode are kept: what does not fit is left out and told.

Pictures are never lost to an odd column beside them, unless that column was asked for.  What is
damaged is no odd column: it is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from builder.core.errors import DecodeError, SourceError
from schemas.dataset import TEXT_INDEX

if TYPE_CHECKING:
    from builder.inputs.streams import FrameStream, StreamInfo
    from builder.sources.base import Episode


class SideData:
    """The arrays and constants of an episode, read when they are first needed.

    ``asked`` are the names of those to keep, as stored or as the source has them; all the others
    are not read.  ``notes`` tell what was left out.  Raises SourceError for an array that was
    asked for and is not there or cannot be read, DecodeError for any that is damaged.
    """

    def __init__(self, episode: Episode, asked: tuple[str, ...] | None) -> None:
        self._episode, self._asked = episode, asked
        self.notes: list[str] = []

    @cached_property
    def _read(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        arrays, constants = self._episode.arrays, self._episode.constants
        names = [*arrays, *constants] if self._asked is None else self._stored(self._asked)
        kept: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
        for name in names:
            try:
                value = arrays[name] if name in arrays else constants[name]
                if value.dtype.char == "g" and value.dtype.itemsize > 8:  # a long double
                    kind = f"its type {value.dtype} differs between machines"
                    raise SourceError(f"{kind}; save it as float64")
            except DecodeError:
                raise
            except SourceError as error:
                if self._asked is not None:
                    raise
                self.notes.append(f"array {name} is left out: {error.reason}")
            else:
                # A number has no time axis.
                kept[name not in arrays or value.ndim == 0][name] = value
        return kept

    def _stored(self, asked: tuple[str, ...]) -> list[str]:
        there = [*self._episode.arrays, *self._episode.constants]
        names = {name: self._episode.array_names.get(name, name) for name in asked}
        if missing := [name for name, stored in names.items() if stored not in there]:
            raise SourceError(f"there are no arrays {missing} among {there} (source.arrays)")
        return list(dict.fromkeys(names.values()))

    @property
    def lengths(self) -> set[int]:
        """Numbers of rows of the arrays."""
        return {len(array) for array in self._read[0].values()}

    def fitting(self, count: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the arrays of ``count`` rows, and the constants."""
        arrays, constants = self._read
        odd = {name: array for name, array in arrays.items() if len(array) != count}
        said = [
            f"has shape {array.shape}, but the episode has {count} frames" for array in odd.values()
        ]
        for name, why in zip(odd, said, strict=True):
            if self._asked is not None:
                raise SourceError(f"the array {name} {why}")
            self.notes.append(f"array {name} is left out: it {why}")
        return {name: array for name, array in arrays.items() if name not in odd}, constants


def one_or_several(
    texts: tuple[str, ...], index: np.ndarray, arrays: dict[str, np.ndarray]
) -> tuple[str | None, tuple[str, ...], dict[str, np.ndarray]]:
    """Return the text of all frames, or several, and the arrays with which of them is whose.

    ``index`` (T,) says which of ``texts`` is that of a frame.
    """
    used, first, place = np.unique(index, return_index=True, return_inverse=True)
    order = np.argsort(first)
    found = tuple(texts[used[at]] for at in order)
    if len(found) == 1:
        return found[0], (), arrays
    if TEXT_INDEX in arrays:
        raise SourceError(f"an array is called {TEXT_INDEX}, a name of our own (source.arrays)")
    return None, found, {**arrays, TEXT_INDEX: np.argsort(order)[place].astype("<i8")}


def fitting_maps(
    view: str, info: StreamInfo, maps: Mapping[str, FrameStream]
) -> tuple[dict[str, FrameStream], list[str]]:
    """Return the maps that have a frame of its shape for each frame of a view, and notes."""
    kept: dict[str, FrameStream] = {}
    notes = []
    for name in maps:
        try:
            found = maps[name].info
            got, wanted = (found.num_frames, found.coded_shape), (info.num_frames, info.coded_shape)
            if got != wanted:
                raise SourceError(f"(T, (H, W)) = {got}, the view has {wanted}")
            kept[name] = maps[name]
        except DecodeError:
            raise
        except SourceError as error:
            notes.append(f"map {name} of view {view} is left out: {error.reason}")
    return kept, notes
