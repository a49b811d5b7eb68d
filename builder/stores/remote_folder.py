"""Files below a URL, through fsspec: listed, fetched whole or by ranges of bytes, or put there."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from builder.core.errors import (
    ConfigError,
    DatasetError,
    LettersetError,
    MissingExtraError,
    OutputError,
    UnreadableError,
)
from builder.stores.atomic import output_errors
from builder.stores.ranged import Range
from schemas.dataset import EpisodeId

_THREADS = 16
_SAFE_PATH: TypeAdapter[str] = TypeAdapter(EpisodeId)

# Errors of the local disk; any other comes from the remote side.
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)

_CONNECTIONS = 64
"""Of S3 at a time; its own default of 10 would let each request of a batch wait for others."""

_GAP_BYTES = 4096
"""Ranges of one file this close to each other are fetched as one."""

_PART_BYTES, _PARTS = 8 << 20, 4
"""Of a file on S3, on its way: how large the parts are, and how many are held at a time."""

_LONGEST_TEXT = 300
"""Of an error of the store's library, which may quote a whole grammar."""


class Listed(NamedTuple):
    """A file as its store lists it: bytes, and what is another once it was replaced, if known."""

    size: int
    mark: str
    modified: float = 0.0
    """Seconds since 1970, by the store's clock; 0 where it is not known."""


