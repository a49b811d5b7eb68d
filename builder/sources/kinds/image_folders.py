"""Image-sequence folders: one folder of images per episode, or per view of an episode."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from builder.core.errors import SourceError
from builder.core.paths import safe_names
from builder.inputs.fingerprint import fingerprints
from builder.inputs.images import image_stream
from builder.inputs.listing import IMAGE_SUFFIXES, folders_with, names_in, natural_key
from builder.inputs.sidecars import read_sidecars
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Selection


class ImageFoldersConfig(Selection):
    """Settings of the ``images`` source."""

    folder: Literal["episode", "view"] = Field(
        default="episode", description="what one folder of images is"
    )
    recorded_fps: float = Field(default=30.0, gt=0, description="images say nothing of time")


class ImageFolders(BaseSource[ImageFoldersConfig]):
    """Folders of images in natural order (``im_2`` before ``im_10``).

    ``<name>.npy`` in the episode's folder pass through as arrays with one row per frame,
    ``text.txt`` is the instruction.
    """

    Config: ClassVar = ImageFoldersConfig

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
        names = safe_names(self._view_folders(folder))
        files = list(sidecars.files)
        views = {}
        for inner, name in names.items():
            fps = self._config.recorded_fps
            stream, ends = image_stream(folder / inner, fps, self._limits)
            views[name if inner else "main"] = stream
            files += [os.path.join(inner, image) for image in ends]
        prints = fingerprints(self.path, (os.path.join(ref.locator, name) for name in files))
        yield Episode(views=views, arrays=sidecars.arrays, files=prints, text=sidecars.text)

    def _view_folders(self, folder: Path) -> list[str]:
        if self._config.folder == "episode":
            return [""]
        try:
            inner = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
        except OSError as error:
            raise SourceError.at(folder, f"{error.strerror}") from None
        shown = sorted((name for name in inner if name[:1] != "."), key=natural_key)
        return [name for name in shown if names_in(folder / name, IMAGE_SUFFIXES)]
