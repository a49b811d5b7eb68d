"""Verifying a dataset: what is stored is checked against everything the metadata say about it."""

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from builder.canvas.query_grid import query_points
from builder.core.errors import (
    DatasetError,
    LettersetError,
    NewerFormatError,
    SourceError,
    UnreadableError,
)
from builder.core.messages import ASSUMED, count
from builder.core.spacing import spread
from builder.core.working import Each, one_by_one
from builder.dataset.array_checks import all_still, check_digest, check_view, has_windows
from builder.dataset.folder import (
    META_NAME,
    index_line,
    load_meta,
    pretty_json,
    read_failures,
    read_index,
    store_at,
)
from builder.dataset.index import EpisodeIndex
from builder.dataset.layers import FOLDER as LAYERS
from builder.dataset.layers import layer_names, layer_store, load_layer, open_overlay, stale
from builder.dataset.splits import FOLDER as SPLITS
from builder.dataset.splits import read_splits
from builder.dataset.window_table import check_table
from builder.inputs.foreign import announce
from builder.stores.base import EpisodeReader, Store
from builder.stores.reading import files_in, readable
from schemas.dataset import DatasetMeta, EpisodeMeta, IndexLine, ViewMeta
from schemas.layers import LayerMeta, TrackSet


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset, or, as a ``note``, something a user should know.

    With ``unread`` nothing is known to be wrong: it cannot be read now, or a newer letterset made
    it.
    """

    episode: str | None
    where: str
    message: str
    note: bool = False
    unread: bool = False

    def __str__(self) -> str:
        parts = ("note" if self.note else None, self.episode, self.where, self.message)
        return ": ".join(part for part in parts if part)


@dataclass(frozen=True)
class Checked:
    """One episode: its problems, and what the index lists of it, None where it cannot be read.

    ``assumed`` says that the shape of its source is an assumption.
    """

    problems: list[Problem]
    line: IndexLine | None = None
    assumed: bool = False


def validate(
    path: Path | str, deep: bool = False, *, share: float = 1.0, check_each: Each = one_by_one
) -> list[Problem]:
    """Check a whole dataset; returns all problems, notes among them, in order of episodes.

    Reads every byte of every array, one episode after another or as ``check_each`` does it; of
    ``share`` (0 to 1) of the episodes, spread evenly, and a note says how many were not looked at.
    ``deep`` also decodes every stored frame.  Raises DatasetError when ``path`` holds no dataset
    at all and NewerFormatError when a newer letterset made it.
    """
    folder = Path(path)
    if not any((folder / name).exists() for name in (META_NAME, "episodes")):
        load_meta(folder)
    problems, meta = _dataset(folder)
    store, index, stored = store_at(folder), None, set[str]()
    try:
        index = read_index(folder)
        read_failures(folder)
    except DatasetError as error:
        problems.append(_problem(None, "index", error))
    try:
        stored = {*store.ids()}
    except UnreadableError as error:
        problems.append(_problem(None, store.place, error))
    assumed: list[str] = []
    known = sorted({*stored, *(index or ())})
    ids = [known[at] for at in spread(len(known), math.ceil(share * len(known)))]
    left_out = {*known} - {*ids}
    if left_out:
        text = f"{len(left_out)} of {count(len(known), 'episode')} were not looked at"
        problems.append(Problem(None, "", text, note=True))
    check = partial(check_episode, store, dataset=meta, deep=deep)
    for episode_id, checked in zip(ids, check_each(check, ids), strict=True):
        problems += checked.problems
        assumed += [episode_id] if checked.assumed else []
        if checked.line and index is not None and checked.line != index.get(episode_id):
            listed = episode_id in index
            what = "is not what the index lists" if listed else "is not listed in the index"
            text = f"the episode {what}; run letterset repair"
            problems.append(Problem(episode_id, "index", text))
    if assumed:
        who = f"{count(len(assumed), 'episode')}, the first is {assumed[0]}"
        problems.append(Problem(None, "", f"{ASSUMED}: {who}", note=True))
    for name in layer_names(folder):
        lines: Mapping[str, IndexLine] = index or {}
        problems += check_layer(folder, store, name, lines, deep, meta, left_out, check_each)
    problems += _check_companions(folder, index, meta)
    other = "part of no episode and not verified: move it away if not needed"
    problems += [
        Problem(None, path.relative_to(folder).as_posix(), other, note=True)
        for path in _foreign(folder, store, stored)
    ]
    left = "left over from a killed run; the next build removes it"
    problems += [Problem(None, f"tmp/{p.name}", left, note=True) for p in store.leftovers()]
    return problems


def _problem(episode: str | None, where: str, error: Exception) -> Problem:
    """Say why something was not verified; an error of the environment tells nothing of it."""
    unread = isinstance(error, UnreadableError | NewerFormatError | OSError)
    return Problem(episode, where, str(error), unread=unread)


def check_episode(
    store: Store, episode_id: str, dataset: DatasetMeta | None = None, deep: bool = False
) -> Checked:
    """Check one episode by itself and, if given, against the dataset's settings."""
    found: list[Problem] = []
    line, assumed = None, False
    try:
        announce(store.path(episode_id))
        with closing(store.open(episode_id)) as reader:
            line = index_line(reader.meta)
            assumed = any(view.source_shape_assumed for view in reader.meta.views)
            for where, text in _episode_problems(reader, dataset, deep):
                found.append(Problem(episode_id, where, text))
    except (DatasetError, NewerFormatError, OSError) as error:
        found.append(_problem(episode_id, "", error))
    except SourceError as error:  # it ended a process that read it
        found.append(_problem(episode_id, "", UnreadableError(error.reason)))
    return Checked(found, line, assumed)


