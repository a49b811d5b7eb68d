"""Verifying a dataset: what is stored is checked against everything the metadata say about it."""

import json
import os
from collections.abc import Container, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from builder.canvas.query_grid import query_points
from builder.core.errors import DatasetError, LettersetError, NewerFormatError
from builder.dataset.array_checks import check_digest, check_view, has_windows
from builder.dataset.folder import (
    META_NAME,
    index_line,
    load_meta,
    pretty_json,
    read_failures,
    read_index,
    store_at,
)
from builder.dataset.layers import FOLDER as LAYERS
from builder.dataset.layers import layer_names, layer_store, load_layer, open_overlay, stale
from builder.dataset.splits import FOLDER as SPLITS
from builder.dataset.splits import read_splits
from builder.dataset.window_table import check_tables
from builder.stores.base import EpisodeReader, Store
from schemas.dataset import DatasetMeta, EpisodeMeta, IndexLine, ViewMeta
from schemas.layers import LayerMeta, TrackSet


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset, or, as a ``note``, something a user should know.

    With ``unread`` nothing is known to be wrong: a newer letterset made it.
    """

    episode: str | None
    where: str
    message: str
    note: bool = False
    unread: bool = False

    def __str__(self) -> str:
        parts = ("note" if self.note else None, self.episode, self.where, self.message)
        return ": ".join(part for part in parts if part)


def validate(path: Path | str, deep: bool = False) -> list[Problem]:
    """Check a whole dataset; returns all problems, notes among them, in order of episodes.

    Reads every byte of every array.  ``deep`` also decodes every stored frame.  Raises
    DatasetError when ``path`` holds no dataset at all and NewerFormatError when a newer
    letterset made it.
    """
    folder = Path(path)
    if not any((folder / name).exists() for name in (META_NAME, "episodes")):
        load_meta(folder)
    problems, meta = _dataset(folder)
    store, index = store_at(folder), None
    try:
        index = read_index(folder)
        read_failures(folder)
    except DatasetError as error:
        problems.append(Problem(None, "index", str(error)))
    for episode_id in sorted({*store.ids(), *(index or ())}):
        problems += check_episode(store, episode_id, meta, deep)
        problems += [] if index is None else _listed(store, episode_id, index.get(episode_id))
    for name in layer_names(folder):
        problems += check_layer(folder, store, name, index or {}, deep)
    problems += [Problem(None, *found) for found in _check_companions(folder, index)]
    other = "part of no episode and not verified: move it away if not needed"
    problems += [
        Problem(None, path.relative_to(folder).as_posix(), other, note=True)
        for path in _foreign(folder, store)
    ]
    left = "left over from a killed run; the next build removes it"
    problems += [Problem(None, f"tmp/{p.name}", left, note=True) for p in store.leftovers()]
    return problems


def check_episode(
    store: Store, episode_id: str, dataset: DatasetMeta | None = None, deep: bool = False
) -> list[Problem]:
    """Check one episode by itself and, if given, against the dataset's settings."""
    try:
        reader = store.open(episode_id)
    except (DatasetError, NewerFormatError) as error:
        unread = isinstance(error, NewerFormatError)
        return [Problem(episode_id, "", str(error), unread=unread)]
    with closing(reader):
        meta = reader.meta
        found = [("", text) for text in reader.problems()]
        found += [("", text) for text in (_against_dataset(meta, dataset) if dataset else ())]
        for name, array in meta.arrays.items():
            found += [(name, text) for text in check_digest(reader, None, name, array)]
        for view in meta.views:
            bad = check_view(reader, view, _queries(dataset, view), deep)
            found += [(f"{view.name}/{name}", text) for name, text in bad]
    return [Problem(episode_id, where, text) for where, text in found]


def check_layer(
    folder: Path, store: Store, name: str, index: Mapping[str, IndexLine], deep: bool = False
) -> list[Problem]:
    """Check a layer: its metadata, its files, and whether it was made for these episodes."""
    try:
        meta = load_layer(folder, name)
    except (DatasetError, NewerFormatError) as error:
        return [Problem(None, f"layers/{name}", str(error))]
    found, own = [], layer_store(folder, name)
    for episode_id in own.ids():
        where = f"layers/{name}"
        if not store.has(episode_id):
            text = "there is no such episode: build it again, or delete this part of the layer, "
            found.append(Problem(episode_id, where, f"{text}{own.path(episode_id)}"))
            continue
        try:
            with closing(own.open(episode_id)) as layer, closing(store.open(episode_id)) as base:
                found += [
                    Problem(episode_id, f"{where}/{each}" if each else where, message)
                    for each, message in _layer_problems(base, layer, folder, meta, deep)
                ]
        except (DatasetError, NewerFormatError) as error:
            found.append(Problem(episode_id, where, str(error)))
    missing = len(index.keys() - set(own.ids()))
    if missing:
        text = f"it lacks {missing} of {len(index)} episodes"
        found.append(Problem(None, f"layers/{name}", text, note=True))
    return found


