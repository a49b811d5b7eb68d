"""What lies at a path that may be a source, and what in it speaks for a kind of source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.core.errors import SourceError
from builder.inputs.listing import HDF5_SUFFIXES, walk
from schemas.config import Limits

if TYPE_CHECKING:
    from builder.inputs.hdf5 import SafeHdf5

MAX_FOLDERS = 2000
_HDF5_TRIED, _HDF5_OPENED = 5, 50


@dataclass(frozen=True)
class Evidence:
    """What speaks for a kind of source: ``why``, in words, and ``settings`` that go with it.

    Only kinds with the strongest evidence are considered: 3 for a layout of the whole folder,
    2 for files of a kind of their own, 1 for images, 0 for any other file.  ``covers`` names
    kinds that the same files look like, too.
    """

    why: str
    strength: int = 2
    settings: Mapping[str, Any] = field(default_factory=dict)
    covers: tuple[str, ...] = ()


class Contents:
    """The files at a path, in at most ``MAX_FOLDERS`` folders, listed when first asked for."""

    far = False

    def __init__(self, path: Path) -> None:
        self.path, self.is_folder = path, path.is_dir()

    @cached_property
    def folders(self) -> dict[str, list[str]]:
        """Names of files by folder, relative to the path; of one file, its name alone."""
        return dict(islice(walk(self.path), MAX_FOLDERS)) if self.is_folder else {"": [self.name]}

    @classmethod
    def of(cls, path: Path, relatives: Iterable[str], is_folder: bool) -> Contents:
        """Return the contents of a place elsewhere, as it was listed: nothing of it can be read."""
        found, folders = cls(path), dict[str, list[str]]()
        for relative in relatives:
            folder, _, name = relative.rpartition("/")
            folders.setdefault(folder, []).append(name)
        found.is_folder, found.folders, found.far = is_folder, folders, True
        return found

    @cached_property
    def names(self) -> set[str]:
        """Names of all files."""
        return {name for names in self.folders.values() for name in names}

    @property
    def name(self) -> str:
        """Name of the file or folder itself."""
        return self.path.name

    def having(self, suffixes: tuple[str, ...]) -> dict[str, list[str]]:
        """Return the folders with files of these suffixes, and those files."""
        fitting = {
            folder: [name for name in names if name.lower().endswith(suffixes)]
            for folder, names in self.folders.items()
        }
        return {folder: names for folder, names in fitting.items() if names}

    def any_hdf5(self, holds: Callable[[SafeHdf5], bool]) -> bool:
        """Tell whether one of the first HDF5 files holds something; damaged ones hold nothing."""
        # Everything that lists episodes imports this module; few need HDF5.
        if self.far:
            return False
        from builder.inputs.hdf5 import open_hdf5

        folders = self.having(HDF5_SUFFIXES).items()
        paths = [self.path / folder / name for folder, names in folders for name in names]
        read = 0
        for path in paths[:_HDF5_OPENED] if self.is_folder else [self.path] * len(paths):
            with suppress(SourceError), open_hdf5(path, Limits()) as file:
                if holds(file):
                    return True
                read += 1
            if read == _HDF5_TRIED:
                break
        return False
