"""Datasets on object stores: the index is fetched on opening, an episode when it is first used.

The local cache is a dataset folder like any other and is read as one.
"""

import errno
import hashlib
import os
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from builder.core.errors import (
    ConfigError,
    DatasetError,
    LettersetError,
    MissingExtraError,
    OutputError,
)
from builder.core.records import parse_record
from builder.dataset.episodes import MAX_OPEN_EPISODES, Dataset
from builder.dataset.folder import META_NAME
from builder.dataset.layers import FOLDER as LAYERS
from builder.dataset.layers import META_NAME as LAYER_META
from builder.dataset.layers import layer_store
from builder.stores.atomic import (
    leftovers,
    make_folders,
    output_errors,
    publish_text,
    stage,
    try_lock,
)
from builder.stores.base import EpisodeReader, Store, stores_found
from schemas.dataset import DatasetMeta, EpisodeId
from schemas.layers import LayerMeta

# Fetched again at every opening: folders and the suffix of their files.
_LISTS = {"index": ".jsonl", "failures": ".jsonl", "splits": ".json"}

_THREADS = 16
_SAFE_PATH: TypeAdapter[str] = TypeAdapter(EpisodeId)

# Errors of the local disk; any other comes from the remote side.
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)


class RemoteFolder:
    """Files below ``url``, by relative path.  Small to pickle, safe to fork: keeps no connection.

    Every method raises DatasetError naming the URL when the remote side fails, ConfigError for a
    URL that fsspec does not support and MissingExtraError without the package it needs.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url, self.options = url.rstrip("/"), dict(options or {})

    def read(self, relative: str) -> bytes | None:
        """Return what a small file holds; None when it is not there."""
        with self._opened(relative) as (files, path):
            try:
                found: bytes = files.cat_file(path)
            except FileNotFoundError:
                return None
            return found

    def has_folder(self, relative: str) -> bool:
        """Tell whether a folder is there and not empty."""
        with self._opened(relative) as (files, path):
            return bool(files.isdir(path))

    def folders(self, relative: str) -> list[str]:
        """List the names of the folders in a folder, sorted; empty when it is not there."""
        with self._opened(relative) as (files, path):
            try:
                found = files.ls(path, detail=True)
            except FileNotFoundError:
                return []
        there = [each["name"].rstrip("/") for each in found if each["type"] == "directory"]
        names = sorted(each.rpartition("/")[2] for each in there)
        self._refuse_unsafe(relative, names)
        return names

    def sizes(self, relative: str, depth: int | None = None) -> dict[str, int]:
        """List the files in a folder, or a file, by path relative to it ("" is a file itself)."""
        with self._opened(relative) as (files, start):
            try:
                facts = files.info(start)
            except FileNotFoundError:
                return {}
            if facts["type"] == "file":
                return {"": int(facts["size"])}
            found = files.find(start, maxdepth=depth, detail=True)
        sizes = {
            name[len(start) :].removeprefix("/"): int(facts["size"])
            for name, facts in found.items()
            if name.startswith(f"{start}/") and not name.endswith("/")
        }
        self._refuse_unsafe(relative, sizes)
        return sizes

    def fetch(self, relative: str, target: Path, sizes: Mapping[str, int]) -> None:
        """Fetch the files that ``sizes`` lists, durably, to ``target`` or to their paths below it.

        Raises DatasetError when one comes with another size, OutputError for a full disk.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            jobs = [
                pool.submit(self._fetch, f"{relative}/{name}".rstrip("/"), target / name, size)
                for name, size in sizes.items()
            ]
            for job in jobs:
                job.result()

    def _fetch(self, relative: str, target: Path, size: int) -> None:
        with output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with self._opened(relative) as (files, path):
            try:
                files.get_file(path, str(target))
            except OSError as error:
                if error.errno not in _LOCAL:
                    raise
                with output_errors(target):
                    raise
        with output_errors(target), target.open("rb") as file:
            os.fsync(file.fileno())
            got = os.fstat(file.fileno()).st_size
        if got != size:
            raise DatasetError(
                f"{self.url}/{relative} was not fetched whole: got {got} of {size} bytes; try again"
            )

    def _refuse_unsafe(self, relative: str, names: Iterable[str]) -> None:
        for name in names:
            try:
                _SAFE_PATH.validate_python(name)
            except ValidationError:
                where = f"{self.url}/{relative}"
                raise DatasetError(f"{where} lists {name!r}, a path that leaves it") from None

    def _connect(self) -> tuple[Any, str]:
        """Return the file system, which fsspec keeps for each process, and our root in it."""
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError:
            raise MissingExtraError("fsspec", "remote") from None
        try:
            files, root = url_to_fs(self.url, **self.options)
        except (ImportError, ValueError, TypeError) as error:
            if isinstance(error, ImportError) and self.url.startswith(("s3://", "s3a://")):
                raise MissingExtraError("s3fs", "remote") from None
            raise ConfigError(f"cannot read {self.url}: {error}") from None
        # Cached listings and sizes may be out of date.
        files.invalidate_cache()
        return files, root.rstrip("/")

    @contextmanager
    def _opened(self, relative: str) -> Iterator[tuple[Any, str]]:
        """Yield the file system and a path in it; its errors become DatasetErrors with the URL."""
        files, root = self._connect()
        try:
            yield files, f"{root}/{relative}"
        except LettersetError:
            raise
        except Exception as error:  # each kind of store has its own errors, of no common base
            raise DatasetError(
                f"cannot read {self.url}/{relative}: {type(error).__name__}: {error}; check the "
                "URL, the credentials and the network"
            ) from error


