"""Image-sequence folders: one folder of images per episode, or per view of an episode."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from builder.core.errors import SourceError
from builder.core.lazy import Lazy
from builder.core.paths import safe_names
from builder.inputs.fingerprint import fingerprints
from builder.inputs.image_names import MISSING_IMAGES, MissingImages, sequences
from builder.inputs.images import ends_of, image_stream
from builder.inputs.listing import IMAGE_SUFFIXES, folders_with, names_in, natural_key
from builder.inputs.sidecars import read_sidecars
from builder.inputs.streams import FrameStream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Selection


class ImageFoldersConfig(Selection):
    """Settings of the ``images`` source."""

    folder: Literal["episode", "view"] = Field(
        default="episode", description="what one folder of images is"
    )
    recorded_fps: float = Field(default=30.0, gt=0, description="images say nothing of time")
    missing_images: MissingImages = Field(default="error", description=MISSING_IMAGES)


class ImageFolders(BaseSource[ImageFoldersConfig]):
    """Folders of images in natural order (``im_2`` before ``im_10``).

    Where a folder of images holds several sequences, such as ``left_0.png`` and ``right_0.png``,
    each is a view.  ``<name>.npy`` in the episode's folder pass through as arrays with one row
    per frame, ``text.txt`` is the instruction.
    """

    Config: ClassVar = ImageFoldersConfig
    suffixes: ClassVar = IMAGE_SUFFIXES

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for folders of images; where the same names come again and again, they are views."""
        folders = contents.having(IMAGE_SUFFIXES) if contents.is_folder else {}
        if not folders:
            return None
        above = {os.path.dirname(folder) for folder in folders}
        names = {os.path.basename(folder) for folder in folders}
        views = len(folders) > 1 and "" not in above and len(folders) == len(above) * len(names)
        kind = "view" if views else "episode"
        why = f"{len(folders)} folders of images, read as one per {kind}"
        return Evidence(why, strength=1, settings={"folder": kind})

    def refs(self) -> Iterator[EpisodeRef]:
        """List the episodes in natural order.  Raises SourceError when there is no image."""
        folders = folders_with(self.path, IMAGE_SUFFIXES)
        return self.refs_of_folders(
            map(os.path.dirname, folders) if self._config.folder == "view" else folders,
            f"no folder with images found; looked for {', '.join(IMAGE_SUFFIXES)}",
        )

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one episode; images are read as they are needed.  Raises SourceError."""
        folder = self.path / ref.locator
        sidecars = read_sidecars(folder, self._limits)
        places = self._places(ref.locator)
        files = [os.path.join(ref.locator, name) for name in sidecars.files]
        yield Episode(
            views=Lazy.of(self._stream, places),
            arrays=sidecars.arrays,
            files=fingerprints(self.path, files),
            view_files=Lazy.of(lambda place: ends_of(self.path, *place), places),
            text=sidecars.text,
        )

    def _places(self, locator: str) -> dict[str, tuple[str, str | None]]:
        """Return the folder, and the sequence in it, of every view."""
        if self._config.folder == "view":
            names = safe_names(self._view_folders(self.path / locator))
            return {name: (os.path.join(locator, own), None) for own, name in names.items()}
        found = sequences(self.path / locator)
        if len(found) == 1:
            return {"main": (locator, None)}
        return {name: (locator, own) for own, name in safe_names(found).items()}

    def _stream(self, place: tuple[str, str | None]) -> FrameStream:
        how, (folder, sequence) = self._config, place
        fps, missing = how.recorded_fps, how.missing_images
        return image_stream(self.path / folder, fps, self._limits, missing, sequence=sequence)

    def _view_folders(self, folder: Path) -> list[str]:
        try:
            inner = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
        except OSError as error:
            raise SourceError.at(folder, f"{error.strerror}") from None
        shown = sorted((name for name in inner if name[:1] != "."), key=natural_key)
        return [name for name in shown if names_in(folder / name, IMAGE_SUFFIXES)]
