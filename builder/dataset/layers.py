"""Layers: track sets, embeddings or any arrays, added to a dataset without rewriting it.

``layers/<name>/`` has ``layer.json`` and one HDF5 file per episode, each pinned to the digest
of the episode it was made for.  :class:`LayerWriter` adds them; an :class:`Overlay` is an episode
that is read through them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from builder.core.errors import ConfigError, DatasetError, UnreadableError
from builder.core.records import check_name, parse_record, record_data
from builder.dataset.folder import load_meta, pretty_json
from builder.dataset.locks import HeldLock, take_lock
from builder.stores.atomic import publish_text
from builder.stores.base import (
    STORES,
    ArraySpec,
    EpisodeReader,
    EpisodeWriter,
    Store,
    arrays_by_view,
)
from builder.stores.reading import ReaderCache, files_in, is_file, readable
from schemas.dataset import EpisodeMeta
from schemas.layers import LayerEpisode, LayerMeta, LayerView, TrackSet

FOLDER = "layers"
TRACK_ARRAYS = ("tracks", "vis", "conf", "starts", "queries")
META_NAME = "layer.json"

Arrays = Mapping[str | None, Mapping[str, Any]]
"""By view (None: the episode as a whole), then by name."""


def layer_names(dataset: Path) -> list[str]:
    """List the layers of a dataset folder."""
    folders = files_in(dataset / FOLDER, "")
    return [folder.name for folder in folders if is_file(folder / META_NAME)]


def load_layer(dataset: Path, name: str) -> LayerMeta:
    """Read a layer's metadata.  Raises DatasetError naming the layers there are."""
    if name not in layer_names(dataset):
        raise DatasetError(f"{dataset} has no layer {name!r}; it has {layer_names(dataset)}")
    path = dataset / FOLDER / name / META_NAME
    with readable(path):
        text = path.read_bytes()
    return parse_record(LayerMeta, text, str(path))


def layer_store(dataset: Path, name: str) -> Store:
    """Return the store of a layer's files."""
    return STORES.load("hdf5")(dataset, place=f"{FOLDER}/{name}", record=LayerEpisode)


def stale(reader: EpisodeReader, base: EpisodeMeta) -> bool:
    """Tell whether a layer's episode was made for another state of the dataset's episode."""
    layer: Any = reader.meta
    return layer.base != base.digest


class LayerWriter:
    """A layer open for writing by one process; a context manager.

    Created if it is not there; continued if it was made in the same way for the same dataset.
    """

    def __init__(
        self,
        dataset: Path,
        name: str,
        made_by: Mapping[str, Any] | None = None,
        tracks: TrackSet | None = None,
    ) -> None:
        """Open it.  Raises ConfigError for a bad name and when it was made in another way."""
        check_name(name, "a layer's name")
        self.dataset, self.name = dataset, name
        self.folder, self.store = dataset / FOLDER / name, layer_store(dataset, name)
        self.meta = LayerMeta.seal(
            name=name,
            created_with=version("letterset"),
            base=load_meta(dataset).digest,
            tracks=tracks,
            made_by=dict(made_by or {}),
        )

    def __enter__(self) -> LayerWriter:
        held = take_lock(self.folder, "main", self.dataset)
        try:
            self.store.leftovers(remove=True)
            if not (self.folder / META_NAME).exists():
                text = pretty_json(record_data(self.meta))
                publish_text(self.dataset, self.folder / META_NAME, text)
            self._refuse_different(load_layer(self.dataset, self.name))
            self.lock = HeldLock(self.folder, "main", held)
        except BaseException:
            os.close(held)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.lock.close()

    def _refuse_different(self, found: LayerMeta) -> None:
        kept = {"digest", "created_with"}
        old, new = (meta.model_dump(exclude=kept) for meta in (found, self.meta))
        differing = [key for key in old if old[key] != new[key]]
        if differing:
            raise ConfigError(
                f"the layer {self.name!r} was made in another way: {', '.join(differing)} differ. "
                f"Choose another name, or delete {self.folder}"
            )

    def has(self, base: EpisodeMeta) -> bool:
        """Tell whether an episode is there and made for the base as it is now.

        Raises DatasetError for a damaged one.
        """
        if not self.store.has(base.id):
            return False
        try:
            with closing(self.store.open(base.id)) as reader:
                return not stale(reader, base)
        except UnreadableError:
            raise
        except DatasetError as error:
            raise DatasetError(f"{error}; run letterset repair, then this again") from None

    def write(self, base: EpisodeMeta, arrays: Arrays, per_frame: bool | None = None) -> None:
        """Add the arrays of one episode, whole or not at all; replaces older ones.

        ``per_frame`` records whether those of the episode (view None) have a row per frame.
        Raises ConfigError for a view or a name that is not free.
        """
        layout = {
            view: {
                name: ArraySpec(
                    np.shape(array),
                    np.asarray(array).dtype.newbyteorder("<").str,
                    per_frame=per_frame if view is None else None,
                )
                for name, array in named.items()
            }
            for view, named in arrays.items()
        }
        check_free(base, layout, self.meta.tracks is not None)
        with self.store.begin(base.id, layout, replace=True) as writer:
            for view, named in arrays.items():
                for name, array in named.items():
                    writer.write(view, name, 0, np.asarray(array))
            commit_layer(writer, base)


