"""Merges datasets, or takes a subset of one, without changing a byte of an episode."""

import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

import numpy as np

from builder.core.errors import ConfigError, DatasetError, NewerFormatError
from builder.core.messages import count
from builder.dataset.episodes import Dataset
from builder.dataset.filters import Expression
from builder.dataset.folder import DatasetWriter, differences, index_line
from builder.stores.base import Store
from builder.transform.gather import Gathered, carry_along, gather
from schemas.dataset import DatasetMeta, IndexLine

QUERY_NAMES = ("id", "length", "views", "task", "group", "text", "source")


def merge(paths: Sequence[Path | str], out: Path | str) -> Gathered:
    """Put datasets together in a new folder, of hard links where the file system has them.

    They must agree in img_shape, horizon, start_every, mode, queries and tracker.  Episodes that
    cannot be opened are listed, here and in ``failures/``, and the others taken.  Running it
    again continues, and tries them again.  Raises ConfigError naming what they differ in or share,
    or an episode of ``out`` that is in none of them, and OutputError.
    """
    datasets = [Dataset(Path(path), max_open=1) for path in paths]
    if len(datasets) < 2:
        raise ConfigError("merge takes two datasets or more, and the folder to create")
    meta = _common_meta(datasets)
    owners: dict[str, Dataset] = {}
    for dataset in datasets:
        for key, line in dataset.index.items():
            first = owners.setdefault(key, dataset)
            if first.index[key].digest != line.digest:
                raise ConfigError(
                    f"episode {key} is in {first.path} and in {dataset.path}, with different "
                    "content: merge a subset of one of them"
                )
    return _gather(owners.items(), meta, Path(out), [each.path for each in datasets])


def subset(
    path: Path | str, out: Path | str, ids: Sequence[str] = (), where: str | None = None
) -> Gathered:
    """Make a dataset of some episodes of another, of hard links where the file system has them.

    ``ids`` are glob patterns, ``where`` a filter over ``QUERY_NAMES``; both must hold.  Raises
    ConfigError when no episode is left, or ``out`` holds others, DatasetError, OutputError.
    Episodes that cannot be opened are listed like those of :func:`merge`.
    """
    dataset = Dataset(Path(path), max_open=1)
    chosen = select(dataset, ids, where)
    if not chosen:
        all_of_them = count(len(dataset), "episode")
        raise ConfigError(f"{path}: none of {all_of_them} is chosen; letterset inspect lists them")
    pairs = ((key, dataset) for key in chosen)
    return _gather(pairs, dataset.meta, Path(out), [dataset.path])


def select(dataset: Dataset, ids: Sequence[str], where: str | None) -> list[str]:
    """Return the ids that match one of the patterns and the filter, sorted.

    Episodes that cannot be opened, so that nobody knows whether the filter holds, are chosen.
    """
    chosen = [key for key in dataset.ids if not ids or any(fnmatchcase(key, p) for p in ids)]
    if where is None or not chosen:
        return chosen
    condition = Expression(where, QUERY_NAMES)
    rows = {key: row for key in chosen if (row := _row(dataset, key)) is not None}
    if not rows:
        return chosen
    columns = {name: np.array([row[name] for row in rows.values()]) for name in QUERY_NAMES}
    holds = dict(zip(rows, condition.mask(columns), strict=True))
    return [key for key in chosen if holds.get(key, True)]


def _row(dataset: Dataset, key: str) -> dict[str, object] | None:
    try:
        with closing(dataset.store.open(key)) as reader:
            meta = reader.meta
    except (DatasetError, NewerFormatError):
        return None
    return {
        "id": meta.id,
        "length": meta.length,
        "views": len(meta.views),
        "task": meta.task or "",
        "group": meta.group or "",
        "text": meta.text or "",
        "source": meta.source.path,
    }


def _common_meta(datasets: Sequence[Dataset]) -> DatasetMeta:
    """Describe all of them at once; raises ConfigError listing what they differ in."""
    first, stores = datasets[0], {type(each.store) for each in datasets}
    if len(stores) > 1:
        raise ConfigError("datasets of different stores: run letterset convert first, then merge")
    for other in datasets[1:]:
        wanted = other.meta.model_copy(update={"config": first.meta.config})
        if found := differences(first.meta, wanted):
            raise ConfigError(
                f"{first.path} and {other.path} cannot be merged: "
                f"{'; '.join(each.replace(' now', ' here') for each in found)}"
            )
    configs = {json.dumps(each.meta.config, sort_keys=True): each.meta.config for each in datasets}
    if len(configs) == 1:
        return first.meta
    merged = {"merged": [configs[key] for key in sorted(configs)]}
    return first.meta.resealed(created_with=version("letterset"), config=merged)


def _gather(
    episodes: Iterable[tuple[str, Dataset]], meta: DatasetMeta, out: Path, sources: list[Path]
) -> Gathered:
    if out.resolve() in [source.resolve() for source in sources]:
        raise ConfigError(f"{out} is one of the datasets; choose another folder")
    result, wanted = Gathered(str(out)), dict(episodes)

    def take(key: str) -> IndexLine:
        dataset = wanted[key]
        line = index_line(dataset[key].meta)
        store: Store = type(dataset.store)(out)  # type: ignore[call-arg]
        if store.has(key):  # of a run that was killed
            if _listed_as(store, line):
                return line
            store.set_aside(key)
        store.adopt(dataset.store, key)
        return line

    with DatasetWriter.create(out, meta) as catalog:
        if other := next((key for key in catalog.index() if key not in wanted), None):
            raise ConfigError(
                f"{out} holds episodes that are not chosen now, such as {other}: choose another "
                "output folder"
            )
        gather(catalog, sorted(wanted), take, result)
    if result.any_done:  # else the failures tell why there is nothing
        result.notes += carry_along(sources, out, result.failures)
    return result


def _listed_as(store: Store, line: IndexLine) -> bool:
    try:
        with closing(store.open(line.id)) as reader:
            return index_line(reader.meta) == line
    except DatasetError:
        return False
