"""What a store is: it writes an episode whole or not at all, and reads it lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from builder.core.errors import ConfigError
from builder.core.registry import Backends
from schemas.dataset import ArrayMeta, EpisodeMeta

if TYPE_CHECKING:
    import numpy as np


# What an episode takes besides its arrays: headers, alignment, metadata.
ENVELOPE_BYTES = 16 * 1024


@dataclass(frozen=True)
class ArraySpec:
    """An array about to be written: full shape, dtype name and codec.

    ``codec`` is raw, or lz4 or jpeg (with ``quality`` 1 to 100) for frames, or u16 for float
    pixel coordinates in fixed point of 1/64 px.  ``per_frame`` goes into ``ArrayMeta`` as it is.
    """

    shape: tuple[int, ...]
    dtype: str
    codec: str = "raw"
    quality: int = 95
    per_frame: bool | None = None


@dataclass(frozen=True)
class Encoded:
    """One frame that is a JPEG file already; written like a block of one row."""

    data: bytes


def arrays_by_view(meta: EpisodeMeta) -> dict[str | None, dict[str, ArrayMeta]]:
    """Return all arrays an episode lists, by view (None: the root)."""
    listed: dict[str | None, dict[str, ArrayMeta]] = {None: meta.arrays}
    return listed | {view.name: view.arrays for view in meta.views}


class EpisodeWriter(Protocol):
    """One episode being written.  Leaving the context without commit leaves nothing."""

    def write(self, view: str | None, name: str, at: int, block: np.ndarray | Encoded) -> None:
        """Write ``block`` at row ``at`` of array ``name`` of ``view`` (None: the root).

        A frame of codec jpeg may come encoded.  Blocks of one array come in order, without
        gaps; raises ValueError otherwise.
        """

    def digests(self) -> dict[str | None, dict[str, ArrayMeta]]:
        """Describe all arrays written, by view (None: the root).  All must be complete."""

    def commit(self, meta: EpisodeMeta) -> None:
        """Make the episode exist: fsync, rename, fsync folder."""


class EpisodeReader(Protocol):
    """One stored episode, read lazily; close it.  Inherit from it: some methods have a default."""

    meta: EpisodeMeta
    path: Path
    """Where it lies: a file that was written when the episode was."""

    def array(self, view: str | None, name: str) -> Any:
        """Return a lazily read array: supports ``.shape``, ``.dtype`` and slicing.

        Arrays come back in their logical form whatever codec they are stored with: frames
        (T, H, W, 3) uint8, tracks float32.  Raises KeyError naming what there is.
        """

    def stored_bytes(self, view: str | None, name: str) -> Iterator[bytes]:
        """Yield, in bounded pieces, the bytes that ``ArrayMeta.sha256`` is taken over."""

    def problems(self) -> list[str]:
        """List what disagrees between the metadata and its informational copies."""

    def close(self) -> None:
        """Release files."""

    def reopen(self) -> EpisodeReader | None:
        """Return a copy with no file open, which need not read the metadata again.

        None when that is not possible, as when the file changed since.
        """
        return None


class Store(Protocol):
    """A place for episodes.  Constructed as ``Store(folder)``; picklable.

    ``place`` is the folder below, by which a dataset of this store is known.
    """

    place: str

    def path(self, episode_id: str) -> Path:
        """Return where an episode is, there or not.  Raises DatasetError for an unsafe id."""

    def begin(
        self,
        episode_id: str,
        layout: Mapping[str | None, Mapping[str, ArraySpec]],
        *,
        replace: bool = False,
    ) -> AbstractContextManager[EpisodeWriter]:
        """Start an episode with the given arrays by view (None: the root).

        Raises OutputError when the place cannot be written, or, unless ``replace``, when the
        episode exists: on entering if possible, at the latest on commit.
        """

    def open(self, episode_id: str) -> EpisodeReader:
        """Open a committed episode.  Raises DatasetError naming the file."""

    def has(self, episode_id: str) -> bool:
        """Tell whether a committed episode is there; does not verify it."""

    def ids(self) -> Iterator[str]:
        """Yield the ids of all committed episodes, sorted; temporaries never."""

    def leftovers(self, *, remove: bool = False) -> list[Path]:
        """List (and remove) the temporaries of dead runs; never those of live ones."""

    def adopt(self, other: Any, episode_id: str) -> None:
        """Take an episode of another store of this kind over, cheaply; raises OutputError."""

    def set_aside(self, episode_id: str) -> Path:
        """Move a damaged episode out of the way, to ``damaged/``; returns where it is now.

        Never over one that was moved there before: that stays, the next goes elsewhere.
        """


STORES: Backends[Store] = Backends("stores")

# Where the built-in stores keep episodes: a dataset is recognized without importing any.
PLACES = {"hdf5": "episodes", "zarr": "episodes.zarr"}


def stores_found(has_folder: Callable[[str], bool]) -> tuple[dict[str, str], list[str]]:
    """Return which stores a dataset has episodes of, and where: ``place`` by kind.

    ``has_folder`` tells whether a folder is in the dataset.  Plug-ins are asked for their place
    only where no built-in store is found; the errors of those that cannot be imported come second.
    """
    if found := {kind: place for kind, place in PLACES.items() if has_folder(place)}:
        return found, []
    errors = []
    for kind in STORES.plugins():
        try:
            place = str(STORES.load(kind).place)  # type: ignore[attr-defined]
        except (ConfigError, AttributeError) as error:
            errors.append(f"store.kind {kind!r}: {error}")
            continue
        if has_folder(place):
            found[kind] = place
    return found, errors