def _layer_problems(
    base: EpisodeReader, layer: EpisodeReader, folder: Path, meta: LayerMeta, deep: bool
) -> Iterator[tuple[str, str]]:
    yield from (("", message) for message in layer.problems())
    if stale(layer, base.meta):
        yield "", "it is stale: it was made for another state of the episode; make it again"
        return
    for name, array in layer.meta.arrays.items():
        yield from ((name, text) for text in check_digest(layer, None, name, array))
    both = open_overlay(base, folder, {meta.name: meta})
    for own in layer.meta.views:
        view = both.meta.view(own.name).model_copy(update={"arrays": own.arrays})
        for name, text in check_view(both, view, _queries(meta.tracks, view), deep):
            if name in own.arrays:
                yield f"{own.name}/{name}", text


def _queries(settings: DatasetMeta | TrackSet | None, view: ViewMeta) -> np.ndarray | None:
    """Return the query points that a dataset's or a layer's settings give for a view, if any."""
    if settings is None or settings.queries.region == "stored":
        return None
    return query_points(settings.queries, view.geometry)


def _listed(store: Store, episode_id: str, line: IndexLine | None) -> list[Problem]:
    """Compare an episode with its line in the index."""
    try:
        with closing(store.open(episode_id)) as reader:
            if line == index_line(reader.meta):
                return []
    except (DatasetError, NewerFormatError):
        return []  # check_episode reports it
    what = "is not listed in the index" if line is None else "is not what the index lists"
    return [Problem(episode_id, "index", f"the episode {what}; run letterset repair")]


def _dataset(folder: Path) -> tuple[list[Problem], DatasetMeta | None]:
    try:
        meta = load_meta(folder)
    except DatasetError as error:
        return [Problem(None, META_NAME, str(error))], None
    text = (folder / META_NAME).read_text(encoding="utf-8")
    if text != pretty_json(json.loads(text)):
        message = "its values are valid, but not in the form letterset writes: it was edited"
        return [Problem(None, META_NAME, message)], meta
    return [], meta


def _against_dataset(meta: EpisodeMeta, dataset: DatasetMeta) -> Iterator[str]:
    whole = meta.mode == "episode"
    expected = {
        "mode": dataset.mode,
        "horizon": meta.length if whole else dataset.horizon,
        "start_every": meta.length if whole else dataset.start_every,
    }
    for key, value in expected.items():
        if getattr(meta, key) != value:
            yield f"{key} is {getattr(meta, key)}, the dataset says {value}"
    for view in meta.views:
        tracked = has_windows(view)
        if tracked != dataset.has_tracks:
            count = "windows" if tracked else "no windows"
            yield f"view {view.name} has {count}, the dataset's tracker is {dataset.tracker.kind}"
        one_canvas = dataset.config.get("geometry") != "resize_shorter"
        if one_canvas and view.geometry.img_shape != dataset.img_shape:
            yield (
                f"view {view.name}: img_shape is {view.geometry.img_shape}, the dataset's "
                f"{dataset.img_shape}"
            )


def _check_companions(folder: Path, ids: Container[str] | None) -> Iterator[tuple[str, str, bool]]:
    """Yield (where, message, whether it is only a note) for window tables, layers and splits.

    ``ids`` are the dataset's; None when they are not known.
    """
    yield from check_tables(folder)
    files = (path.relative_to(folder / LAYERS) for path in (folder / LAYERS).rglob("*.hdf5"))
    kept = {path.parts[0] for path in files if len(path.parts) > 1}
    for name in sorted(kept - {*layer_names(folder)}):
        text = "layer.json is missing: restore it, or delete the folder and make it again"
        yield f"{LAYERS}/{name}", text, False
    for path in sorted((folder / SPLITS).glob("*.json")):
        where = f"{SPLITS}/{path.name}"
        try:
            parts = read_splits(folder, path.stem).splits
        except LettersetError as error:
            yield where, str(error), False
            continue
        for part, listed in parts.items():
            gone = [] if ids is None else [each for each in listed if each not in ids]
            if gone:
                text = f"{part} lists {len(gone)} that the dataset lacks, the first is {gone[0]}"
                yield where, text, True  # it may be on purpose


def _foreign(folder: Path, store: Store) -> Iterator[Path]:
    """Yield the files in the episodes' folder that belong to no episode, sorted."""
    episodes, found = set[Path](), list[Path]()
    for each in store.ids():
        with suppress(DatasetError):  # for a name that no episode can have
            episodes.add(store.path(each))
    for place, folders, names in os.walk(folder / store.place):
        folders[:] = [name for name in folders if Path(place, name) not in episodes]
        found += [path for name in names if (path := Path(place, name)) not in episodes]
    yield from sorted(found)