def check_free(base: EpisodeMeta, layout: Arrays, tracks: bool) -> None:
    """Raise ConfigError for views that are not there and names that are taken."""
    for view, named in layout.items():
        if view is not None and view not in {each.name for each in base.views}:
            raise ConfigError(f"{base.id} has no view {view!r}")
        there = base.arrays if view is None else base.view(view).arrays
        taken = sorted({*named} & {*there} - ({*TRACK_ARRAYS} if tracks else set()))
        if taken:
            raise ConfigError(f"{base.id} has {taken} already; a layer adds, it does not replace")


def commit_layer(writer: EpisodeWriter, base: EpisodeMeta) -> None:
    """Make an episode of a layer exist."""
    found = writer.digests()
    commit: Any = writer.commit
    commit(
        LayerEpisode.seal(
            id=base.id,
            base=base.digest,
            arrays=found.get(None, {}),
            views=tuple(
                LayerView(name=view, arrays=arrays) for view, arrays in found.items() if view
            ),
        )
    )


class Overlay(EpisodeReader):
    """An episode with its layers: an EpisodeReader whose ``meta`` lists the arrays of all."""

    def __init__(self, base: EpisodeReader, layers: Mapping[str, EpisodeReader]) -> None:
        self._base, self._layers = base, layers
        self.path = base.path
        self.meta = base.meta
        self._owner: dict[tuple[str | None, str], EpisodeReader] = {}
        for layer in layers.values():
            self._add(layer)

    @property
    def added(self) -> Collection[tuple[str | None, str]]:
        """The arrays that layers hold: (view, name), None for those of the episode."""
        return self._owner.keys()

    def _add(self, layer: EpisodeReader) -> None:
        added, joined = arrays_by_view(layer.meta), arrays_by_view(self.meta)
        for view, old in joined.items():
            new = added.get(view, {})
            self._owner |= {(view, name): layer for name in new}
            # A layer's tracks replace the others.
            hidden = TRACK_ARRAYS if "tracks" in new else ()
            joined[view] = {key: old[key] for key in old if key not in hidden} | new
        # Copies, not seals: the digest still identifies the episode.
        views = (view.model_copy(update={"arrays": joined[view.name]}) for view in self.meta.views)
        changes: dict[str, Any] = {"arrays": joined[None], "views": tuple(views)}
        tracks = [own["tracks"] for view, own in added.items() if view and "tracks" in own]
        if tracks:
            changes["horizon"] = tracks[0].shape[1]
        self.meta = self.meta.model_copy(update=changes)

    def array(self, view: str | None, name: str) -> Any:
        """Return an array of the base or of a layer; raises KeyError naming what there is."""
        there = self.meta.arrays if view is None else self.meta.view(view).arrays
        if name not in there:
            raise KeyError(f"no array {name!r} in {self.meta.id}; it has {sorted(there)}")
        return self._owner.get((view, name), self._base).array(view, name)

    def stored_bytes(self, view: str | None, name: str) -> Iterator[bytes]:
        """Yield the bytes that the array's digest is taken over."""
        return self._owner.get((view, name), self._base).stored_bytes(view, name)

    def problems(self) -> list[str]:
        """List what disagrees, in the base and in the layers."""
        return [text for each in (self._base, *self._layers.values()) for text in each.problems()]

    def close(self) -> None:
        """Release files."""
        for reader in (self._base, *self._layers.values()):
            reader.close()


def open_overlay(
    base: EpisodeReader,
    dataset: Path,
    layers: Mapping[str, LayerMeta],
    readers: ReaderCache | None = None,
    open_file: Callable[[Store, str], EpisodeReader] = lambda store, key: store.open(key),
) -> EpisodeReader:
    """Lay layers over an open episode; ``open_file`` opens one of a layer's store.

    Raises DatasetError naming what is missing or stale.
    """
    found: dict[str, EpisodeReader] = {}
    readers = readers or ReaderCache()
    for name in layers:
        open_new = partial(open_file, layer_store(dataset, name))
        found[name] = reader = readers.open(open_new, base.meta.id, name)
        if stale(reader, base.meta):
            raise DatasetError(
                f"{dataset}: layer {name!r} of {base.meta.id!r} is stale: it was made for another "
                "state of the episode; make it again"
            )
    overlay = Overlay(base, found)
    for meta in layers.values():
        if meta.tracks is not None:
            whole = meta.tracks.mode == "episode"
            every = overlay.meta.length if whole else meta.tracks.start_every
            changes = {"mode": meta.tracks.mode, "start_every": every, "still": None}
            overlay.meta = overlay.meta.model_copy(update=changes)
    return overlay
