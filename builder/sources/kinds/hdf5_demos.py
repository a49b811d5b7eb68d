"""HDF5 files with demonstrations under ``data/demo_<i>``: what LIBERO and robomimic share."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.paths import printable_path, safe_names
from builder.inputs.fingerprint import fingerprints
from builder.inputs.hdf5 import SafeHdf5, open_hdf5
from builder.inputs.listing import HDF5_SUFFIXES, files, locate
from builder.inputs.streams import FrameStream, array_stream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Selection
from schemas.geometry import Orientation

_MEND = "get the file again, or correct the number if the others were taken out"


class DemosConfig(Selection):
    """Settings of the sources that read demonstrations from HDF5."""

    recorded_fps: float = Field(
        default=20.0, gt=0, description="when the file's env_args have no control_freq"
    )
    arrays: tuple[str, ...] | None = Field(
        default=None, strict=False, description="such as obs/ee_pos; default: all but pictures"
    )


@dataclass(frozen=True)
class DemoLayout:
    """How one kind of file names and turns its pictures."""

    image_suffix: str
    orientation: Orientation
    map_suffixes: tuple[str, ...] = ()


class Demos(BaseSource[DemosConfig]):
    """Demonstrations in all HDF5 files below a folder, or in one file."""

    layout: ClassVar[DemoLayout]

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for pictures of the layout's suffix in the first demonstration of a file."""
        suffix = cls.layout.image_suffix

        def has_pictures(file: SafeHdf5) -> bool:
            keys = (file.keys(f"data/{demo}/obs") for demo in file.keys("data")[:1])
            return any(key.endswith(suffix) for inner in keys for key in inner)

        if contents.any_hdf5(has_pictures):
            return Evidence(f"data/<demo>/obs/*{suffix} in HDF5 files")
        return None

    def refs(self) -> Iterator[EpisodeRef]:
        """List the demonstrations file by file, in natural order.

        Raises SourceError when there is no HDF5 file.
        """
        for relative in files(self.path, HDF5_SUFFIXES, "HDF5 file"):
            path, task = locate(self.path, relative), printable_path(self.task(relative))
            group = printable_path(path.parent.name) or None
            ref = partial(EpisodeRef.inside, relative, task=task, group=group)
            try:
                with open_hdf5(path, self._limits) as file:
                    splits, demos = _splits(file), self._demos(file)
                    for demo in demos:
                        yield ref(demo, (relative, demo), splits=splits.get(demo, ()))
                    declared = file.attr("data", "num_demos")
                    if isinstance(declared, int) and declared > len(demos):
                        # Those that are not there are one failure.
                        yield ref(None, (relative, None))
            except SourceError:
                # One bad file is one failure: opening it is going to say what is wrong.
                yield ref(None, (relative, None))

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one demonstration.  Raises SourceError naming what is wrong with it."""
        relative, demo = ref.locator
        path = locate(self.path, relative)
        with open_hdf5(path, self._limits) as file:
            if demo is None:
                found = f"{len(self._demos(file))} demonstrations"
                declared = file.attr("data", "num_demos")
                raise file.error("data", f"{found} of num_demos {declared}; {_MEND}")
            group = f"data/{demo}"
            views, maps = self._views(file, group)
            self._check_length(file, group, views)
            yield Episode(
                views=views,
                maps=maps,
                arrays=self._arrays(file, group),
                files=fingerprints(self.path, [relative]),
                text=self.text(file, relative),
            )

    def text(self, file: SafeHdf5, relative: str) -> str | None:
        """Return the instruction in words, if there is one."""
        return None

    def task(self, relative: str) -> str:
        """Return the name of the task: the file's, without its suffix."""
        return Path(relative).stem

    def _demos(self, file: SafeHdf5) -> list[str]:
        demos = file.keys("data")
        if not demos:
            raise file.error("data", "there are no demonstrations (data/demo_0, ...) in it")
        return demos

    def _views(
        self, file: SafeHdf5, group: str
    ) -> tuple[dict[str, FrameStream], dict[str, dict[str, FrameStream]]]:
        suffix = self.layout.image_suffix
        keys = file.keys(f"{group}/obs")
        cameras = [key.removesuffix(suffix) for key in keys if key.endswith(suffix)]
        if not cameras:
            raise file.error(f"{group}/obs", f"no camera ({suffix}) among {keys}")
        fps = _control_freq(file) or self._config.recorded_fps
        views: dict[str, FrameStream] = {}
        maps: dict[str, dict[str, FrameStream]] = {}
        for camera, name in safe_names(cameras).items():
            place = f"{group}/obs/{camera}"
            views[name] = self._stream(file, place + suffix, 3, fps)
            maps[name] = {
                kind.strip("_"): self._stream(file, place + kind, 1, fps)
                for kind in self.layout.map_suffixes
                if camera + kind in keys
            }
        return views, maps

    def _check_length(self, file: SafeHdf5, group: str, views: dict[str, FrameStream]) -> None:
        declared = file.attr(group, "num_samples")
        for name, view in views.items():
            if isinstance(declared, int) and declared != view.info.num_frames:
                raise file.error(
                    group,
                    f"view {name} has {view.info.num_frames} frames of num_samples {declared}; "
                    f"{_MEND}",
                )

    def _stream(self, file: SafeHdf5, path: str, channels: int, fps: float) -> FrameStream:
        data = file.dataset(path)
        shape = data.shape
        if len(shape) != 4 or shape[3] != channels or (channels == 3 and data.dtype != np.uint8):
            raise file.error(
                path, f"expected (T, H, W, {channels}) pictures, got {shape} {data.dtype}"
            )

        def read(first: int, last: int) -> np.ndarray:
            block = file.part(data, slice(first, last))
            return block if channels == 3 else block[..., 0]

        return array_stream(
            read,
            shape[:3],
            fps,
            self._limits,
            partial(file.error, path),
            chunk=data.chunks[0] if data.chunks else 1,
            frame_bytes=int(np.prod(shape[1:])) * data.dtype.itemsize,
            orientation=self.layout.orientation,
        )

    def _arrays(self, file: SafeHdf5, group: str) -> dict[str, np.ndarray]:
        paths = self._config.arrays
        if paths is None:
            pictures = (self.layout.image_suffix, *self.layout.map_suffixes)
            members = [*file.keys(group), *(f"obs/{key}" for key in file.keys(f"{group}/obs"))]
            members = [path for path in members if not path.endswith(pictures)]
            paths = tuple(path for path in members if not file.is_group(f"{group}/{path}"))
        return file.arrays({f"{group}/{path}": path.replace("obs/", "") for path in paths})


def _splits(file: SafeHdf5) -> dict[str, tuple[str, ...]]:
    """Read ``mask/<split>``, lists of demonstrations: the splits of each."""
    splits: dict[str, tuple[str, ...]] = {}
    for split in file.keys("mask"):
        for demo in file.strings(f"mask/{split}"):
            splits[demo] = (*splits.get(demo, ()), printable_path(split))
    return splits


def _control_freq(file: SafeHdf5) -> float | None:
    """Return the frames per second that ``env_args`` tells, if it does."""
    try:
        freq = float(json.loads(file.attr("data", "env_args"))["env_kwargs"]["control_freq"])
    except (TypeError, KeyError, ValueError, RecursionError):
        return None
    return freq if 0 < freq < 10_000 else None
