"""Datasets on object stores: the index is fetched on opening, episodes when they are used.

The local cache is a dataset folder like any other and is read as one.
"""

import hashlib
import os
import re
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from builder.core.errors import ConfigError, DatasetError, OutputError, UnreadableError
from builder.core.paths import user_cache, without_passwords
from builder.core.records import parse_record
from builder.dataset.episodes import MAX_OPEN_EPISODES, Dataset
from builder.dataset.fetched_files import FetchedFiles, size_and_use
from builder.dataset.folder import META_NAME
from builder.dataset.index import LISTS
from builder.dataset.layers import FOLDER as LAYERS
from builder.dataset.layers import META_NAME as LAYER_META
from builder.dataset.layers import layer_names, layer_store
from builder.stores.atomic import (
    leftovers,
    make_folders,
    output_errors,
    publish_text,
    stage,
    try_lock,
)
from builder.stores.base import EpisodeReader, Store, stores_found
from builder.stores.ranged import GetRanges, RangedReader, SparseFile
from builder.stores.reading import FileReader
from builder.stores.remote_folder import RemoteFolder, missing
from schemas.dataset import DatasetMeta, EpisodeMeta
from schemas.layers import LayerMeta

_HEADS = "heads"
_THREADS = 32

_SMALL_BYTES = 1 << 20
"""What one request brings in about the time that it takes to be answered."""