class RemoteFolder:
    """Files below ``url``, by relative path.  Small to pickle, safe to fork: each process connects.

    Every method raises DatasetError naming the URL when the remote side fails, ConfigError for a
    URL that fsspec does not support and MissingExtraError without the package it needs.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        scheme, _, rest = url.partition(":")
        if not rest.startswith("//"):
            # A Path makes one slash of several, with which fsspec takes it for a local folder.
            rest = f"{'//' if scheme == 'file' else '/'}{rest}"
        self.url, self.options = f"{scheme}://{rest[2:].rstrip('/')}", dict(options or {})
        # By process: one that was forked must not let go of its parent's, whose end closes it.
        self._connections: dict[int, tuple[Any, str]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connections": {}}

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
        return {name: each.size for name, each in self.listing(relative, depth).items()}

    def listing(
        self, relative: str = "", depth: int | None = None, *, any_names: bool = False
    ) -> dict[str, Listed]:
        """List as :meth:`sizes` does; with ``any_names`` they may lead out of the folder."""
        with self._opened(relative) as (files, start):
            try:
                facts = files.info(start)
            except FileNotFoundError:
                return {}
            if facts["type"] == "file":
                return {"": _listed(facts)}
            found = files.find(start, maxdepth=depth, detail=True)
        listing = {
            name[len(start) :].removeprefix("/"): _listed(facts)
            for name, facts in found.items()
            if name.startswith(f"{start}/") and not name.endswith("/")
        }
        if not any_names:
            self._refuse_unsafe(relative, listing)
        return listing

    def fetch(self, relative: str, target: Path, sizes: Mapping[str, int]) -> None:
        """Fetch the files that ``sizes`` lists, durably, to ``target`` or to their paths below it.

        Raises DatasetError when one comes with another size, OutputError for a full disk.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            jobs = [
                pool.submit(self.fetch_file, f"{relative}/{name}".rstrip("/"), target / name, size)
                for name, size in sizes.items()
            ]
            for job in jobs:
                job.result()

    def fetch_flat(self, relative: str, suffix: str, target: Path) -> dict[str, Listed]:
        """Fetch the files in a folder whose names end in ``suffix``; returns them as listed.

        What others write or delete meanwhile is listed and fetched again.  Raises as :meth:`fetch`.
        """
        before: dict[str, Listed] | None = None
        while True:
            listing = self.listing(relative, 1)
            found = {name: each for name, each in listing.items() if name.endswith(suffix)}
            try:
                self.fetch(relative, target, {name: each.size for name, each in found.items()})
            except UnreadableError:
                raise
            except DatasetError:
                if found == before:
                    raise
                before = found
                continue
            for name in (before or {}).keys() - found.keys():
                (target / name).unlink(missing_ok=True)
            return found

    def ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        """Fetch ranges of bytes of files, all at once; those next to each other as one.

        Raises DatasetError for a file that is missing, and unless each comes whole.
        """
        joined = _joined(wanted)
        with self._opened("") as (files, root):
            if files.async_impl:
                paths = [f"{root}/{name}".rstrip("/") for name, _, _ in joined]
                begins, ends = ([each[at] for each in joined] for at in (1, 2))
                found = files.cat_ranges(paths, begins, ends, on_error="return")
            else:
                with ThreadPoolExecutor(_THREADS) as pool:
                    found = list(pool.map(self._range, joined))
        for (name, begin, end), data in zip(joined, found, strict=True):
            if isinstance(data, FileNotFoundError):
                raise DatasetError(missing(f"{self.url}/{name}"))
            if isinstance(data, BaseException):
                with self._opened(name):
                    raise data
            if len(data) != end - begin:
                raise DatasetError(
                    f"{self.url}/{name}: of bytes {begin} to {end} the server sent {len(data)}: "
                    "the file may be cut short, or its server may know no ranges; for the latter "
                    "open the dataset with whole_episodes=True"
                )
        return _cut(wanted, joined, found)

    def _range(self, wanted: Range) -> bytes | Exception:
        name, begin, end = wanted
        files, root = self.connect()
        try:
            data: bytes = files.cat_file(f"{root}/{name}".rstrip("/"), begin, end)
        except Exception as error:
            return error
        return data

    def fetch_file(self, relative: str, target: Path, size: int) -> None:
        """Fetch one file of ``size`` bytes, durably.  Raises as :meth:`fetch` does."""
        with output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with self._opened(relative) as (files, path):
            try:
                files.get_file(path, str(target))
            except FileNotFoundError:
                raise DatasetError(f"{self.url}/{relative} is no longer there") from None
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

    def has(self, relative: str) -> bool:
        """Tell whether a file is there."""
        with self._opened(relative) as (files, path):
            return _is_file(files, path)

    def put(self, content: bytes | Path, relative: str, *, create: bool = False) -> bool:
        """Put bytes, or a local file, there: whole or not at all, as object stores do it.

        With ``create`` what is there is not replaced, and False is returned: also when somebody
        else puts one at the same time, where the store knows conditional writes.  Raises
        OutputError naming the URL.
        """
        with self._opened(relative, writing=True) as (files, path):
            if not create:
                self._put(files, content, path)
                return True
            try:
                self._put(files, content, path, mode="create")
            except FileExistsError:
                return False
            except (TypeError, NotImplementedError, ValueError, OSError) as error:
                unknown = isinstance(error, TypeError) or "not implemented" in _words(error)
                if not unknown and not isinstance(error, NotImplementedError):
                    raise
                if _is_file(files, path):
                    return False
                self._put(files, content, path)
        return True

    def _put(self, files: Any, content: bytes | Path, path: str, **how: Any) -> None:
        if isinstance(content, bytes):
            files.pipe_file(path, content, **how)
        else:
            own = {"chunksize": 2 * _PART_BYTES} if self._is_s3 else {}
            files.put_file(str(content), path, **own, **how)

    def delete(self, relative: str) -> None:
        """Delete a file, if it is there.  Raises OutputError."""
        with self._opened(relative, writing=True) as (files, path):
            try:
                files.rm_file(path)
            except FileNotFoundError:
                pass

    @property
    def _is_s3(self) -> bool:
        return self.url.startswith(("s3://", "s3a://"))

    def _refuse_unsafe(self, relative: str, names: Iterable[str]) -> None:
        for name in names:
            try:
                _SAFE_PATH.validate_python(name)
            except ValidationError:
                where = f"{self.url}/{relative}"
                raise DatasetError(f"{where} lists {name!r}, a path that leaves it") from None

    def connect(self) -> tuple[Any, str]:
        """Return the file system and our root in it, connected once for each process."""
        if (known := self._connections.get(os.getpid())) is not None:
            return known
        bucket = self.url.partition("//")[2].partition("/")[0]
        known_form = bucket and (bucket.startswith("arn:") or not {*":@"} & {*bucket})
        if self._is_s3 and not known_form:
            # Not quoted: a password may look like anything.
            raise ConfigError(
                "a URL of S3 is s3://bucket/path, without user, password or port: credentials are "
                "found in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, another server in "
                "AWS_ENDPOINT_URL"
            )
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError:
            raise MissingExtraError("fsspec", "remote") from None
        options = self.options
        if self._is_s3:
            own = {"max_pool_connections": _CONNECTIONS, **options.get("config_kwargs", {})}
            parts = {"default_block_size": _PART_BYTES, "max_concurrency": _PARTS}
            options = {**parts, **options, "config_kwargs": own}
        try:
            files, root = url_to_fs(self.url, **options)
        except (ImportError, ValueError, TypeError) as error:
            if isinstance(error, ImportError) and self._is_s3:
                raise MissingExtraError("s3fs", "remote") from None
            raise ConfigError(f"cannot read {self.url}: {self._redacted(error)}") from None
        except Exception as error:  # some connect at once
            raise UnreadableError(self._told("read", "", error)) from None
        if files.async_impl:  # others may not be used by several threads
            self._connections[os.getpid()] = files, root.rstrip("/")
        return files, root.rstrip("/")

    @contextmanager
    def _opened(self, relative: str, writing: bool = False) -> Iterator[tuple[Any, str]]:
        """Yield the file system and a path in it; its errors are told with the URL.

        They become UnreadableErrors, or OutputErrors with ``writing``.
        """
        files, root = self.connect()
        # Cached listings and sizes may be out of date.
        files.invalidate_cache()
        try:
            yield files, f"{root}/{relative}".rstrip("/")
        except LettersetError:
            raise
        except Exception as error:  # each kind of store has its own errors, of no common base
            kind = OutputError if writing else UnreadableError
            told = self._told("write" if writing else "read", relative, error)
            raise kind(told) from None  # its own text has the password, if there is one

    def _told(self, what: str, relative: str, error: Exception) -> str:
        return (
            f"cannot {what} {f'{self.url}/{relative}'.rstrip('/')}: {type(error).__name__}: "
            f"{self._redacted(error)}; check the URL, the credentials and the network"
        )

    def _redacted(self, error: Exception) -> str:
        """Return an error's text in a line, which may quote a password without its URL's scheme."""
        login = self.url.partition("//")[2].partition("/")[0].rpartition("@")[0]
        user, _, password = login.partition(":")
        text = " ".join(str(error).split())
        return (text.replace(login, user) if password else text)[:_LONGEST_TEXT]


