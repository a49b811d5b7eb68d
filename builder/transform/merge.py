"""Makes a dataset of episodes of others: merge and subset, and what convert shares with them.

Episodes are taken one by one, without changing a byte by merge and subset; then the failures,
splits, layers and rows of the window table that belong to them follow.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from builder.core.errors import (
    ConfigError,
    DatasetError,
    LettersetError,
    NewerFormatError,
    SourceError,
    StoreError,
    UnreadableError,
)
from builder.core.messages import count, no_episodes
from builder.core.records import record_data
from builder.core.result import Result
from builder.core.working import Each, one_by_one
from builder.dataset.episodes import Dataset, EpisodeOpener
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
from builder.inputs.foreign import announce
from builder.stores.base import Store
from builder.transform.finalize import replace_lines
from schemas.base import json_sha256
from schemas.dataset import DatasetMeta, FailureLine, IndexLine

_BATCH = 256
"""Episodes that are made durable, and listed, together: each such step waits for the disk."""

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


def merge(paths: Sequence[Path | str], out: Path | str, *, each: Each = one_by_one) -> Gathered:
    """Put datasets together in a new folder, of hard links where the file system has them.

    They must agree in img_shape, horizon, start_every, mode, queries and tracker.  Episodes that
    cannot be opened are listed, here and in ``failures/``, and the others taken.  Running it
    again continues, and tries them again.  They are read as ``each`` does it.  Raises ConfigError
    naming what they differ in or share, or an episode of ``out`` that is in none of them, and
    OutputError.
    """
    datasets = [Dataset(Path(path), max_open=1) for path in paths]
    if len(datasets) < 2:
        raise ConfigError("merge takes two datasets or more, and the folder to create")
    meta = _common_meta(datasets)
    owners: dict[str, Dataset] = {}
    for dataset in datasets:
        for key in dataset.ids:
            first = owners.setdefault(key, dataset)
            if first is not dataset and first.index[key].digest != dataset.index[key].digest:
                raise ConfigError(
                    f"episode {key} is in {first.path} and in {dataset.path}, with different "
                    "content: merge a subset of one of them"
                )
    return _combine(owners, meta, Path(out), [dataset.path for dataset in datasets], each)


def subset(
    path: Path | str,
    out: Path | str,
    ids: Sequence[str] = (),
    where: str | None = None,
    *,
    each: Each = one_by_one,
) -> Gathered:
    """Make a dataset of some episodes of another, of hard links where the file system has them.

    ``ids`` are glob patterns, ``where`` a filter over ``QUERY_NAMES``; both must hold.  Raises
    ConfigError when no episode is left, or ``out`` holds others, DatasetError, OutputError.
    Episodes that cannot be opened are listed like those of :func:`merge`.
    """
    dataset = Dataset(Path(path), max_open=1)
    chosen = select(dataset, ids, where, each)
    if not chosen:
        if not len(dataset):
            raise ConfigError(no_episodes(path))
        raise ConfigError(
            f"{path}: none of {count(len(dataset), 'episode')} is chosen. letterset inspect lists "
            f"their ids, such as {dataset.ids[0]}; in --id, * stands for any characters"
        )
    return _combine(dict.fromkeys(chosen, dataset), dataset.meta, Path(out), [dataset.path], each)


def select(
    dataset: Dataset, ids: Sequence[str], where: str | None, each: Each = one_by_one
) -> list[str]:
    """Return the ids that match one of the patterns and the filter, sorted.

    Episodes that cannot be opened, so that nobody knows whether the filter holds, are chosen.
    """
    chosen = [key for key in dataset.ids if not ids or any(fnmatchcase(key, p) for p in ids)]
    if where is None or not chosen:
        return chosen
    condition = Expression(where, QUERY_NAMES)
    found = zip(chosen, each(partial(_row, dataset.store), chosen), strict=True)
    rows = {key: row for key, row in found if row is not None}
    if not rows:
        return chosen
    columns = {name: np.array([row[name] for row in rows.values()]) for name in QUERY_NAMES}
    holds = dict(zip(rows, condition.mask(columns), strict=True))
    return [key for key in chosen if holds.get(key, True)]


def _row(store: Store, key: str) -> dict[str, object] | None:
    try:
        announce(store.path(key))
        with closing(store.open(key)) as reader:
            meta = reader.meta
    except (DatasetError, NewerFormatError, SourceError):
        return None
    return {
        "id": meta.id,
        "length": meta.length,
        "views": len(meta.views),
        "task": meta.task or "",
        "group": meta.group or "",
        "text": "; ".join(meta.all_texts),
        "source": meta.source.path,
    }


def _common_meta(datasets: Sequence[Dataset]) -> DatasetMeta:
    """Describe all of them at once; raises ConfigError listing what they differ in."""
    first, stores = datasets[0], {type(each.store) for each in datasets}
    if len(stores) > 1:
        raise ConfigError("datasets of different stores: run letterset convert first, then merge")
    for other in datasets[1:]:
        same = {"config": first.meta.config, "parts": first.meta.parts}
        wanted = other.meta.model_copy(update=same)
        if found := differences(first.meta, wanted):
            raise ConfigError(
                f"{first.path} and {other.path} cannot be merged: "
                f"{'; '.join(each.replace(' now', ' here') for each in found)}"
            )
    configs = {json.dumps(each.meta.config, sort_keys=True): each.meta.config for each in datasets}
    if len({each.meta.digest for each in datasets}) == 1:
        return first.meta
    merged = {"merged": [configs[key] for key in sorted(configs)]}
    parts = {key for each in datasets for key in (each.meta.digest, *each.meta.parts)}
    return first.meta.resealed(
        created_with=version("letterset"),
        config=first.meta.config if len(configs) == 1 else merged,
        parts=tuple(sorted(parts)),
    )


def _combine(
    wanted: Mapping[str, Dataset], meta: DatasetMeta, out: Path, sources: list[Path], each: Each
) -> Gathered:
    if out.resolve() in [source.resolve() for source in sources]:
        raise ConfigError(f"{out} is one of the datasets; choose another folder")
    result = Gathered(str(out))
    datasets = {dataset.path: dataset for dataset in wanted.values()}
    openers = {path: dataset.opener() for path, dataset in datasets.items()}
    stores = {path: dataset.store for path, dataset in datasets.items()}
    store: Store = type(next(iter(stores.values())))(out)  # type: ignore[call-arg]

    def read(ids: Sequence[str]) -> Iterator[IndexLine | LettersetError]:
        owners = [wanted[key] for key in ids]
        listed = [
            (owner.path, key, owner.index[key].digest)
            for owner, key in zip(owners, ids, strict=True)
        ]
        yield from each(partial(_line, openers), listed)

    def take(line: IndexLine) -> None:
        if store.has(line.id):  # of a run that was killed
            if _listed_as(store, line):
                return
            store.set_aside(line.id)
        adopt = getattr(store, "adopt_unsynced", store.adopt)
        adopt(stores[wanted[line.id].path], line.id)

    def sync(lines: Sequence[IndexLine]) -> None:
        if hasattr(store, "adopt_unsynced"):
            store.sync([line.id for line in lines])  # type: ignore[attr-defined]

    with DatasetWriter.create(out, meta) as catalog:
        if other := next((key for key in catalog.index() if key not in wanted), None):
            raise ConfigError(
                f"{out} holds episodes that are not chosen now, such as {other}: choose another "
                "output folder"
            )
        done = catalog.index()
        ids = [key for key in sorted(wanted) if key not in done]
        result.there = len(wanted) - len(ids)
        batch: list[IndexLine] = []
        for key, line in zip(ids, read(ids), strict=True):
            try:
                if isinstance(line, LettersetError):
                    raise line
                take(line)
                batch.append(line)
            except (DatasetError, NewerFormatError, StoreError) as error:
                _failed(catalog, result, key, error)
            if len(batch) == _BATCH:
                _list(catalog, result, batch, sync)
        _list(catalog, result, batch, sync)
    if result.any_done:  # else the failures tell why there is nothing
        result.notes += carry_along(sources, out, result.failures)
    return result


def _list(
    catalog: DatasetWriter,
    result: Gathered,
    batch: list[IndexLine],
    sync: Callable[[Sequence[IndexLine]], None],
) -> None:
    """List episodes that were taken, once their names are durable."""
    if batch:
        sync(batch)
        catalog.add(*batch)
        result.episodes += len(batch)
        batch.clear()


def _line(
    openers: Mapping[Path, EpisodeOpener], listed: tuple[Path, str, str]
) -> IndexLine | LettersetError:
    """Open an episode and return its line, or why it cannot be opened."""
    path, *own = listed
    try:
        episode_id, digest = own
        episode = openers[path]((episode_id, digest))
        with closing(episode.reader):
            return index_line(episode.meta)
    except (DatasetError, NewerFormatError) as error:
        return error
    except SourceError as error:  # it ended a process that read it
        return DatasetError(error.reason)


def _listed_as(store: Store, line: IndexLine) -> bool:
    try:
        with closing(store.open(line.id)) as reader:
            return index_line(reader.meta) == line
    except UnreadableError:
        raise
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
            _failed(catalog, result, episode_id, error)
            continue
        catalog.add(line)
        result.episodes += 1


def _failed(
    catalog: DatasetWriter, result: Gathered, episode_id: str, error: LettersetError
) -> None:
    result.failures[episode_id] = reason = str(error)
    stage = getattr(error, "stage", "open")
    catalog.fail(FailureLine(id=episode_id, path=episode_id, stage=stage, reason=reason))


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
