"""Reading a dataset: episodes by id, their views, and arrays that load when touched."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from builder.catalog import META_NAME, load_meta, read_index
from builder.episode_index import EpisodeIndex
from builder.errors import ConfigError, DatasetError
from builder.layers import load_layer
from builder.overlay import open_overlay, with_tracks
from builder.registry import backend, kinds
from builder.status import is_locked
from builder.stores.base import EpisodeReader, Store
from builder.stores.recall import Recall
from schemas.dataset import DatasetMeta, EpisodeMeta, ViewMeta
from schemas.geometry import Geometry
from schemas.layers import LayerMeta

MAX_OPEN_EPISODES = 64


def open_dataset(
    path: Path | str,
    img_shape: tuple[int, int] | None = None,
    *,
    max_open: int = MAX_OPEN_EPISODES,
    tracks: str | None = None,
    layers: Sequence[str] = (),
    cache: Path | str | None = None,
    cache_bytes: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **legacy: Any,
) -> Dataset:
    """Open a dataset folder for reading; at most ``max_open`` episode files stay open.

    ``path`` may be a URL that fsspec knows, such as ``s3://bucket/dataset``: episodes are copied
    whole to the folder ``cache`` when they are first used, which stays below ``cache_bytes`` if
    that is given; see ``builder.remote.RemoteDataset``.  ``storage_options`` go to fsspec.

    ``tracks`` names a layer whose tracks take the place of the dataset's own; the arrays of
    ``layers`` are added to those of the episodes and views.

    A folder of older AMPLIFY- or ATM-layout files opens too: it needs ``img_shape`` (H, W), the
    training configuration's, and takes the options of ``builder.legacy.dataset.open_legacy``.

    Raises DatasetError when the folder is no dataset or is damaged, NewerFormatError when
    a newer letterset made it.
    """
    if isinstance(path, str) and "://" in path:
        if img_shape is not None or legacy:
            raise ConfigError(f"{path}: folders of older files are read from a local disk only")
        from builder.remote import RemoteDataset

        return RemoteDataset(path, max_open, tracks, layers, cache, cache_bytes, storage_options)
    if cache is not None or cache_bytes is not None or storage_options is not None:
        raise ConfigError(f"{path} is no URL: cache and storage_options are for URLs, s3://...")
    path = Path(path)
    if img_shape is None and not legacy:
        return Dataset(path, max_open, tracks, layers)
    if (path / META_NAME).exists():
        raise ConfigError(
            f"{path} records its own img_shape; {', '.join(['img_shape', *legacy])} are for older "
            "folders. Give another img_shape to WindowDataset"
        )
    from builder.legacy.dataset import open_legacy

    if img_shape is None:
        raise ConfigError(f"{path}: older files do not record img_shape, give img_shape=(H, W)")
    return open_legacy(path, img_shape, max_open=max_open, **legacy)


def store_at(path: Path) -> Store:
    """Return the store that keeps the episodes of the dataset folder ``path``.

    It is known by the folder it keeps them in; without one they will be HDF5 files.  Raises
    DatasetError when there are several.
    """
    found = {kind: backend("stores", kind) for kind in kinds("stores")}
    there = [kind for kind, stored in found.items() if (path / stored.place).is_dir()]
    if len(there) > 1:
        raise DatasetError(
            f"{path} holds episodes of several stores, {', '.join(there)}: move one of "
            f"{', '.join(found[kind].place for kind in there)} away and run letterset repair"
        )
    store: Store = found[there[0] if there else "hdf5"](path)
    return store


class ViewData:
    """One camera of one episode; arrays are read when touched."""

    def __init__(self, meta: ViewMeta, reader: EpisodeReader) -> None:
        self.meta, self._reader = meta, reader

    @property
    def name(self) -> str:
        """The view's name."""
        return self.meta.name

    @property
    def geometry(self) -> Geometry:
        """How source pixels and img pixels of this view correspond."""
        return self.meta.geometry

    def array(self, name: str) -> Any:
        """Return a stored array by name; raises KeyError naming what there is."""
        return self._reader.array(self.meta.name, name)

    @property
    def frames(self) -> Any:
        """Letterboxed frames (T, H, W, 3) uint8 RGB, or None when none are stored."""
        return self.array("frames") if "frames" in self.meta.arrays else None

    @property
    def conf(self) -> Any:
        """Confidence (S, horizon, N) float32, or None."""
        return self.array("conf") if "conf" in self.meta.arrays else None

    @property
    def tracks(self) -> Any:
        """Tracks (S, horizon, N, 2) float32, (x, y) img pixels."""
        return self.array("tracks")

    @property
    def vis(self) -> Any:
        """Visibility (S, horizon, N) uint8, 0 or 1."""
        return self.array("vis")

    @property
    def starts(self) -> np.ndarray:
        """Start frame of each window, (S,) int64."""
        return self.array("starts")

    @property
    def queries(self) -> np.ndarray:
        """Query points (N, 2) float32, (x, y) img pixels."""
        return self.array("queries")

    @property
    def timestamps(self) -> np.ndarray:
        """Time of each frame, (T,) float64 seconds."""
        return self.array("timestamps")


