"""Which episodes and views of a dataset a training set reads."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from builder.core.errors import ConfigError, DatasetError
from builder.core.messages import no_episodes
from builder.dataset.array_checks import check_digests
from builder.dataset.episodes import Dataset, EpisodeData
from builder.dataset.splits import split_ids
from builder.training.pass_through import check_names
from builder.training.window_options import WindowOptions

_TRIED = 16
"""Episodes that are tried to open, until one is sound enough to look into."""


def default_views(dataset: Dataset, masked: bool) -> tuple[str, ...]:
    """Return the views all episodes have, in their order; raises DatasetError without episodes.

    ``masked`` takes all views instead: those the build was asked for, and those any episode has.
    """
    if not len(dataset):
        raise DatasetError(no_episodes(dataset.path))
    _, first = np.unique(dataset.index.view_set, return_index=True)
    found = [dataset.index.view_sets[dataset.index.view_set[at]] for at in sorted(first)]
    if masked:
        source: Any = dataset.meta.config.get("source") or {}
        there = (name for names in found for name in names)
        return tuple(dict.fromkeys([*source.get("views", ()), *there]))
    shared = set(found[0]).intersection(*found)
    return tuple(name for name in found[0] if name in shared)


def choose_ids(dataset: Dataset, views: Sequence[str], options: WindowOptions) -> list[str]:
    """Return the ids of the episodes to read, in the dataset's order.

    Raises ConfigError when some lack a view and that is an error, DatasetError for a split that
    is not there or has no episode.
    """
    wanted, index = {*views}, dataset.index
    ids = list(dataset.ids) if options.split is None else split_ids(dataset, options.split)
    masked = options.missing == "mask"
    takes = [bool(wanted & {*names}) if masked else wanted <= {*names} for names in index.view_sets]
    taken = np.array(takes, bool)[index.view_set[places(dataset, ids)]]
    if taken.all():
        return ids
    if options.missing != "error" and not taken.any():
        raise DatasetError(
            f"{dataset.path}: none of {len(ids)} episodes has views {sorted(wanted)}; there are "
            f"{index.views}"
        )
    if options.missing == "error":
        first = ids[int(np.argmin(taken))]
        raise ConfigError(
            f"{dataset.path}: {np.count_nonzero(~taken)} of {len(ids)} episodes lack a view, the "
            f"first is {first}, which lacks {sorted(wanted - {*index[first].views})}; choose from "
            f"{index.views}, or leave such episodes out with missing='skip', or fill with zeros "
            "with missing='mask'"
        )
    return [ids[at] for at in np.flatnonzero(taken)]


def check_arrays(
    dataset: Dataset, ids: Iterable[str], views: Iterable[str], options: WindowOptions
) -> None:
    """Refuse names of arrays that the first episode of ``ids`` that can be opened does not know.

    Raises ConfigError naming those there are.  Without any names none is opened.
    """
    asked = options.arrays or options.proprioception or options.conf
    for key in islice(ids, _TRIED if asked else 0):
        with suppress(DatasetError):  # told when it is read
            check_names(dataset[key], views, options)
            if options.conf:
                check_conf(dataset[key], views)
            return


def check_conf(episode: EpisodeData, views: Iterable[str]) -> None:
    """Raise ConfigError naming a view of an episode without a confidence."""
    for name in views:
        if name in episode.views and episode.views[name].conf is None:
            raise ConfigError(
                f"conf=True, but view {name} of {episode.meta.id} has no conf: its tracker gave "
                "none, or was not asked to"
            )


def places(dataset: Dataset, ids: Sequence[str]) -> np.ndarray:
    """Return where in the index the episodes of ``ids`` are, (E,) int64."""
    if len(ids) == len(dataset):  # all of them, in the dataset's order
        return np.arange(len(ids))
    return np.fromiter(map(dataset.index.place, ids), np.int64, len(ids))


def verify(episode: EpisodeData, path: Path) -> None:
    """Compare every stored array with its digest; ``path`` is the dataset's.

    Raises DatasetError naming the first that is wrong, ConfigError for older files.
    """
    meta = episode.meta
    if not episode.sealed:
        raise ConfigError(
            f"{path}: older files have no digests to verify; leave verify out, or run letterset "
            "migrate"
        )
    for complaint in check_digests(episode.reader):
        raise DatasetError(
            f"{path}: episode {meta.id} is damaged: {complaint}; run letterset repair {path}, then "
            "build again"
        )
