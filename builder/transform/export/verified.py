"""Which episodes an export may take: those whose bytes are what their digests say.

In another form nothing tells any more that they were damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import TypeVar

from builder.core.errors import DatasetError, NewerFormatError, SourceError
from builder.core.messages import count
from builder.dataset.array_checks import check_digest, check_digests
from builder.dataset.episodes import Dataset, EpisodeData
from builder.dataset.index import EpisodeIndex
from builder.stores.base import arrays_by_view

P = TypeVar("P")
Damage = Callable[[EpisodeData], Iterable[str]]


def every_array(episode: EpisodeData) -> list[str]:
    """Say what is damaged of an episode, layers included."""
    return [*episode.reader.problems(), *check_digests(episode.reader)]


def arrays(*names: str, of_views: Sequence[str] = ()) -> Damage:
    """Return a function that says which of these arrays are damaged.

    ``names`` are those of the episode itself, ``of_views`` those of each view.
    """

    def damage(episode: EpisodeData) -> list[str]:
        return [
            f"{name if view is None else f'{view}/{name}'}: {text}"
            for view, there in arrays_by_view(episode.meta).items()
            for name in (names if view is None else of_views)
            if name in there
            for text in check_digest(episode.reader, view, name, there[name])
        ]

    return damage


def verified(
    dataset: Dataset,
    plan: Callable[[Dataset], P],
    failures: dict[str, str] | None,
    damage: Damage = every_array,
) -> tuple[Dataset, P]:
    """Return the dataset without its damaged episodes, and what ``plan`` makes of it.

    Damaged episodes are added to ``failures``, with the reason.  ``plan`` raises what cannot be
    exported at all before any array is read, and is made anew when one turns out to be damaged.
    Older files have no digests.

    Raises DatasetError for a damaged episode where ``failures`` is None, and SourceError when
    none is left.
    """
    opened = _without(dataset, failures, lambda episode: ())
    planned = plan(opened)
    sound = _without(opened, failures, damage)
    return sound, planned if sound is opened else plan(sound)


def _without(dataset: Dataset, failures: dict[str, str] | None, damage: Damage) -> Dataset:
    """Leave out the episodes that cannot be opened or are damaged."""
    found: dict[str, str] = {}
    for episode_id in dataset.ids:
        try:
            episode = dataset[episode_id]
            if texts := list(damage(episode)) if episode.sealed else []:
                found[episode_id] = f"{episode.reader.path} is damaged: {'; '.join(texts)}"
        except (DatasetError, NewerFormatError) as error:
            found[episode_id] = str(error)
    if not found:
        return dataset
    if failures is None:
        key, reason = next(iter(found.items()))
        raise DatasetError(
            f"{count(len(found), 'episode')} of {dataset.path} cannot be exported, the first is "
            f"{key}: {reason}; give failures={{}} to list them there and export the others"
        )
    failures |= found
    if len(found) == len(dataset):
        raise SourceError(f"{dataset.path}: no episode is left to export; run letterset repair")
    rest = copy(dataset)
    rest.index = EpisodeIndex.of(line for key, line in dataset.index.items() if key not in found)
    rest.ids = rest.index.ids
    return rest
