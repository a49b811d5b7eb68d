"""ATM (any-point trajectory modelling): preprocessed demonstrations with tracks, in HDF5."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import DecodeError, SourceError
from builder.core.lazy import Lazy
from builder.core.paths import printable_path, safe_names, safe_text
from builder.inputs.fingerprint import fingerprints
from builder.inputs.hdf5 import SafeHdf5, open_hdf5
from builder.inputs.listing import HDF5_SUFFIXES, files, locate
from builder.inputs.normalized_points import normalized_to_pixels
from builder.inputs.picture_arrays import picture_stream
from builder.inputs.streams import FrameStream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import PictureSelection


class AtmConfig(PictureSelection):
    """Settings of the ``atm`` source."""

    recorded_fps: float = Field(default=20.0, gt=0, description="the files say nothing of time")


class Atm(BaseSource[AtmConfig]):
    """One HDF5 file per demonstration, in a folder per task: ``<task>_demo/demo_0.hdf5``.

    Its tracks pass through as ``<view>.points_xy`` (T, N, 2) in source pixels and
    ``<view>.visible`` (T, N); the embedding of the task as ``task_emb_bert``.
    """

    Config: ClassVar = AtmConfig

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for HDF5 files with a video of a view; videos beside them may be its originals."""
        if contents.any_hdf5(lambda file: bool(_cameras(file))):
            return Evidence("HDF5 files with root/<view>/video", covers=("episodes", "video"))
        return None

    def refs(self) -> Iterator[EpisodeRef]:
        """List the files in natural order.  Raises SourceError when there is none."""
        for relative in files(self.path, HDF5_SUFFIXES, "HDF5 file"):
            folder = locate(self.path, relative).parent
            task = printable_path(folder.name.removesuffix("_demo")) or None
            group = printable_path(folder.parent.name) or None
            yield EpisodeRef.at(os.fsencode(relative), relative, task, group)

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one demonstration.  Raises SourceError naming what is wrong with it."""
        with open_hdf5(locate(self.path, ref.locator), self._limits) as file:
            inside, cameras = file.keys("root"), _cameras(file)
            if not cameras:
                raise file.error("root", f"no view with a video among {inside}")
            states, embedding = "root/extra_states", "task_emb_bert"
            paths = {f"{states}/{key}": key for key in file.keys(states)}
            paths |= {"root/actions": "actions"} if "actions" in inside else {}
            named = safe_names(cameras)
            videos = {view: f"root/{camera}/video" for camera, view in named.items()}
            views = Lazy.of(partial(self._stream, file), videos)
            tracks: dict[str, Callable[[], np.ndarray]] = {}
            chosen = {*self._config.views} if self._config.arrays is None else {}
            for camera, view in named.items():
                # Those of a view that is left out are not read, nor is its video for them.
                if (not chosen or view in chosen) and "tracks" in file.keys(f"root/{camera}"):
                    read = partial(self._tracks, file, f"root/{camera}", views, view)
                    tracks[f"{view}.points_xy"] = partial(read, 0)
                    tracks[f"{view}.visible"] = partial(read, 1)
            found = {f"root/{embedding}": embedding} if embedding in inside else {}
            yield Episode(
                views=views,
                arrays=Lazy({**file.arrays(paths), **tracks}),
                constants=Lazy(file.arrays(found)),
                files=fingerprints(self.path, [ref.locator]),
                text=safe_text((ref.task or "").replace("_", " ")),
            )

    def _stream(self, file: SafeHdf5, path: str) -> FrameStream:
        data = file.dataset(path)
        if data.ndim != 5 or data.shape[0] != 1:
            raise file.error(path, f"expected (1, T, 3, H, W), got {data.shape} {data.dtype}")
        return picture_stream(
            lambda first, last: file.part(data, (0, slice(first, last))),
            data.shape[1:],
            data.dtype,
            self._config.recorded_fps,
            self._limits,
            partial(file.error, path),
            floats=self._config.float_pictures,
            chunk=data.chunks[1] if data.chunks else 1,
        )

    def _tracks(
        self, file: SafeHdf5, path: str, views: Mapping[str, FrameStream], view: str, part: int
    ) -> np.ndarray:
        """Return points in source pixels (part 0), or whether they are visible (part 1)."""
        info = views[view].info
        tracks, vis = file.array(f"{path}/tracks"), file.array(f"{path}/vis")
        expected = (1, info.num_frames, *tracks.shape[2:3])
        if tracks.shape != (*expected, 2) or vis.shape != expected:
            raise file.error(path, f"tracks {tracks.shape} and vis {vis.shape} do not fit")
        visible = vis[0] > 0.5
        if part:
            return visible.astype(np.uint8)
        where = str(file.error(path, "its tracks"))
        try:
            return normalized_to_pixels(tracks[0], visible, info.coded_shape, where)
        except SourceError as error:  # they contradict their layout: no odd column, but an error
            raise DecodeError(str(error)) from None


def _cameras(file: SafeHdf5) -> list[str]:
    return [view for view in file.keys("root") if "video" in file.keys(f"root/{view}")]