class EpisodeData:
    """One episode: ``meta``, ``views`` by name and pass-through ``arrays`` by name."""

    def __init__(self, reader: EpisodeReader) -> None:
        self.reader = reader
        self.meta: EpisodeMeta = reader.meta
        self.views: Mapping[str, ViewData] = {
            view.name: ViewData(view, reader) for view in self.meta.views
        }
        self.arrays: Mapping[str, Any] = _Arrays(reader)

    @property
    def id(self) -> str:
        """The episode's id."""
        return self.meta.id


class _Arrays(Mapping[str, Any]):
    """The pass-through arrays of an episode, read when touched."""

    def __init__(self, reader: EpisodeReader) -> None:
        self._reader = reader

    def __getitem__(self, name: str) -> Any:
        return self._reader.array(None, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.meta.arrays)

    def __len__(self) -> int:
        return len(self._reader.meta.arrays)


class Dataset:
    """A dataset opened for reading: ``dataset[id]`` is an episode, iterating yields all.

    ``meta`` is what all episodes share, ``ids`` are sorted.  Small to pickle: files are opened
    again.  Recently used episode files stay open, at most ``max_open``.
    """

    layers: Mapping[str, LayerMeta] = MappingProxyType({})
    track_layer: str | None = None

    def __init__(
        self,
        path: Path,
        max_open: int = MAX_OPEN_EPISODES,
        tracks: str | None = None,
        layers: Sequence[str] = (),
    ) -> None:
        if max_open < 1:
            raise ValueError(f"max_open must be at least 1, got {max_open}")
        self.path = path
        self.meta: DatasetMeta = load_meta(path)
        self.track_layer = tracks
        self._given = (tracks, tuple(layers))
        names = [*layers, *([tracks] if tracks else [])]
        self.layers = {name: load_layer(path, name) for name in names}
        if tracks:
            own = self.layers[tracks].tracks
            if own is None:
                raise ConfigError(f"{path}: the layer {tracks!r} has no tracks")
            self.meta = with_tracks(self.meta, own)
        self.index: EpisodeIndex = read_index(path)
        self.ids: tuple[str, ...] = self.index.ids
        self.store = store_at(path)
        if not self.ids:
            self._refuse_unlisted()
        self.max_open = max_open
        self._open: OrderedDict[str, EpisodeData] = OrderedDict()
        self._known = Recall()

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), self._opened_with(*self._given)

    def _opened_with(self, tracks: str | None, layers: Sequence[str]) -> tuple[Any, ...]:
        return self.path, self.max_open, tracks, layers

    def with_layers(self, tracks: str | None = None, layers: Sequence[str] = ()) -> Dataset:
        """Return the dataset opened again with these layers, besides those it has.

        Raises DatasetError naming the layers there are, ConfigError for ``tracks`` without any.
        """
        every = tuple(dict.fromkeys([*self._given[1], *layers]))
        return type(self)(*self._opened_with(tracks or self.track_layer, every))

    def _refuse_unlisted(self) -> None:
        """Refuse a lost index; a build at work stores its first episodes before it lists them."""
        writers = [path.stem for path in (self.path / "index").glob("*.lock")]
        count = sum(1 for _ in self.store.ids())
        if count and all(is_locked(self.path, writer) is False for writer in writers):
            raise DatasetError(
                f"{self.path} lists no episodes but {self.store.place}/ holds {count}: run "
                "letterset repair"
            )

    def fetched(self, path: Path) -> Path:
        """Return a file of the folder; where the dataset is elsewhere it is fetched first."""
        return path

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[EpisodeData]:
        return (self[episode_id] for episode_id in self.ids)

    def __contains__(self, episode_id: object) -> bool:
        return episode_id in self.index

    def __getitem__(self, episode_id: str) -> EpisodeData:
        """Open an episode.

        Raises KeyError for an unknown id and DatasetError when its file is missing, damaged or
        not the one that was built.
        """
        if episode_id in self._open:
            self._open.move_to_end(episode_id)
            return self._open[episode_id]
        if episode_id not in self.index:
            raise KeyError(
                f"no episode {episode_id!r} in {self.path}; it has {len(self)}, "
                f"the first is {self.ids[0] if self.ids else 'missing'}"
            )
        self._open[episode_id] = EpisodeData(self._reader(episode_id))
        if len(self._open) > self.max_open:
            # Arrays in use keep their memory map; only this object lets go.
            self._open.popitem(last=False)
        return self._open[episode_id]

    def _reader(self, episode_id: str) -> EpisodeReader:
        try:
            reader: EpisodeReader = self._known.reader(self.store.open, episode_id)
        except DatasetError as error:
            raise DatasetError(
                f"{error}; run letterset repair {self.path}, then build again"
            ) from None
        if reader.meta.digest != self.index[episode_id].digest:
            reader.close()
            raise DatasetError(
                f"{self.path}: episode {episode_id!r} is not the one that is listed in the index; "
                "run letterset repair"
            )
        return open_overlay(reader, self.path, self.layers, self._known) if self.layers else reader
