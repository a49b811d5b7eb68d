"""Episodes and datasets seen through layers, as if what those add were their own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from builder.core.errors import DatasetError
from builder.dataset.layers import TRACK_ARRAYS, layer_store, stale
from builder.stores.base import EpisodeReader
from builder.stores.reader_cache import Recall
from schemas.dataset import ArrayMeta, DatasetMeta, EpisodeMeta
from schemas.layers import LayerEpisode, LayerMeta, TrackSet


class Overlay:
    """An episode with its layers: an EpisodeReader whose ``meta`` lists the arrays of all."""

    def __init__(self, base: EpisodeReader, layers: Mapping[str, EpisodeReader]) -> None:
        self._base, self._layers = base, layers
        self.path = base.path
        self.meta = base.meta
        self._owner: dict[tuple[str | None, str], EpisodeReader] = {}
        for layer in layers.values():
            self.meta = self._merged(self.meta, layer)

    @property
    def added(self) -> Collection[tuple[str | None, str]]:
        """The arrays that layers hold: (view, name), None for those of the episode."""
        return self._owner.keys()

    def _merged(self, meta: EpisodeMeta, layer: EpisodeReader) -> EpisodeMeta:
        record: Any = layer.meta
        changes: dict[str, Any] = {"arrays": self._joined(meta.arrays, record.arrays, None, layer)}
        views = []
        for view in meta.views:
            own = {each.name: each.arrays for each in record.views}.get(view.name, {})
            joined = self._joined(view.arrays, own, view.name, layer)
            # A copy, not a seal: the digest goes on telling which episode this is.
            views.append(view.model_copy(update={"arrays": joined}))
        if any("tracks" in each.arrays for each in record.views):
            changes |= _windows(record)
        return meta.model_copy(update={**changes, "views": tuple(views)})

    def _joined(
        self,
        old: Mapping[str, ArrayMeta],
        new: Mapping[str, ArrayMeta],
        view: str | None,
        layer: EpisodeReader,
    ) -> dict[str, ArrayMeta]:
        self._owner |= {(view, name): layer for name in new}
        hidden = TRACK_ARRAYS if "tracks" in new else ()
        return {**{name: meta for name, meta in old.items() if name not in hidden}, **new}

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


def _windows(record: LayerEpisode) -> dict[str, Any]:
    """Horizon of a layer's tracks, from their shape; the dataset's metadata has the rest."""
    tracks = next(view.arrays["tracks"] for view in record.views if "tracks" in view.arrays)
    return {"horizon": tracks.shape[1]}


def with_tracks(meta: DatasetMeta, tracks: TrackSet) -> DatasetMeta:
    """Describe a dataset as if a layer's tracks were its own."""
    own = {key: getattr(tracks, key) for key in TrackSet.model_fields if key != "frames"}
    return meta.resealed(**own)


def open_overlay(
    base: EpisodeReader,
    dataset: Path,
    layers: Mapping[str, LayerMeta],
    known: Recall | None = None,
) -> EpisodeReader:
    """Lay layers over an open episode.  Raises DatasetError naming what is missing or stale."""
    found: dict[str, EpisodeReader] = {}
    known = known or Recall()
    for name in layers:
        found[name] = reader = known.reader(layer_store(dataset, name).open, base.meta.id, name)
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
            changes = {"mode": meta.tracks.mode, "start_every": every}
            overlay.meta = overlay.meta.model_copy(update=changes)
    return overlay
