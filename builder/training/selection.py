"""Which episodes a training set takes, and whether one is what was built."""

from __future__ import annotations

from collections.abc import Sequence

from builder.checks import check_digest
from builder.dataset import Dataset, EpisodeData
from builder.errors import ConfigError, DatasetError
from builder.splits import read_splits
from builder.training.options import WindowOptions


def choose_ids(dataset: Dataset, views: Sequence[str], options: WindowOptions) -> list[str]:
    """Return the ids of the episodes to read, in the dataset's order.

    Raises ConfigError when some lack a view and that is an error, DatasetError for a split that
    is not there or has no episode.
    """
    wanted = {*views}
    ids = _in_split(dataset, options.split)
    if options.missing == "mask":
        return [key for key in ids if wanted & {*dataset.index[key].views}]
    lacking = {
        key: sorted(wanted - {*dataset.index[key].views})
        for key in ids
        if not wanted <= {*dataset.index[key].views}
    }
    if lacking and options.missing == "error":
        key, names = next(iter(lacking.items()))
        raise ConfigError(
            f"{dataset.path}: {len(lacking)} of {len(ids)} episodes lack a view, the first is "
            f"{key}, which lacks {names}; choose other views, or leave such episodes out with "
            "missing='skip', or fill with zeros with missing='mask'"
        )
    return [key for key in ids if key not in lacking]


def _in_split(dataset: Dataset, split: str | None) -> list[str]:
    if split is None:
        return list(dataset.ids)
    file, _, name = split.partition("/")
    found = read_splits(dataset.path, file).splits
    if name not in found:
        raise ConfigError(f"{dataset.path}: splits {file!r} have no {name!r}, only {sorted(found)}")
    members = {*found[name]}
    ids = [key for key in dataset.ids if key in members]
    if not ids:
        raise DatasetError(
            f"{dataset.path}: split {split!r} is empty: it lists {len(members)} episodes, "
            f"none of which is in the dataset"
        )
    return ids


def verify(episode: EpisodeData) -> None:
    """Compare every stored array with its digest; raises DatasetError naming the first wrong."""
    meta = episode.meta
    for view, arrays in [(None, meta.arrays), *((v.name, v.arrays) for v in meta.views)]:
        for name, array in arrays.items():
            for complaint in check_digest(episode.reader, view, name, array):
                where = name if view is None else f"{view}/{name}"
                raise DatasetError(f"episode {meta.id} is damaged: {where}: {complaint}")