class RemoteDataset(Dataset):
    """A dataset at a URL, read through a local cache.  ``path`` is its folder in there.

    An episode is read in one of two ways, chosen when it is first opened:

    by ranges: its head (metadata and small arrays) is kept in the cache, and of the other arrays
    the bytes that are asked for are fetched, each time; once as many as the whole file has were,
    it is fetched whole if ``cache_bytes`` and the disk have room for it.
    whole, if it is small (1 MiB), if its arrays are packed (lz4) or not in HDF5 files, or with
    ``whole_episodes``: fetched into the cache, then read from there.

    What is fetched comes under a temporary name and counts when its size and its digest are those
    that are listed; one that was replaced at the URL since is fetched again.  With ``cache_bytes``,
    those used longest ago are deleted, except what any process has open, which may exceed it.
    """

    far: ClassVar = True

    def __init__(
        self,
        url: str,
        max_open: int = MAX_OPEN_EPISODES,
        tracks: str | None = None,
        layers: Sequence[str] = (),
        cache: Path | str | None = None,
        cache_bytes: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        whole_episodes: bool = False,
        folder: Path | None = None,
    ) -> None:
        """Open it; ``folder`` is given when its index has just been fetched.

        Raises ConfigError for a bad URL or size, MissingExtraError, DatasetError when the URL
        cannot be read or holds no dataset, OutputError for the cache and for a newer format.
        """
        if cache_bytes is not None and cache_bytes < 1:
            raise ConfigError(f"cache_bytes must be at least 1, got {cache_bytes}")
        self.url, self.whole_episodes = url, whole_episodes
        self._remote = RemoteFolder(url, storage_options)
        folder = folder or fetch_lists(self._remote, Path(cache) if cache else user_cache())
        self.fetched_files = FetchedFiles(folder, cache_bytes)
        self._packed = False
        super().__init__(folder, max_open, tracks, layers)

    @property
    def cache_bytes(self) -> int | None:
        """What the cache of this dataset may take."""
        return self.fetched_files.limit

    def _opened_with(self, tracks: str | None, layers: Sequence[str]) -> tuple[Any, ...]:
        options = (self.cache_bytes, self._remote.options, self.whole_episodes)
        return self.url, self.max_open, tracks, layers, None, *options, self.path

    def fetched(self, path: Path) -> Path:
        """Fetch a file of the dataset that is not an episode's, if it is there."""
        relative = self._relative(path)
        if sizes := self._remote.sizes(relative):
            self._fetch(relative, path, sizes)
        return path

    def fetch_changed(self, folder: str, names: Collection[str] | None = None) -> None:
        """Fetch those files of a folder, or those of ``names``, that have another size here."""
        for name, size in self._remote.sizes(folder).items():
            path = self.path / folder / name
            if name and (names is None or name in names) and size_and_use(path)[0] != size:
                self._fetch(f"{folder}/{name}", path, {"": size})

    def fetch_ahead(self, ids: Iterable[str]) -> None:
        """Fetch what opening these episodes needs, at once.  What fails is told on opening."""
        wanted = [
            (store, key)
            for key in dict.fromkeys(ids)
            if self._open.get(key) is None
            for store in self._stores()
            if not self._here(store, key).exists()
        ]
        if wanted:
            self._remote.connect()  # once, not in each thread
            with ThreadPoolExecutor(_THREADS) as pool:
                jobs = [pool.submit(self._bring, store, key) for store, key in wanted]
            for job in jobs:
                if not isinstance(error := job.exception(), DatasetError | None):
                    raise error

    def _reader(self, episode_id: str) -> EpisodeReader:
        stores = self._stores()
        known = [self._here(store, episode_id).exists() for store in stores]
        for store in (store for store, there in zip(stores, known, strict=True) if not there):
            self._bring(store, episode_id)
        try:
            reader = self._held(episode_id)
        except UnreadableError:
            raise
        except DatasetError:
            if not any(known):
                raise
            # The cached files are damaged, or older or newer than the index.
            for store in stores:
                self._bring(store, episode_id, replace=True)
            reader = self._held(episode_id)
        self._make_room()
        return reader

    def _stores(self) -> list[Store]:
        return [self.store, *(layer_store(self.path, name) for name in self.layers)]

    def _open_file(self, store: Store, episode_id: str) -> EpisodeReader:
        if self._whole_is_here(store, episode_id):
            return store.open(episode_id)
        record = getattr(store, "record", EpisodeMeta)
        far = _FarEpisode(self, store, episode_id)
        return RangedReader(self._here(store, episode_id), episode_id, record, far)

    def _whole_is_here(self, store: Store, episode_id: str) -> bool:
        return not self._has_heads(store) or store.has(episode_id)

    def _has_heads(self, store: Store) -> bool:
        return not (self.whole_episodes or self._packed) and hasattr(store, "head")

    def _here(self, store: Store, episode_id: str) -> Path:
        """Return where an episode's file is in the cache, or else its head, there or not."""
        path = store.path(episode_id)
        if self._whole_is_here(store, episode_id):
            return path
        return self.path / _HEADS / self._relative(path)

    def _held(self, episode_id: str) -> EpisodeReader:
        """Open an episode and lock it against deletion by any process while it is open."""
        try:
            with ExitStack() as held:
                for store in self._stores():
                    _hold(held, self._here(store, episode_id))
                reader = super()._reader(episode_id)
                weakref.finalize(reader, held.pop_all().close)
        except OSError as error:
            raise DatasetError(f"cannot read {error.filename}: {error.strerror}") from None
        return reader

    def _bring(self, store: Store, episode_id: str, replace: bool = False) -> None:
        """Fetch an episode whole, or its head, unless another process has by now."""
        path = store.path(episode_id)
        relative = self._relative(path)
        with self.fetched_files.only_here(path):
            if not replace and self._here(store, episode_id).exists():
                return
            sizes = self._remote.sizes(relative)
            if not sizes:
                raise DatasetError(missing(f"{self.url}/{relative}"))
            size = sizes.get("", 0)
            if size > _SMALL_BYTES and self._has_heads(store):
                file: Any = SparseFile(self._remote.ranges, relative, size)
                ranged: Any = store
                if (head := ranged.head(file, f"{self.url}/{relative}")) is not None:
                    path.unlink(missing_ok=True)  # what is replaced
                    self._publish(self.path / _HEADS / relative, head.to_bytes())
                    return
                self._packed = True  # and so are the others
            self._fetch(relative, path, sizes, replace)

    def _publish(self, path: Path, data: bytes) -> None:
        with stage(self.path / "tmp", ".fetch") as staged, output_errors(path):
            staged.folder.write_bytes(data)
            staged.publish_folder(path, replace=True)
        self.fetched_files.add(path)

    def _fetch(
        self, relative: str, path: Path, sizes: Mapping[str, int], replace: bool = True
    ) -> None:
        """Fetch a file or a folder, whole or not at all; what is there already may be kept."""
        try:
            with stage(self.path / "tmp", ".fetch") as staged:
                self._remote.fetch(relative, staged.folder, sizes)
                staged.publish_folder(path, replace=replace)
        except OutputError:
            if replace or not path.exists():
                raise  # else another process was faster, and may read it by now
        self.fetched_files.add(path)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _make_room(self) -> None:
        heads = (path for path in (self.path / _HEADS).rglob("*") if path.is_file())
        whole = (store.path(key) for store in self._stores() for key in store.ids())
        self.fetched_files.make_room(chain(whole, heads))


