"""A folder at a URL that fsspec supports: listing it and fetching its files."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from builder.core.errors import ConfigError, DatasetError, LettersetError, MissingExtraError
from builder.stores.atomic import output_errors
from schemas.dataset import EpisodeId

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
        scheme = self.url.partition("://")[0]
        try:
            files, root = url_to_fs(self.url, **self.options)
        except ImportError as error:
            if scheme in ("s3", "s3a"):
                raise MissingExtraError("s3fs", "remote") from None
            raise ConfigError(f"cannot read {self.url}: {error}") from None
        except (ValueError, TypeError) as error:
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
