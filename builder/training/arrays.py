"""Arrays that go with a sample: actions, states, text embeddings, whatever layers add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.core.errors import ConfigError
from builder.core.messages import near
from builder.dataset.episodes import EpisodeData
from builder.dataset.layers import TRACK_ARRAYS, Overlay
from builder.training.options import WindowOptions


@dataclass(frozen=True)
class PassedArrays:
    """What samples of one episode take besides tracks and frames; found once, used many times."""

    root: dict[str, tuple[Any, bool]]
    """Arrays of the episode as a whole, and whether each has a row per frame."""
    others: list[str]
    """Names of arrays of the views."""
    state: list[Any]
    """Arrays whose rows at step 0 make up ``proprioception``."""


def passed_arrays(episode: EpisodeData, options: WindowOptions) -> PassedArrays:
    """Find the arrays that are chosen; by default all of the episode, and what layers add.

    Raises ConfigError when one of ``proprioception`` is not there or has no row per frame.
    """
    chosen = options.arrays
    for name in options.proprioception:
        if name not in episode.arrays or not episode.meta.per_frame(name):
            there = sorted(each for each in episode.arrays if episode.meta.per_frame(each))
            raise ConfigError(
                f"{episode.id}: no array {name!r} with a row per frame to make proprioception of; "
                f"there are {there}"
            )
    names = [*episode.arrays, *added_to_views(episode)] if chosen is None else [*chosen]
    return PassedArrays(
        root={
            name: (episode.arrays[name], episode.meta.per_frame(name))
            for name in names
            if name in episode.arrays
        },
        others=[name for name in names if name not in episode.arrays],
        state=[episode.arrays[name] for name in options.proprioception],
    )


def refuse_unknown(episode: EpisodeData, views: Iterable[str], options: WindowOptions) -> None:
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
    passed_arrays(episode, options)


def root_arrays(passed: PassedArrays, start: int, steps: int) -> dict[str, np.ndarray]:
    """Cut arrays of an episode to a window: (steps, ...) of those per frame, others whole.

    ``proprioception`` (D,) float32 joins rows at ``start``.
    """
    found = {
        name: _cut(array, start, steps) if per_frame else np.array(array)
        for name, (array, per_frame) in passed.root.items()
    }
    if passed.state:
        rows = [np.ravel(array[start]) for array in passed.state]
        found["proprioception"] = np.concatenate(rows).astype(np.float32)
    return found


def added_to_views(episode: EpisodeData) -> list[str]:
    """List the arrays that layers add to views, in order; tracks come as the sample's own."""
    if not isinstance(episode.reader, Overlay):
        return []
    added = (name for view, name in episode.reader.added if view is not None)
    return [name for name in dict.fromkeys(added) if name not in TRACK_ARRAYS]


def view_arrays(
    episode: EpisodeData,
    views: Mapping[str, str],
    names: Iterable[str],
    start: int,
    steps: int,
    moved: bool,
) -> dict[str, np.ndarray]:
    """Cut arrays of views to a window: (V, steps, ...) of those per frame, (V, ...) of others.

    ``views`` maps the model's names to stored ones; zeros stand for a view without the array.
    Raises ConfigError when no view has it, when it differs in shape between views, and for
    pictures when those of the sample are ``moved``, which they would not follow.
    """
    found = {}
    for name in names:
        rows = {
            at: _of_view(episode, view, name, start, steps, moved)
            for at, view in enumerate(views.values())
            if view in episode.views and name in episode.views[view].meta.arrays
        }
        if not rows:
            raise ConfigError(
                f"{episode.id}: no array {name!r} in it or in its views {[*views.values()]}: leave "
                "it out with arrays=(...), or leave out such episodes with a split"
            )
        shapes = {row.shape for row in rows.values()}
        if len(shapes) > 1:
            raise ConfigError(
                f"{episode.id}: {name} has shapes {sorted(shapes)} in different views, which do "
                "not stack: choose one view, or leave it out with arrays=(...)"
            )
        first = next(iter(rows.values()))
        found[name] = np.zeros((len(views), *first.shape), first.dtype)
        for at, row in rows.items():
            found[name][at] = row
    return found


def _of_view(
    episode: EpisodeData, view: str, name: str, start: int, steps: int, moved: bool
) -> np.ndarray:
    data = episode.views[view]
    array, meta = data.array(name), data.meta.arrays[name]
    if moved and meta.shape[1:3] == data.geometry.img_shape:
        raise ConfigError(
            f"{episode.id}: {name} of {view} holds pictures on the stored canvas, which would not "
            "follow another img_shape or an augmentation: leave it out with arrays=(...)"
        )
    if meta.has_row_per_frame(episode.meta.length):
        return _cut(array, start, steps)
    return np.array(array)


def _cut(array: Any, start: int, steps: int) -> np.ndarray:
    """Cut (steps, ...) out of a per-frame array, zeros after its end."""
    out = np.zeros((steps, *array.shape[1:]), array.dtype)
    rows = array[start : start + steps]
    out[: len(rows)] = rows
    return out
