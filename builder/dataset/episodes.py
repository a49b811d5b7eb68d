"""Reading a dataset: episodes by id, their views, and arrays that are read when touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from builder.canvas.windows import NONE_SKIPPED, Runs, window_counts
from builder.core import paths
from builder.core.errors import ConfigError, DatasetError, SourceError, UnreadableError
from builder.core.lru_cache import LruCache
from builder.dataset.folder import load_meta, read_index, store_at
from builder.dataset.index import EpisodeIndex
from builder.dataset.layers import load_layer, open_overlay
from builder.dataset.locks import is_locked
from builder.inputs.foreign import announce
from builder.stores.base import EpisodeReader, Store
from builder.stores.reading import ReaderCache
from schemas.dataset import DatasetMeta, EpisodeMeta, ViewMeta
from schemas.geometry import Geometry
from schemas.layers import LayerMeta, TrackSet

MAX_OPEN_EPISODES = 64


SizeOrigin = Literal[
    "recorded", "given", "video", "assumed", "unknown", "relative", "letterbox", "stretch"
]
"""How a tracked size is known: ``relative`` tracks (ATM) need none; ``assumed``: it is not."""


class TrackedSize(NamedTuple):
    """The size (H, W) of the pictures whose pixels tracks count; None where it is not known.

    ``basis`` says in words what it rests on, or why it is not known, where that is no matter of
    course.
    """

    shape: tuple[int, int] | None
    origin: SizeOrigin
    basis: str = ""

    @property
    def is_lacking(self) -> bool:
        """Whether it is needed, to know how far points move, and not known."""
        return self.shape is None and self.origin != "relative"


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

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {each.shape}" for name, each in self.meta.arrays.items())
        size = f"source_shape={self.geometry.source_shape}, img_shape={self.geometry.img_shape}"
        return f"{type(self).__name__}({self.name!r}: {size}; {shapes})"

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

    def tracked_size(self) -> TrackedSize:
        """Return the size (H, W) the tracks are pixels of, and how it is known."""
        if self.meta.source_shape_assumed:
            return TrackedSize(None, "assumed", "img_shape was taken for it")
        return TrackedSize(self.geometry.img_shape, self.geometry.kind)

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


class _Views(dict[str, ViewData]):
    def __missing__(self, name: str) -> ViewData:
        raise KeyError(f"no view {name!r}; there are {[*self]}")


class EpisodeData:
    """One episode: ``meta``, ``views`` by name and pass-through ``arrays`` by name."""

    sealed: ClassVar = True
    """Whether its arrays have digests; those of older files have none."""
    view_type: ClassVar[type[ViewData]] = ViewData

    def __init__(self, reader: EpisodeReader) -> None:
        self.reader = reader
        self.meta: EpisodeMeta = reader.meta
        self.views: Mapping[str, ViewData] = _Views(
            {view.name: self.view_type(view, reader) for view in self.meta.views}
        )
        self.arrays: Mapping[str, Any] = _Arrays(reader)

    def __repr__(self) -> str:
        holds = f"{self.meta.length} frames, views={[*self.views]}, arrays={[*self.arrays]}"
        return f"{type(self).__name__}({self.id!r}: {holds})"

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

    def __contains__(self, name: object) -> bool:
        return name in self._reader.meta.arrays  # the default would read it

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.meta.arrays)

    def __len__(self) -> int:
        return len(self._reader.meta.arrays)


@dataclass(frozen=True)
class EpisodeOpener:
    """Opens episodes in another process: small to pickle, since it leaves the index behind.

    Called with (id, digest), for which the index has to be asked before.
    """

    path: Path
    store: Store
    layers: Mapping[str, LayerMeta]

    def __call__(self, listed: tuple[str, str]) -> EpisodeData:
        """Open an episode.  Raises DatasetError when it is not the one of that digest."""
        episode_id, digest = listed
        announce(self.store.path(episode_id))
        reader = with_advice(self.path, self.store.open, episode_id)
        if reader.meta.digest != digest:
            reader.close()
            raise DatasetError(
                f"{self.path}: episode {episode_id!r} is not the one that is listed in the index; "
                "run letterset repair"
            )
        return EpisodeData(open_overlay(reader, self.path, self.layers) if self.layers else reader)


def with_advice(
    path: Path, open_one: Callable[[str], EpisodeReader], episode_id: str
) -> EpisodeReader:
    """Open an episode of the dataset at ``path``; an error for damage says what to do."""
    try:
        return open_one(episode_id)
    except UnreadableError:
        raise
    except DatasetError as error:
        raise DatasetError(f"{error}; run letterset repair {path}, then build again") from None


class Dataset:
    """A dataset opened for reading: ``dataset[id]`` is an episode, iterating yields all.

    ``meta`` is what all episodes share, ``ids`` are sorted.  Small to pickle: files are opened
    again.  The ``max_open`` most recently used episode files stay open.
    """

    episode_type: ClassVar[type[EpisodeData]] = EpisodeData
    layers: Mapping[str, LayerMeta] = MappingProxyType({})
    track_layer: str | None = None
    far: ClassVar = False
    """Whether it lies at a URL."""
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

    def __repr__(self) -> str:
        meta = self.meta
        tracks = f"tracks of {meta.tracker.name}" if meta.has_tracks else "no tracks"
        layers = f", layers={[*self.layers]}" if self.layers else ""
        return (
            f"{type(self).__name__}({str(self.path)!r}: {len(self)} episodes, img_shape="
            f"{meta.img_shape}, horizon={meta.horizon}, {meta.queries.num_points} points, "
            f"{tracks}{layers})"
        )

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

    @property
    def skipped_windows(self) -> Mapping[int, Runs]:
        """Windows that are not there since nothing moves in them, by the number of the episode.

        Runs of them, (first, how many); those of its own tracks, for a layer leaves none out.
        """
        return NONE_SKIPPED if self.track_layer else self.index.skipped

    @property
    def still_windows(self) -> int:
        """How many windows are not there since nothing moves in them; of all views alike."""
        return sum(count for runs in self.skipped_windows.values() for _, count in runs)

    def window_counts(self) -> np.ndarray:
        """Return how many windows a view has in each episode of the index, (E,) int64."""
        return window_counts(self.meta, self.index.lengths, self.skipped_windows)

    def fetch_ahead(self, ids: Iterable[str]) -> None:
        """Fetch what opening these episodes needs; nothing, unless the dataset lies at a URL."""

    def opener(self) -> EpisodeOpener:
        """Return what opens its episodes in another process."""
        return EpisodeOpener(self.path, self.store, dict(self.layers))

    def listed(self) -> list[tuple[str, str]]:
        """Return id and digest of each episode, in order, for :meth:`opener`."""
        digests = (digest.tobytes().hex() for digest in self.index.digests)
        return list(zip(self.ids, digests, strict=True))

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

    def find(self, wanted: str) -> str:
        """Return the id of an episode by its id, its unique beginning, or the path of its source.

        Raises ConfigError listing what may be meant.
        """
        parts = PurePath(wanted).parts
        tails = (PurePath(*parts[at:]) for at in range(len(parts)))  # relative to any folder
        for key in (wanted, *map(paths.episode_id, tails)):
            if key in self.index:
                return key
        found = [key for key in self.ids if key.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        some = f"it has {len(self)}, the first is {self.ids[0]}" if self.ids else "it has none"
        if found:
            some = f"{len(found)} begin with it: {', '.join(found[:3])}"
        raise ConfigError(f"no episode {wanted!r} in {self.path}; {some}")

    def _reader(self, episode_id: str) -> EpisodeReader:
        open_new = partial(self._readers.open, partial(self._open_file, self.store))
        reader = with_advice(self.path, open_new, episode_id)
        if reader.meta.digest != self.index[episode_id].digest:
            reader.close()
            now = read_index(self.path).get(episode_id)
            if now is not None and now.digest == reader.meta.digest:
                what, todo = "was replaced since the dataset was opened", "open it again"
            else:
                what, todo = "is not the one that is listed in the index", "run letterset repair"
            raise DatasetError(f"{self.path}: episode {episode_id!r} {what}; {todo}")
        if not self.layers:
            return reader
        return open_overlay(reader, self.path, self.layers, self._readers, self._open_file)

    def _open_file(self, store: Store, episode_id: str) -> EpisodeReader:
        try:
            announce(store.path(episode_id))
        except SourceError as error:  # it ended a process that read it
            raise UnreadableError(str(error)) from None
        return store.open(episode_id)
