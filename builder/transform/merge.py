"""Makes a dataset of episodes of others: merge and subset, and what convert shares with them.

Episodes are taken one by one, without changing a byte by merge and subset; then the failures,
splits, layers and rows of the window table that belong to them follow.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from builder.core.errors import ConfigError, DatasetError, NewerFormatError, StoreError
from builder.core.messages import count
from builder.core.records import record_data
from builder.core.result import Result
from builder.dataset.episodes import Dataset
from builder.dataset.filters import Expression
from builder.dataset.folder import (
    DatasetWriter,
    differences,
    index_line,
    read_failures,
    read_index,
)
from builder.dataset.layers import LayerWriter, layer_names, layer_store, load_layer
from builder.dataset.splits import FOLDER, Splits, read_splits, write_splits
from builder.dataset.window_table import carry_window_stats
from builder.stores.atomic import make_folders
from builder.stores.base import Store
from builder.transform.finalize import replace_lines
from schemas.base import json_sha256
from schemas.dataset import DatasetMeta, FailureLine, IndexLine

QUERY_NAMES = ("id", "length", "views", "task", "group", "text", "source")


@dataclass
class Gathered(Result):
    """What a merge or a subset brought together."""

    done_word: ClassVar[str] = "taken"

    out: str
    episodes: int = 0
    there: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Why an episode, or a part of a layer, could not be taken."""
    notes: list[str] = field(default_factory=list)

    @property
    def any_done(self) -> bool:
        """Whether any episode is there in the end."""
        return bool(self.episodes or self.there)

    def lines(self) -> list[str]:
        """List failures and notes."""
        return [*super().lines(), *(f"note: {note}" for note in self.notes)]

    def summary(self) -> str:
        """Count the episodes."""
        return (
            f"{count(self.episodes, 'episode')} {self.done_word}, {self.there} already there, "
            f"{len(self.failures)} failed"
        )


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
    return _combine(owners, meta, Path(out), [each.path for each in datasets])


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
    return _combine(dict.fromkeys(chosen, dataset), dataset.meta, Path(out), [dataset.path])


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


def _combine(
    wanted: Mapping[str, Dataset], meta: DatasetMeta, out: Path, sources: list[Path]
) -> Gathered:
    if out.resolve() in [source.resolve() for source in sources]:
        raise ConfigError(f"{out} is one of the datasets; choose another folder")
    result = Gathered(str(out))

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


def gather(
    catalog: DatasetWriter, ids: Iterable[str], take: Callable[[str], IndexLine], result: Gathered
) -> None:
    """Take the episodes that are not in ``catalog`` yet, and list them there.

    Those for which ``take`` raises are listed as failures, in ``result`` and in ``catalog``.
    """
    done = catalog.index()
    for episode_id in ids:
        if episode_id in done:
            result.there += 1
            continue
        try:
            line = take(episode_id)
        except (DatasetError, NewerFormatError, StoreError) as error:
            result.failures[episode_id] = reason = str(error)
            stage = getattr(error, "stage", "open")
            catalog.fail(FailureLine(id=episode_id, path=episode_id, stage=stage, reason=reason))
            continue
        catalog.add(line)
        result.episodes += 1


def carry_along(sources: Iterable[Path], out: Path, failures: dict[str, str]) -> list[str]:
    """Bring failures, splits and layers of the datasets at ``sources`` to the one made of them.

    What has one name is united; episodes that are not in ``out`` are left out.  What is damaged
    is added to ``failures``, with the reason; returns a sentence for each thing that does not fit.
    """
    sources, built = list(sources), read_index(out)
    lines: dict[str, FailureLine] = {}
    notes = []
    for each in (out, *sources):
        lines |= read_failures(each)
    if lines:
        make_folders(out / "failures")
        replace_lines(out, "failures", [lines[key] for key in sorted(lines) if key not in built])
    for name in sorted({path.stem for each in sources for path in (each / FOLDER).glob("*.json")}):
        try:
            found = [
                read_splits(each, name)
                for each in sources
                if (each / FOLDER / f"{name}.json").exists()
            ]
        except DatasetError as error:
            failures[f"splits/{name}.json"] = str(error)
            continue
        if (key := _disputed(found, built)) is not None:
            notes.append(f"splits {name} are left out: the datasets put {key} into different parts")
            continue
        write_splits(out, name, _united(found, built))
    for name in sorted({name for each in sources for name in layer_names(each)}):
        there = [each for each in sources if name in layer_names(each)]
        try:
            notes += _layer(there, out, name, built, failures)
        except DatasetError as error:
            failures[f"layers/{name}"] = str(error)
    carry_window_stats(sources, out)
    return notes


def _layer(
    sources: list[Path],
    out: Path,
    name: str,
    built: Mapping[str, IndexLine],
    failures: dict[str, str],
) -> Iterator[str]:
    """Link the files of a layer that still fit; yield a sentence for what is left out."""
    metas = [load_layer(each, name) for each in sources]
    if len({json_sha256(record_data(meta)["tracks"]) for meta in metas}) > 1 or any(
        meta.made_by != metas[0].made_by for meta in metas
    ):
        yield f"layer {name} is left out: the datasets made it in different ways"
        return
    left = 0
    with LayerWriter(out, name, metas[0].made_by, metas[0].tracks) as layer:
        for source in sources:
            store = layer_store(source, name)
            for episode_id in store.ids():
                if episode_id not in built or layer.store.has(episode_id):
                    continue
                try:
                    with closing(store.open(episode_id)) as reader:
                        record: Any = reader.meta
                except (DatasetError, NewerFormatError) as error:
                    failures[f"layers/{name}/{episode_id}"] = str(error)
                    continue
                if record.base == built[episode_id].digest:
                    layer.store.adopt(store, episode_id)
                else:
                    left += 1
    if left:
        again = f"letterset {'track' if metas[0].tracks else 'embed'} {out} --name {name} ..."
        yield (
            f"layer {name}: {count(left, 'episode')} left out, made for an episode of another "
            f"digest; to make them again: {again}"
        )


def _disputed(found: list[Splits], built: Iterable[str]) -> str | None:
    """Return an episode that is, say, in train for one dataset and in val for another."""
    named = [{name: set(ids) for name, ids in splits.splits.items()} for splits in found]
    for key in built:
        parts = {frozenset(name for name in each if key in each[name]) for each in named}
        if len(parts - {frozenset()}) > 1:
            return key
    return None


def _united(found: list[Splits], built: Mapping[str, object]) -> Splits:
    united: dict[str, list[str]] = {}
    for splits in found:
        for name, ids in splits.splits.items():
            united[name] = sorted({*united.get(name, ()), *(key for key in ids if key in built)})
    # What they were made by no longer tells how they came about, unless it is the same.
    same = all(
        (s.by, s.shares, s.salt) == (found[0].by, found[0].shares, found[0].salt) for s in found
    )
    data = found[0].model_dump() if same else {}
    return Splits.model_validate({**data, "splits": united})