class _FarEpisode:
    """The file of one episode at the URL of a dataset; see :class:`FarFile`."""

    def __init__(self, dataset: RemoteDataset, store: Store, episode_id: str) -> None:
        self._dataset, self._store, self._id = dataset, store, episode_id
        self._path = store.path(episode_id)
        self.name = dataset._relative(self._path)

    @property
    def get(self) -> GetRanges:
        """What fetches ranges of the dataset's files."""
        return self._dataset._remote.ranges

    def whole(self) -> FileReader:
        """Fetch the file, unless it is here, and open it.  Raises DatasetError, OutputError."""
        data = self._dataset
        with data.fetched_files.only_here(self._path), ExitStack() as held:
            if not self._store.has(self._id):
                data._fetch(self.name, self._path, data._remote.sizes(self.name), replace=False)
            _hold(held, self._path)
            reader: Any = self._store.open(self._id)
            weakref.finalize(reader, held.pop_all().close)
        return reader

    def used(self, count: int, size: int) -> FileReader | None:
        """Count bytes; once they are as many as the file has, it is fetched if there is room."""
        if self._dataset.fetched_files.pays(self._path, count, size):
            # The sample has come already: what fails now is tried again later.
            with suppress(DatasetError, OutputError):
                return self.whole()
        return None


def _hold(held: ExitStack, path: Path) -> None:
    """Lock a file against deletion by any process until ``held`` is closed."""
    held.callback(os.close, descriptor := os.open(path, os.O_RDONLY))
    if try_lock(descriptor, shared=True) is False:
        raise DatasetError(f"{path} is being deleted by another process")
    os.utime(path)


def fetch_copy(
    url: str,
    wanted: Callable[[tuple[str, ...]], Sequence[str]],
    show: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Fetch a dataset into the cache: episodes, layers and tables; returns its folder there.

    ``wanted`` chooses of all ids, ``show`` is told how many of them are done.  What cannot be
    fetched is missing in the folder.  Raises DatasetError when the URL cannot be read.
    """
    dataset = RemoteDataset(url, max_open=1, whole_episodes=True)
    for key in {*dataset.store.ids()} - {*dataset.ids}:
        dataset.fetched_files.delete(dataset.store.path(key))
    ids = wanted(dataset.ids)
    for at in range(0, len(ids), _THREADS):
        some = ids[at : at + _THREADS]
        dataset.fetch_ahead(some)
        for key in some:
            with suppress(DatasetError):  # fetched again if it is not what is listed
                dataset[key]
        show(at + len(some), len(ids))
    for folder in (f"{LAYERS}/{name}" for name in layer_names(dataset.path)):
        dataset.fetch_changed(folder, {f"{key}.hdf5" for key in ids})
    dataset.fetch_changed("stats")
    return dataset.path


def fetch_lists(remote: RemoteFolder, cache: Path) -> Path:
    """Fetch everything but the episodes; returns the dataset's folder in the cache.

    Another dataset at the same URL gets another folder.  Raises DatasetError, OutputError.
    """
    text = remote.read(META_NAME)
    if text is None:
        raise DatasetError(
            f"{remote.url} is no letterset dataset, or there is no such bucket: it has no "
            f"{META_NAME}; expected a folder that letterset build wrote"
        )
    meta = parse_record(DatasetMeta, text, f"{remote.url}/{META_NAME}")
    if META_NAME not in remote.sizes("", depth=1):
        raise DatasetError(
            f"{remote.url} holds a dataset, but its server does not list what is in a folder, so "
            f"episodes cannot be found: serve it from an object store (s3:// and others), or copy "
            f"it here"
        )
    key = hashlib.sha256(f"{remote.url}\0{meta.digest}".encode()).hexdigest()[:16]
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", without_passwords(remote.url).rpartition("/")[2])[:40]
    folder = cache / f"{slug}-{key}"
    leftovers(folder / "tmp", remove=True)
    publish_text(folder, folder / META_NAME, text.decode(), replace=True)
    for name, suffix in LISTS.items():
        _fetch_list(remote, folder, name, suffix)
    for name in remote.folders(LAYERS):
        relative = f"{LAYERS}/{name}/{LAYER_META}"
        if (layer := remote.read(relative)) is not None:
            parse_record(LayerMeta, layer, f"{remote.url}/{relative}")
            publish_text(folder, folder / relative, layer.decode(), replace=True)
    for place in stores_found(remote.has_folder)[0].values():
        with output_errors(folder):
            make_folders(folder / place)
    return folder


def _fetch_list(remote: RemoteFolder, folder: Path, name: str, suffix: str) -> None:
    """Make the files of a flat folder equal to the remote ones, each in one step."""
    with stage(folder / "tmp", ".fetch") as staged:
        found = remote.fetch_flat(name, suffix, staged.folder)
        with output_errors(folder / name):
            make_folders(folder / name)
            for key, each in found.items():
                os.replace(staged.folder / key, folder / name / key)
                if modified := each.modified:  # which tells whether a build goes on
                    os.utime(folder / name / key, (modified, modified))
            for path in (folder / name).glob(f"*{suffix}"):
                if path.name not in found:
                    path.unlink(missing_ok=True)
