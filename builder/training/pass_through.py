"""Pass-through arrays of a sample: actions, states, text embeddings, whatever layers add."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from builder.core.errors import ConfigError
from builder.core.messages import near
from builder.dataset.episodes import EpisodeData
from builder.dataset.layers import TRACK_ARRAYS, Overlay
from builder.training.window_options import WindowOptions
from schemas.dataset import TEXT_INDEX


class _Stored(NamedTuple):
    """An array as stored, and whether it has a row per frame."""

    array: Any
    per_frame: bool

    def cut(self, start: int, steps: int) -> np.ndarray:
        """Return (steps, ...) of a window, zeros after the last frame; all when not per frame."""
        if not self.per_frame:
            return np.array(self.array)
        out = np.zeros((steps, *self.array.shape[1:]), self.array.dtype)
        rows = self.array[start : start + steps]
        out[: len(rows)] = rows
        return out

    def key(self, start: int, steps: int) -> Any:
        """Return the key of what ``cut`` reads."""
        return slice(start, start + steps) if self.per_frame else ...


class PassThrough:
    """The arrays that samples of one episode hold besides tracks and frames.

    By default those of the episode as a whole, and those that layers add to its views.
    """

    def __init__(
        self, episode: EpisodeData, views: Collection[str], options: WindowOptions, moved: bool
    ) -> None:
        """Find the arrays in the episode and in its stored ``views``, in the model's order.

        Raises ConfigError for an array of ``proprioception`` that is not there or has no row per
        frame; for one that no view has; and for pictures when those of the sample are ``moved``
        from their stored canvas, which these would not follow.
        """
        check_proprioception(episode, options)
        names = options.arrays
        if names is None:
            own = (name for name in episode.arrays if name != TEXT_INDEX)
            names = (*own, *_added_to_views(episode))
        self._id, self._views = episode.id, views
        self._of_episode = {
            name: _Stored(episode.arrays[name], episode.meta.per_frame(name))
            for name in names
            if name in episode.arrays
        }
        self._of_views = {
            name: _in_views(episode, views, name, moved)
            for name in names
            if name not in episode.arrays
        }
        self._proprioception = [episode.arrays[name] for name in options.proprioception]

    def window(self, start: int, steps: int) -> dict[str, np.ndarray]:
        """Return the arrays of a window: (steps, ...) of those with a row per frame, others whole.

        Of views (V, steps, ...) or (V, ...), zeros where a view has no such array;
        ``proprioception`` (D,) float32 joins rows at ``start``.
        """
        found = {name: stored.cut(start, steps) for name, stored in self._of_episode.items()}
        if self._proprioception:
            rows = [np.ravel(array[start]) for array in self._proprioception]
            found["proprioception"] = np.concatenate(rows).astype(np.float32)
        for name, stored in self._of_views.items():
            found[name] = self._stack(
                name, {at: one.cut(start, steps) for at, one in stored.items()}
            )
        return found

    def pieces(self, start: int, steps: int) -> Iterator[tuple[Any, Any]]:
        """Yield (array, key) of what ``window`` reads."""
        of_views = (one for stored in self._of_views.values() for one in stored.values())
        for stored in chain(self._of_episode.values(), of_views):
            yield stored.array, stored.key(start, steps)
        for array in self._proprioception:
            yield array, start

    def _stack(self, name: str, rows: Mapping[int, np.ndarray]) -> np.ndarray:
        shapes = {row.shape for row in rows.values()}
        if len(shapes) > 1:
            raise ConfigError(
                f"{self._id}: {name} has shapes {sorted(shapes)} in different views, which do "
                "not stack: choose one view, or leave it out with arrays=(...)"
            )
        first = next(iter(rows.values()))
        stacked = np.zeros((len(self._views), *first.shape), first.dtype)
        for at, row in rows.items():
            stacked[at] = row
        return stacked


def check_proprioception(episode: EpisodeData, options: WindowOptions) -> None:
    """Raise ConfigError when an array of ``proprioception`` is missing or not per frame."""
    for name in options.proprioception:
        if name not in episode.arrays or not episode.meta.per_frame(name):
            there = sorted(each for each in episode.arrays if episode.meta.per_frame(each))
            raise ConfigError(
                f"{episode.id}: no array {name!r} with a row per frame to make proprioception of; "
                f"there are {there}"
            )


def check_names(episode: EpisodeData, views: Iterable[str], options: WindowOptions) -> None:
    """Raise ConfigError for chosen arrays that neither an episode nor these of its views have."""
    there = {*episode.arrays}
    for view in views:
        there |= {*episode.views[view].meta.arrays} if view in episode.views else set()
    for name in options.arrays or ():
        if name not in there:
            known = sorted(there - {"frames_offsets"})
            raise ConfigError(
                f"{episode.id}: no array {name!r} in it or in its views{near(name, known)}; there "
                f"are {known}"
            )
    check_proprioception(episode, options)


def _added_to_views(episode: EpisodeData) -> list[str]:
    """List the arrays that layers add to views, in order; tracks come as the sample's own."""
    if not isinstance(episode.reader, Overlay):
        return []
    added = (name for view, name in episode.reader.added if view is not None)
    return [name for name in dict.fromkeys(added) if name not in TRACK_ARRAYS]


def _in_views(
    episode: EpisodeData, views: Collection[str], name: str, moved: bool
) -> dict[int, _Stored]:
    """Find an array in the views that have it, by their place in the sample."""
    found = {}
    for at, view in enumerate(views):
        if view not in episode.views or name not in episode.views[view].meta.arrays:
            continue
        data = episode.views[view]
        meta = data.meta.arrays[name]
        if moved and meta.shape[1:3] == data.geometry.img_shape:
            raise ConfigError(
                f"{episode.id}: {name} of {view} holds pictures on the stored canvas, which would "
                "not follow another img_shape or an augmentation: leave it out with arrays=(...)"
            )
        found[at] = _Stored(data.array(name), meta.has_row_per_frame(episode.meta.length))
    if not found:
        raise ConfigError(
            f"{episode.id}: no array {name!r} in it or in its views {[*views]}: leave it out with "
            "arrays=(...), or leave out such episodes with a split"
        )
    return found
