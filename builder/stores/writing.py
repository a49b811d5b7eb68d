"""What stores of files share: where episodes lie, and how one is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from builder.core.errors import DatasetError
from builder.stores.atomic import leftovers, output_errors, refuse_existing, stage
from builder.stores.base import ArraySpec, Encoded, arrays_by_view
from builder.stores.columns import Column, Place, make_column
from builder.stores.reading import FileReader
from builder.stores.trees import link_or_copy, move_aside
from schemas.base import Record
from schemas.dataset import ArrayMeta, EpisodeId, EpisodeMeta, Name

_EPISODE_ID: TypeAdapter[str] = TypeAdapter(EpisodeId)
_NAME: TypeAdapter[str] = TypeAdapter(Name)

Layout = Mapping[str | None, Mapping[str, ArraySpec]]
W = TypeVar("W", bound="FileWriter")


class FileStore:
    """Episodes as files or folders below ``folder/<place>``; temporaries in ``folder/tmp``.

    A subclass names its ``place``, ``writer`` and ``reader``.  Where an episode is a file,
    ``suffix`` is what it ends in; where it is a folder, ``meta_file`` in it makes it an episode.
    ``record`` is what is stored about an episode; layers have their own, and another place.
    """

    place: str
    suffix: ClassVar[str] = ""
    meta_file: ClassVar[str] = ""
    writer: ClassVar[type[FileWriter]]
    reader: ClassVar[type[FileReader]]

    class Config(Record):
        """No settings of its own."""

    def __init__(
        self, folder: Path | str, *, place: str | None = None, record: Any = EpisodeMeta
    ) -> None:
        self.folder, self.record = Path(folder), record
        self.place = self.place if place is None else place

    def path(self, episode_id: str) -> Path:
        """Return where an episode is, there or not.  Raises DatasetError for an unsafe id."""
        try:
            checked = _EPISODE_ID.validate_python(episode_id)
        except ValidationError as error:
            raise DatasetError(f"{episode_id!r}: {error.errors()[0]['msg']}") from None
        return self.folder / self.place / f"{checked}{self.suffix}"

    def begin(self, episode_id: str, layout: Layout, *, replace: bool = False) -> FileWriter:
        """Start an episode with the given arrays by view (None: the root).

        Raises OutputError when it exists and ``replace`` is False, or when the folder cannot be
        written, and ValueError for a layout that cannot be stored.
        """
        return self.writer(self, episode_id, layout, replace)

    def open(self, episode_id: str) -> FileReader:
        """Open a committed episode.  Raises DatasetError naming the file."""
        return self.reader(self.path(episode_id) / self.meta_file, episode_id, self.record)

    def has(self, episode_id: str) -> bool:
        """Tell whether a committed episode is there; does not verify it."""
        return (self.path(episode_id) / self.meta_file).is_file()

    def ids(self) -> Iterator[str]:
        """Yield the ids of all committed episodes, sorted; temporaries never."""
        root = self.folder / self.place
        found = []
        for folder, below, names in os.walk(root):
            inner = Path(folder).relative_to(root)
            if self.meta_file in names:
                found.append(inner.as_posix())
                below.clear()
            elif not self.meta_file:
                files = (name for name in names if name.endswith(self.suffix))
                found += [(inner / name).as_posix().removesuffix(self.suffix) for name in files]
        yield from sorted(found)

    def leftovers(self, *, remove: bool = False) -> list[Path]:
        """List (and remove) the temporary files of dead runs; never those of live ones."""
        return leftovers(self.folder / "tmp", remove=remove)

    def adopt(self, other: FileStore, episode_id: str) -> None:
        """Take an episode of another store of this kind over, as links where that is possible.

        Episodes are never written in place, so that a link is as good as a copy.  Raises
        OutputError, also when there is such an episode here.
        """
        # A link to a link would point elsewhere from here.
        source, final = other.path(episode_id).resolve(), self.path(episode_id)
        refuse_existing(final)
        with stage(self.folder / "tmp", ".link") as staged:
            with output_errors(final):
                link_or_copy(source, staged.folder)
            staged.publish_folder(final)

    def set_aside(self, episode_id: str) -> Path:
        """Move a damaged episode out of the way; see :class:`builder.stores.base.Store`."""
        path = self.path(episode_id)
        return move_aside(path, self.folder, path.relative_to(self.folder / self.place))


class FileWriter(ABC):
    """One episode being written.  Leaving the context without commit leaves nothing."""

    suffix: ClassVar[str]
    """Of the temporary name."""

    def __init__(
        self, store: FileStore, episode_id: str, layout: Layout, replace: bool = False
    ) -> None:
        self.episode_id, self._replace = episode_id, replace
        self.path, self._is_folder = store.path(episode_id), bool(store.meta_file)
        _check_names(layout)
        self._folder = store.folder / "tmp"
        self._columns: dict[tuple[str | None, str], Column] = {}
        self._views = [view for view in layout if view is not None]
        self._layout = layout

    def __enter__(self: W) -> W:
        if not self._replace:
            refuse_existing(self.path)
        self._staged = stage(self._folder, self.suffix)
        self._committed = False
        try:
            with self._errors():
                self._create()
        except BaseException:
            self.__exit__()
            raise
        return self

    @abstractmethod
    def _create(self) -> None:
        """Create the temporary, a folder or a file, and all arrays in it."""

    def _lay_out(self, place_of: Callable[[str | None], Place]) -> None:
        """Create the arrays of every view (None: the root) in the place that is made for it."""
        for view, arrays in self._layout.items():
            place = place_of(view)
            for name, spec in arrays.items():
                self._columns[view, name] = make_column(place, name, spec, self._folder)

    @abstractmethod
    def _finish(self, meta: EpisodeMeta) -> None:
        """Write the metadata, last of all."""

    @abstractmethod
    def _release(self) -> None:
        """Close what is open of the temporary; called at the end, committed or not."""

    def _publish(self) -> None:
        publish = self._staged.publish_folder if self._is_folder else self._staged.publish
        publish(self.path, replace=self._replace)

    def write(self, view: str | None, name: str, at: int, block: np.ndarray | Encoded) -> None:
        """Write ``block`` at row ``at`` of array ``name`` of ``view`` (None: the root).

        Blocks of one array come in order, without gaps; raises ValueError otherwise.
        """
        with self._errors():
            self._columns[view, name].write(at, block)

    def digests(self) -> dict[str | None, dict[str, ArrayMeta]]:
        """Describe all arrays written, by view (None: the root).  All must be complete.

        Raises ValueError naming those that are not.
        """
        found: dict[str | None, dict[str, ArrayMeta]] = {view: {} for view in (None, *self._views)}
        with self._errors():
            for (view, _), column in self._columns.items():
                found[view].update(column.finish())
        return found

    def commit(self, meta: EpisodeMeta) -> None:
        """Make the episode exist: fsync, rename, fsync folder.

        Raises ValueError when ``meta`` is not about what was written.
        """
        found = self.digests()
        said = arrays_by_view(meta)
        if meta.id != self.episode_id or said != found:
            raise ValueError(
                f"the metadata of {meta.id!r} do not describe what was written as "
                f"{self.episode_id!r}: arrays {said}, written {found}"
            )
        with self._errors():
            self._finish(meta)
        self._publish()
        self._committed = True

    def __exit__(self, *exc: object) -> None:
        for column in self._columns.values():
            column.close()
        # What a full disk did not take is not needed any more.
        with contextlib.suppress(OSError):
            self._release()
        if not self._committed:
            self._staged.discard()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the disk into an OutputError."""
        with output_errors(self.path):
            yield


def _check_names(layout: Layout) -> None:
    """Refuse names that are unsafe or that would meet in the file."""
    for name in (*(view for view in layout if view is not None), *layout.get(None, {})):
        _NAME.validate_python(name)
    if clash := set(layout) & set(layout.get(None, {})):
        raise ValueError(f"a view and a root array must not share a name, got {clash}")
