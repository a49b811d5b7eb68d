"""Replay buffers of diffusion_policy and UMI: Zarr format 2, all episodes end to end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.paths import printable_path, safe_names
from builder.inputs.fingerprint import fingerprints
from builder.inputs.listing import locate, natural_key
from builder.inputs.streams import FrameStream, array_stream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Selection

if TYPE_CHECKING:
    from builder.inputs.zarr import SafeZarr, SafeZarrArray

SUFFIXES = (".zarr", ".zarr.zip", ".zip")


class DiffusionPolicyConfig(Selection):
    """Settings of the ``diffusion_policy`` source."""

    recorded_fps: float = Field(default=10.0, gt=0, description="the data say nothing of time")
    float_pictures: Literal["0..255", "0..1"] = Field(
        default="0..255", description="what pictures kept as floats hold"
    )


class DiffusionPolicy(BaseSource[DiffusionPolicyConfig]):
    """Episodes of one Zarr group, or of all ``*.zarr`` and ``*.zarr.zip`` in a folder.

    Arrays ``data/*`` of (N, H, W, 3) are views, all others pass through;
    ``meta/episode_ends`` cuts them into episodes.
    """

    Config: ClassVar = DiffusionPolicyConfig
    packages: ClassVar = ("numcodecs",)
    markers: ClassVar = (".zgroup", "meta/episode_ends")

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for a Zarr group with episodes, a folder of such groups, or a zip file."""
        path = contents.path
        if all((path / mark).exists() for mark in cls.markers):
            return Evidence("a Zarr group with meta/episode_ends", strength=3)
        if any(path.glob("*.zarr")) or any(path.glob("*.zarr.zip")):
            return Evidence("*.zarr or *.zarr.zip in the folder")
        if not contents.is_folder and path.name.lower().endswith(".zip"):
            return Evidence("a zip file, maybe of a Zarr group")
        return None

    def refs(self) -> Iterator[EpisodeRef]:
        """List the episodes of all groups.  Raises SourceError when there is no group."""
        for relative in self._groups():
            try:
                with self._opened(relative) as store:
                    ends = self._ends(store)
                    rows = _rows(store)
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
            names = store.arrays("data")
            arrays = {name: store.array(f"data/{name}") for name in names}
            for name, array in arrays.items():
                if array.shape[0] < last:
                    raise store.error(f"data/{name}", f"{array.shape} ends before row {last}")
            safe = safe_names(names)
            views = {
                safe[name]: self._stream(store, array, first, last)
                for name, array in arrays.items()
                if _is_picture(array)
            }
            if not views:
                raise store.error("data", f"no array of (N, H, W, 3) among {names}")
            yield Episode(
                views=views,
                arrays={
                    safe[name]: array.rows(first, last)
                    for name, array in arrays.items()
                    if not _is_picture(array)
                },
                files=self._fingerprints(relative),
            )

    def _opened(self, relative: str) -> AbstractContextManager[SafeZarr]:
        from builder.inputs.zarr import open_zarr

        return open_zarr(self._place(relative), self._limits)

    def _groups(self) -> list[str]:
        if not os.path.lexists(self.path):
            raise SourceError.at(self.path, "there is no such file or folder")
        if not self.path.is_dir() or (self.path / ".zgroup").exists():
            return [self.path.name]
        names = sorted(os.listdir(self.path), key=natural_key)
        groups = [name for name in names if name.lower().endswith(SUFFIXES)]
        if not groups:
            raise SourceError.at(
                self.path, f"it is no Zarr group (.zgroup) and holds no {', '.join(SUFFIXES)}"
            )
        return groups

    def _place(self, relative: str) -> Path:
        is_group = (self.path / ".zgroup").exists()
        return self.path if is_group else locate(self.path, relative)

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

    def _stream(self, store: SafeZarr, array: SafeZarrArray, first: int, last: int) -> FrameStream:
        def read(start: int, stop: int) -> np.ndarray:
            frames = array.rows(first + start, first + stop)
            if frames.dtype == np.uint8:
                return frames
            scaled = frames * np.float32(255 if self._config.float_pictures == "0..1" else 1)
            if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 255):
                raise store.error(
                    array.path, f"its values leave {self._config.float_pictures} (float_pictures)"
                )
            return np.rint(scaled).astype(np.uint8)

        return array_stream(
            read,
            (last - first, *array.shape[1:3]),
            self._config.recorded_fps,
            self._limits,
            partial(store.error, array.path),
            # An episode may begin inside a chunk; whole chunks from there on are close enough.
            chunk=array.chunks[0],
            frame_bytes=array.row_bytes,
            codec="zarr",
        )

    def _fingerprints(self, relative: str) -> Any:
        place = self._place(relative)
        if place.is_dir():
            group = "" if place == self.path else relative
            relative = os.path.join(group, "meta/episode_ends/.zarray")
        return fingerprints(self.path, [relative])


def _rows(store: SafeZarr) -> int:
    """Return the rows of the longest array; of one that is refused opening an episode tells."""
    rows = [0]
    for name in store.arrays("data"):
        with suppress(SourceError):
            rows.append(store.array(f"data/{name}").shape[0])
    return max(rows)


def _is_picture(array: SafeZarrArray) -> bool:
    pixels = array.dtype == np.uint8 or array.dtype.kind == "f"
    return pixels and len(array.shape) == 4 and array.shape[3] == 3 and 0 not in array.shape