def _is_file(files: Any, path: str) -> bool:
    """Tell whether a file is there; ``isfile`` says no also when it could not look."""
    try:
        return bool(files.info(path)["type"] == "file")
    except FileNotFoundError:
        return False


def _listed(facts: Mapping[str, Any]) -> Listed:
    """Read what a file system says of a file; each kind has words of its own."""
    marks = (facts.get(key) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified"))
    times = (facts.get(key) for key in ("LastModified", "updated", "last_modified", "created"))
    modified = next((each.timestamp() for each in times if isinstance(each, datetime)), 0.0)
    return Listed(int(facts["size"]), str(next((each for each in marks if each), "")), modified)


def _words(error: Exception) -> str:
    return str(error).lower().replace("notimplemented", "not implemented")


def _joined(wanted: Sequence[Range]) -> list[Range]:
    """Return ranges that hold those wanted, in order, those close to each other as one."""
    joined: list[Range] = []
    for name, begin, end in sorted(wanted):
        if joined and joined[-1][0] == name and begin <= joined[-1][2] + _GAP_BYTES:
            joined[-1] = name, joined[-1][1], max(end, joined[-1][2])
        else:
            joined.append((name, begin, end))
    return joined


def _cut(wanted: Sequence[Range], joined: Sequence[Range], data: Sequence[bytes]) -> list[bytes]:
    """Cut what was wanted out of the ranges it was joined to."""
    found: dict[Range, bytes] = {}
    at = 0
    for name, begin, end in sorted(set(wanted)):
        while name != joined[at][0] or end > joined[at][2]:
            at += 1
        first = joined[at][1]
        found[name, begin, end] = data[at][begin - first : end - first]
    return [found[each] for each in wanted]


def missing(where: str) -> str:
    """Say that a file is not there."""
    return f"{where} is missing, though the index lists it; run letterset repair on that dataset"
