"""Replay buffers of diffusion_policy and UMI: Zarr groups, all episodes end to end."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.lazy import Lazy
from builder.core.messages import count
from builder.core.paths import printable_path, safe_names
from builder.inputs.fingerprint import fingerprints
from builder.inputs.foreign import foreign
from builder.inputs.listing import ZARR_ARRAYS, ZARR_GROUPS, locate, natural_key, regular_file
from builder.inputs.picture_arrays import (
    channels_axis,
    is_large,
    kept_as_numbers,
    picture_stream,
)
from builder.inputs.streams import FrameStream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import PictureSelection

if TYPE_CHECKING:
    from builder.inputs.zarr import SafeZarr, SafeZarrArray

SUFFIXES = (".zarr", ".zarr.zip", ".zip")
_OWN_SUFFIXES = SUFFIXES[:2]  # those that say what is inside


class DiffusionPolicyConfig(PictureSelection):
    """Settings of the ``diffusion_policy`` source."""

    recorded_fps: float = Field(default=10.0, gt=0, description="the data say nothing of time")


class DiffusionPolicy(BaseSource[DiffusionPolicyConfig]):
    """Episodes of one Zarr group, or of all ``*.zarr`` and ``*.zarr.zip`` in a folder.

    Arrays ``data/*`` of (N, H, W, 3) with the sides of pictures are views, as are smaller ones that
    ``views`` lists; all others pass through.
    ``meta/episode_ends`` cuts them into episodes.
    """

    Config: ClassVar = DiffusionPolicyConfig
    packages: ClassVar = ("numcodecs",)
    markers: ClassVar = ("meta/episode_ends",)

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for a Zarr group with episodes, a folder of such groups, or a zip file."""
        path = contents.path
        if _is_group(path) and all((path / mark).exists() for mark in cls.markers):
            return Evidence("a Zarr group with meta/episode_ends", strength=3)
        if any(path.glob("*.zarr")) or any(path.glob("*.zarr.zip")):
            return Evidence("*.zarr or *.zarr.zip in the folder")
        below = {part for folder in contents.folders for part in folder.split("/")} | contents.names
        marked = any(folder.endswith("/" + cls.markers[0]) for folder in contents.folders)
        named = any(each.lower().endswith(_OWN_SUFFIXES) for each in below)
        if contents.is_folder and (named or marked):
            # Of a folder that holds anything else, too, it is the less likely reading.
            what = "*.zarr or *.zarr.zip" if named else f"Zarr groups with {cls.markers[0]}"
            return Evidence(f"{what} in folders below", strength=0)
        name = path.name.lower()
        if not contents.is_folder and (name.endswith(".zarr.zip") or _holds_zarr(path)):
            return Evidence("a zip file of a Zarr group")
        return None

    def refs(self) -> Iterator[EpisodeRef]:
        """List the episodes of all groups.  Raises SourceError when there is no group."""
        for relative in self._groups():
            try:
                with self._opened(relative) as store:
                    ends = self._ends(store)
                    rows = self._rows(store)
            except SourceError:
                # One bad group is one failure: opening it is going to say what is wrong.
                yield self._ref(relative, None, 0, 0)
                continue
            starts = [0, *ends[:-1]]
            for index, (first, last) in enumerate(zip(starts, ends, strict=True)):
                yield self._ref(relative, index, first, last)
            if rows > ends[-1]:
                # What an interrupted writer left is one failure.
                yield self._ref(relative, None, ends[-1], rows)

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one episode; pictures are read as they are needed.  Raises SourceError."""
        relative, index, first, last = ref.locator
        with self._opened(relative) as store:
            if index is None:
                self._ends(store)
                raise store.error(
                    "meta/episode_ends",
                    f"rows {first} to {last} of the data belong to no episode: the last ends "
                    f"before them; add its end, or cut the data there",
                )
            names, span = safe_names(store.arrays("data")), (first, last)
            cameras = {names[each]: each for each in names if self._is_camera(store, each)}
            if not cameras:
                raise store.error("data", f"no array of (N, H, W, 3) among {[*names]}")
            others = {names[each]: each for each in names if names[each] not in cameras}
            yield Episode(
                views=Lazy.of(partial(self._stream, store, span), cameras),
                arrays=Lazy.of(partial(_numbers, store, span, self._rows(store)), others),
                array_names=names,
                files=self._fingerprints(relative),
                notes=(
                    *self._filled(store, span, others.values()),
                    *_perhaps_pictures(store, others),
                ),
            )

    def _filled(
        self, store: SafeZarr, span: tuple[int, int], names: Iterable[str]
    ) -> Iterator[str]:
        """Say which of the arrays to keep have chunks that were never written."""
        for name in names:
            if self._config.arrays is None or name in self._config.arrays:
                with suppress(SourceError):  # what is wrong is told where it is read
                    if lost := _reaching(store, span, name).never_written(*span):
                        yield (
                            f"array {name}: {count(lost, 'chunk')} never written, read as the "
                            f"fill value"
                        )

    def _opened(self, relative: str) -> AbstractContextManager[SafeZarr]:
        from builder.inputs.zarr import open_zarr

        return open_zarr(self._place(relative), self._limits)

    def _groups(self) -> list[str]:
        if not os.path.lexists(self.path):
            raise SourceError.at(self.path, "there is no such file or folder")
        if not self.path.is_dir() or _is_group(self.path):
            return [self.path.name]
        names = sorted(os.listdir(self.path), key=natural_key)
        groups = [name for name in names if name.lower().endswith(SUFFIXES)]
        groups = groups or sorted(_below(self.path), key=natural_key)
        if not groups:
            marks, suffixes = " or ".join(ZARR_GROUPS), ", ".join(SUFFIXES)
            raise SourceError.at(
                self.path, f"it is no Zarr group ({marks}) and holds no {suffixes}"
            )
        return groups

    def _place(self, relative: str) -> Path:
        return self.path if _is_group(self.path) else locate(self.path, relative)

    def _ref(self, relative: str, index: int | None, first: int, last: int) -> EpisodeRef:
        name, group = None if index is None else f"episode_{index}", printable_path(relative)
        return EpisodeRef.inside(relative, name, (relative, index, first, last), group=group)

    def _ends(self, store: SafeZarr) -> list[int]:
        array = store.array("meta/episode_ends")
        if array.dtype.kind not in "iu" or len(array.shape) != 1 or not array.shape[0]:
            raise store.error("meta/episode_ends", f"it is {array.dtype} {array.shape}")
        ends = [int(end) for end in array.rows(0, array.shape[0])]
        if any(low >= high for low, high in zip([0, *ends], ends, strict=False)):
            raise store.error("meta/episode_ends", "its numbers do not ascend")
        return ends

    def _rows(self, store: SafeZarr) -> int:
        """Return the rows of the longest camera."""
        cameras = [name for name in store.arrays("data") if self._is_camera(store, name)]
        return max((store.array(f"data/{name}").shape[0] for name in cameras), default=0)

    def _is_camera(self, store: SafeZarr, name: str) -> bool:
        try:
            array = store.array(f"data/{name}")
        except SourceError:
            return False  # reading it is going to say what is wrong
        if name in self._config.views:
            return channels_axis(array.shape) is not None
        return is_large(array.shape) and (array.dtype == np.uint8 or array.dtype.kind == "f")

    def _stream(self, store: SafeZarr, span: tuple[int, int], name: str) -> FrameStream:
        array = _reaching(store, span, name)
        return picture_stream(
            array.rows,
            array.shape,
            array.dtype,
            self._config.recorded_fps,
            self._limits,
            partial(store.error, array.path),
            floats=self._config.float_pictures,
            span=span,
            # An episode may begin inside a chunk; whole chunks from there on are close enough.
            chunk=array.chunks[0],
            codec="zarr",
        )

    def _fingerprints(self, relative: str) -> Any:
        place = self._place(relative)
        if place.is_dir():
            group = "" if place == self.path else relative
            ends = os.path.join(group, "meta/episode_ends")
            found = (os.path.join(ends, name) for name in ZARR_ARRAYS)
            relative = next(each for each in found if (self.path / each).exists())
        return fingerprints(self.path, [relative])


def _perhaps_pictures(store: SafeZarr, others: Mapping[str, str]) -> Iterator[str]:
    """Say which of the arrays that are no cameras may be pictures."""
    for name, each in others.items():
        with suppress(SourceError):  # what is wrong is told where it is read
            array = store.array(f"data/{each}")
            if said := kept_as_numbers(name, array.shape, array.dtype):
                yield said


def _holds_zarr(path: Path) -> bool:
    """Tell whether a file is a zip with a replay buffer in it."""
    if not path.name.lower().endswith(".zip"):
        return False
    wanted = tuple(f"meta/episode_ends/{name}" for name in ZARR_ARRAYS)
    with suppress(SourceError), foreign(path):
        regular_file(path)
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(wanted) for name in archive.namelist())
    return False


def _below(root: Path) -> Iterator[str]:
    """Yield the groups below a folder, relative to it; what is in a group is not looked at."""
    for folder, inner, names in os.walk(root):
        found = [name for name in (*inner, *names) if name.lower().endswith(_OWN_SUFFIXES)]
        found += [name for name in inner if name not in found and _is_buffer(folder, name)]
        yield from (os.path.relpath(os.path.join(folder, name), root) for name in found)
        inner[:] = [name for name in inner if name not in found]


def _is_buffer(folder: str, name: str) -> bool:
    place = Path(folder, name)
    return _is_group(place) and (place / DiffusionPolicy.markers[0]).is_dir()


def _is_group(path: Path) -> bool:
    return any((path / name).exists() for name in ZARR_GROUPS)


def _reaching(store: SafeZarr, span: tuple[int, int], name: str) -> SafeZarrArray:
    """Open an array of ``data``.  Raises SourceError when it ends before the span does."""
    array = store.array(f"data/{name}")
    if array.shape[0] < span[1]:
        raise store.error(array.path, f"{array.shape} ends before row {span[1]}")
    return array


def _numbers(store: SafeZarr, span: tuple[int, int], rows: int, name: str) -> np.ndarray:
    array = _reaching(store, span, name)
    if array.shape[0] != rows:
        raise store.error(array.path, f"it has {array.shape[0]} rows, the pictures have {rows}")
    return array.rows(*span, fill=True)