def _episode_problems(
    reader: EpisodeReader, dataset: DatasetMeta | None, deep: bool
) -> Iterator[tuple[str, str]]:
    meta = reader.meta
    yield from (("", text) for text in reader.problems())
    yield from (("", text) for text in (_against_dataset(meta, dataset) if dataset else ()))
    for name, array in meta.arrays.items():
        yield from ((name, text) for text in check_digest(reader, None, name, array))
    for view in meta.views:
        bad = check_view(reader, view, _queries(dataset, view), deep)
        yield from ((f"{view.name}/{name}", text) for name, text in bad)


def check_layer(
    folder: Path,
    store: Store,
    name: str,
    index: Mapping[str, IndexLine],
    deep: bool = False,
    dataset: DatasetMeta | None = None,
    left_out: Collection[str] = (),
    check_each: Each = one_by_one,
) -> list[Problem]:
    """Check a layer: its metadata, its files, and whether it was made for these episodes.

    The files of episodes in ``left_out`` are not looked at.
    """
    try:
        meta = load_layer(folder, name)
        own = layer_store(folder, name)
        ids = list(own.ids())
    except (DatasetError, NewerFormatError) as error:
        return [_problem(None, f"layers/{name}", error)]
    found, where = [], f"layers/{name}"
    if dataset is not None and meta.base != dataset.digest:
        text = "it was made for another dataset.json: make it again under another name"
        found.append(Problem(None, where, text))
    check = partial(_check_layer_episode, folder, store, own, meta, deep)
    for problems in check_each(check, [key for key in ids if key not in left_out]):
        found += problems
    missing = len(index.keys() - {*ids})
    if missing:
        text = f"it lacks {missing} of {len(index)} episodes"
        found.append(Problem(None, f"layers/{name}", text, note=True))
    return found


