"""Reading a dataset: episodes by id, their views, and arrays that are read when touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from builder.core.errors import ConfigError, DatasetError
from builder.core.lru_cache import LruCache
from builder.dataset.folder import is_locked, load_meta, read_index, store_at
from builder.dataset.index import EpisodeIndex
from builder.dataset.layers import load_layer, open_overlay
from builder.stores.base import EpisodeReader
from builder.stores.reading import ReaderCache
from schemas.dataset import DatasetMeta, EpisodeMeta, ViewMeta
from schemas.geometry import Geometry
from schemas.layers import LayerMeta, TrackSet

MAX_OPEN_EPISODES = 64


SizeOrigin = Literal["recorded", "estimated", "unknown", "relative", "letterbox", "stretch"]
"""How a tracked size is known: ``relative`` tracks (ATM) need none."""


class OlderTracks(Protocol):
    """Tracks of the older route: nobody checked them, and they are clipped when normalized."""

    stored: Any
    """As stored, (S, horizon, N, 2) (x, y)."""
    scale_xy: tuple[float, float]

    @property
    def only_scaled(self) -> bool:
        """Tell whether ``stored`` times ``scale_xy``, in float32, is what the tracks are."""

    def check_finite(self, numbers: np.ndarray, name: str = "tracks") -> None:
        """Raise DatasetError, naming the file, for NaN and infinity in what was read of it."""


class ViewData:
    """One view (camera) of one episode; arrays are read when touched."""

    def __init__(self, meta: ViewMeta, reader: EpisodeReader) -> None:
        self.meta, self._reader = meta, reader

    @property
    def name(self) -> str:
        """The view's name."""
        return self.meta.name

    @property
    def geometry(self) -> Geometry:
        """The map between source pixels and img pixels of this view."""
        return self.meta.geometry

    def array(self, name: str) -> Any:
        """Return a stored array by name; raises KeyError naming what there is."""
        return self._reader.array(self.meta.name, name)

    @property
    def older_tracks(self) -> OlderTracks | None:
        """The tracks, when they are of the older route."""
        return None

    def tracked_size(self) -> tuple[tuple[int, int] | None, SizeOrigin]:
        """Return the size (H, W) the tracks are pixels of, and how it is known."""
        return self.geometry.img_shape, self.geometry.kind

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

    sealed: ClassVar = True
    """Whether its arrays have digests; those of older files have none."""
    view_type: ClassVar[type[ViewData]] = ViewData

    def __init__(self, reader: EpisodeReader) -> None:
        self.reader = reader
        self.meta: EpisodeMeta = reader.meta
        self.views: Mapping[str, ViewData] = {
            view.name: self.view_type(view, reader) for view in self.meta.views
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
    again.  The ``max_open`` most recently used episode files stay open.
    """

    episode_type: ClassVar[type[EpisodeData]] = EpisodeData
    layers: Mapping[str, LayerMeta] = MappingProxyType({})
    track_layer: str | None = None
    problems: Mapping[str, str] = MappingProxyType({})
    """Older files that were left out, by relative path."""

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
            fields = (key for key in TrackSet.model_fields if key != "frames")
            self.meta = self.meta.resealed(**{key: getattr(own, key) for key in fields})
        self.index: EpisodeIndex = read_index(path)
        self.ids: tuple[str, ...] = self.index.ids
        self.store = store_at(path)
        if not self.ids:
            self._refuse_unlisted()
        self.max_open = max_open
        # Arrays in use keep the memory map of an evicted episode.
        self._open = LruCache[str, EpisodeData](max_open)
        self._readers = ReaderCache()

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), self._opened_with(*self._given)

    def _opened_with(self, tracks: str | None, layers: Sequence[str]) -> tuple[Any, ...]:
        return self.path, self.max_open, tracks, layers

    def with_layers(self, tracks: str | None = None, layers: Sequence[str] = ()) -> Dataset:
        """Return the dataset opened again with these layers in addition to those it has.

        Raises DatasetError naming the layers there are, ConfigError when ``tracks`` has no tracks.
        """
        every = tuple(dict.fromkeys([*self._given[1], *layers]))
        return type(self)(*self._opened_with(tracks or self.track_layer, every))

    def with_img_shape(self, img_shape: tuple[int, int]) -> Dataset:
        """Return the dataset as it is read for training with ``img_shape`` (H, W).

        That is the dataset itself: its geometry maps its tracks to any canvas.
        """
        return self

    def _refuse_unlisted(self) -> None:
        """Refuse episodes without an index, unless a build is at work that has yet to list them."""
        writers = [path.stem for path in (self.path / "index").glob("*.lock")]
        count = sum(1 for _ in self.store.ids())
        if count and all(is_locked(self.path, writer) is False for writer in writers):
            raise DatasetError(
                f"{self.path}: the index lists no episodes, but {self.store.place}/ holds {count}: "
                "run letterset repair"
            )

    def fetched(self, path: Path) -> Path:
        """Return a file of the folder; a remote dataset fetches it first."""
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
        if (episode := self._open.get(episode_id)) is not None:
            return episode
        if episode_id not in self.index:
            raise KeyError(
                f"no episode {episode_id!r} in {self.path}; it has {len(self)}, "
                f"the first is {self.ids[0] if self.ids else 'missing'}"
            )
        self._open[episode_id] = episode = self.episode_type(self._reader(episode_id))
        return episode

    def _reader(self, episode_id: str) -> EpisodeReader:
        try:
            reader: EpisodeReader = self._readers.open(self.store.open, episode_id)
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
        if not self.layers:
            return reader
        return open_overlay(reader, self.path, self.layers, self._readers)