class RemoteDataset(Dataset):
    """A dataset at a URL, read through a local cache of whole episodes.

    ``path`` is the folder of this dataset in the cache.  An episode is fetched when it is first
    opened, under a temporary name, and counts when its size and its digest are those that are
    listed; one that was replaced at the URL since is fetched again.  With ``cache_bytes``, those
    used longest ago are deleted, except what any process has open; what is open may exceed it.
    """

    def __init__(
        self,
        url: str,
        max_open: int = MAX_OPEN_EPISODES,
        tracks: str | None = None,
        layers: Sequence[str] = (),
        cache: Path | str | None = None,
        cache_bytes: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Open it; ``folder`` is given when its index has just been fetched.

        Raises ConfigError for a bad URL or size, MissingExtraError, DatasetError when the URL
        cannot be read or holds no dataset, OutputError for the cache and for a newer format.
        """
        if cache_bytes is not None and cache_bytes < 1:
            raise ConfigError(f"cache_bytes must be at least 1, got {cache_bytes}")
        self.url, self.cache_bytes = url, cache_bytes
        self._remote = RemoteFolder(url, storage_options)
        folder = folder or fetch_lists(self._remote, Path(cache) if cache else default_cache())
        super().__init__(folder, max_open, tracks, layers)

    def _opened_with(self, tracks: str | None, layers: Sequence[str]) -> tuple[Any, ...]:
        options = (self.cache_bytes, self._remote.options)
        return self.url, self.max_open, tracks, layers, None, *options, self.path

    def fetched(self, path: Path) -> Path:
        """Fetch a file of the dataset that is not an episode's, if it is there."""
        relative = path.relative_to(self.path).as_posix()
        if sizes := self._remote.sizes(relative):
            self._fetch(relative, path, sizes)
        return path

    def _reader(self, episode_id: str) -> EpisodeReader:
        paths = [store.path(episode_id) for store in self._stores()]
        known = [store.has(episode_id) for store in self._stores()]
        for path in (path for path, there in zip(paths, known, strict=True) if not there):
            self._fetch_episode(path, replace=False)
        try:
            reader = self._held(episode_id, paths)
        except DatasetError:
            if not any(known):
                raise
            # The cached files are damaged, or older or newer than the index.
            for path in paths:
                self._fetch_episode(path, replace=True)
            reader = self._held(episode_id, paths)
        if self.cache_bytes is not None:
            self._make_room(self.cache_bytes)
        return reader

    def _stores(self) -> list[Store]:
        return [self.store, *(layer_store(self.path, name) for name in self.layers)]

    def _held(self, episode_id: str, paths: list[Path]) -> EpisodeReader:
        """Open an episode and lock it against deletion by any process while it is open."""
        try:
            with ExitStack() as held:
                for path in paths:
                    held.callback(os.close, descriptor := os.open(path, os.O_RDONLY))
                    if try_lock(descriptor, shared=True) is False:
                        raise DatasetError(f"{path} is being deleted by another process")
                    os.utime(path)
                reader = super()._reader(episode_id)
                weakref.finalize(reader, held.pop_all().close)
        except OSError as error:
            raise DatasetError(f"cannot read {error.filename}: {error.strerror}") from None
        return reader

    def _fetch_episode(self, path: Path, replace: bool) -> None:
        relative = path.relative_to(self.path).as_posix()
        sizes = self._remote.sizes(relative)
        if not sizes:
            raise DatasetError(
                f"{self.url}/{relative} is missing, though the index lists it; run letterset "
                "repair on that dataset"
            )
        self._fetch(relative, path, sizes, replace)

    def _fetch(
        self, relative: str, path: Path, sizes: Mapping[str, int], replace: bool = True
    ) -> None:
        """Fetch a file or a folder, whole or not at all; what is there already may be kept."""
        try:
            with stage(self.path / "tmp", ".fetch") as staged:
                # Not to the staged file itself: it is locked, and would be for a moment after.
                self._remote.fetch(relative, staged.folder, sizes)
                staged.publish_folder(path, replace=replace)
        except OutputError:
            if replace or not path.exists():
                raise  # else another process was faster, and may read it by now

    def _make_room(self, limit: int) -> None:
        """Delete the least recently used episodes until the others fit in ``limit`` bytes."""
        paths = (store.path(key) for store in self._stores() for key in store.ids())
        sizes = {path: _size(path) for path in paths}
        total = sum(size for size, _ in sizes.values())
        for path, (size, _) in sorted(sizes.items(), key=lambda item: item[1][1]):
            if total <= limit:
                return
            if self._delete(path):
                total -= size

    def _delete(self, path: Path) -> bool:
        """Delete a cached episode unless a process has it open; tells whether it is gone."""
        with output_errors(path):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # another process was faster
                return True
            try:
                if try_lock(descriptor) is not True:
                    return False
                with stage(self.path / "tmp", ".evict") as staged:
                    os.rename(path, staged.folder)
            finally:
                os.close(descriptor)
        return True


def default_cache() -> Path:
    """Return the folder for what is fetched: ``letterset`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "letterset"


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
    key = hashlib.sha256(f"{remote.url}\0{meta.digest}".encode()).hexdigest()[:16]
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", remote.url.rpartition("/")[2])[:40]
    folder = cache / f"{slug}-{key}"
    leftovers(folder / "tmp", remove=True)
    publish_text(folder, folder / META_NAME, text.decode(), replace=True)
    for name, suffix in _LISTS.items():
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
    sizes = {key: size for key, size in remote.sizes(name, 1).items() if key.endswith(suffix)}
    with stage(folder / "tmp", ".fetch") as staged:
        remote.fetch(name, staged.folder, sizes)
        with output_errors(folder / name):
            make_folders(folder / name)
            for key in sizes:
                os.replace(staged.folder / key, folder / name / key)
            for path in (folder / name).glob(f"*{suffix}"):
                if path.name not in sizes:
                    path.unlink(missing_ok=True)


def _size(path: Path) -> tuple[int, float]:
    """Return the bytes of a file, or of the files below a folder, and when it was last used."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    try:
        found = [each.stat() for each in files]
    except FileNotFoundError:  # another process deleted it just now
        return 0, 0.0
    return sum(status.st_size for status in found), found[0].st_mtime