def _check_layer_episode(
    folder: Path, store: Store, own: Store, meta: LayerMeta, deep: bool, episode_id: str
) -> list[Problem]:
    found, where = [], f"layers/{meta.name}"
    try:
        if not store.has(episode_id):
            text = "there is no such episode: build it again, or delete this part of the layer,"
            return [Problem(episode_id, where, f"{text} {own.path(episode_id)}")]
        announce(own.path(episode_id))
        with closing(own.open(episode_id)) as layer, closing(store.open(episode_id)) as base:
            for each, message in _layer_problems(base, layer, folder, meta, deep):
                place = f"{where}/{each}" if each else where
                found.append(Problem(episode_id, place, message))
    except (DatasetError, NewerFormatError, OSError) as error:
        found.append(_problem(episode_id, where, error))
    except SourceError as error:  # it ended a process that read it
        found.append(_problem(episode_id, where, UnreadableError(error.reason)))
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


def _dataset(folder: Path) -> tuple[list[Problem], DatasetMeta | None]:
    try:
        meta = load_meta(folder)
        with readable(folder / META_NAME):
            text = (folder / META_NAME).read_text(encoding="utf-8")
    except DatasetError as error:
        return [_problem(None, META_NAME, error)], None
    if text != pretty_json(json.loads(text)):
        message = "its values are valid, but not in the form letterset writes: it was edited"
        return [Problem(None, META_NAME, message)], meta
    return [], meta


def _against_dataset(meta: EpisodeMeta, dataset: DatasetMeta) -> Iterator[str]:
    if not dataset.describes(meta):
        yield (
            f"it was built under another dataset.json: that one's digest is "
            f"{str(meta.dataset)[:12]}..., this one's {dataset.digest[:12]}...; was either of them "
            "put here from elsewhere? Restore it"
        )
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
        tracked = has_windows(view) or (dataset.has_tracks and all_still(meta))
        if tracked != dataset.has_tracks:
            count = "windows" if tracked else "no windows"
            yield f"view {view.name} has {count}, the dataset's tracker is {dataset.tracker.kind}"
        one_canvas = dataset.config.get("geometry") != "resize_shorter"
        if one_canvas and view.geometry.img_shape != dataset.img_shape:
            yield (
                f"view {view.name}: img_shape is {view.geometry.img_shape}, the dataset's "
                f"{dataset.img_shape}"
            )


def _check_companions(
    folder: Path, ids: EpisodeIndex | None, dataset: DatasetMeta | None
) -> Iterator[Problem]:
    """Yield what is wrong with window tables, layers and splits.

    ``ids`` are the dataset's; None when they are not known.
    """
    for path in files_in(folder / "stats", ".hdf5"):
        if not path.name.startswith("windows"):
            continue
        where = f"stats/{path.name}"
        try:
            for found in check_table(path, folder, ids, dataset):
                yield Problem(None, where, *found)
        except DatasetError as error:
            yield _problem(None, where, error)
    files = (path.relative_to(folder / LAYERS) for path in (folder / LAYERS).rglob("*.hdf5"))
    kept = {path.parts[0] for path in files if len(path.parts) > 1}
    for name in sorted(kept - {*layer_names(folder)}):
        text = "layer.json is missing: restore it, or delete the folder and make it again"
        yield Problem(None, f"{LAYERS}/{name}", text)
    for path in files_in(folder / SPLITS, ".json"):
        where = f"{SPLITS}/{path.name}"
        try:
            parts = read_splits(folder, path.stem).splits
        except LettersetError as error:
            yield _problem(None, where, error)
            continue
        for part, listed in parts.items():
            gone = [] if ids is None else [each for each in listed if each not in ids]
            if gone:
                text = f"{part} lists {len(gone)} that the dataset lacks, the first is {gone[0]}"
                yield Problem(None, where, text, note=True)  # it may be on purpose


def _foreign(folder: Path, store: Store, ids: Iterable[str]) -> Iterator[Path]:
    """Yield the files in the episodes' folder that belong to no episode, sorted."""
    episodes, found = set[Path](), list[Path]()
    for each in ids:
        with suppress(DatasetError):  # for a name that no episode can have
            episodes.add(store.path(each))
    for place, folders, names in os.walk(folder / store.place):
        folders[:] = [name for name in folders if Path(place, name) not in episodes]
        found += [path for name in names if (path := Path(place, name)) not in episodes]
    yield from sorted(found)
