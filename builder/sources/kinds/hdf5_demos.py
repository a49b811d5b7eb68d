"""HDF5 files with demonstrations under ``data/demo_<i>``: what LIBERO and robomimic share."""

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.lazy import Lazy
from builder.core.paths import printable_path, safe_names, safe_text
from builder.inputs.fingerprint import fingerprints
from builder.inputs.hdf5 import SafeHdf5, open_hdf5
from builder.inputs.listing import HDF5_SUFFIXES, files, locate
from builder.inputs.picture_arrays import (
    channels_axis,
    is_large,
    kept_as_numbers,
    picture_stream,
)
from builder.inputs.streams import FrameStream, array_stream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import PictureSelection
from schemas.geometry import Orientation

_MEND = "get the file again, or correct the number if the others were taken out"


# What names of pictures end in, and what views are not called by.
_PICTURES = ("_image", "_rgb")
_MAPS = ("_depth", "_segmentation")
_CONVENTION = "macros_image_convention"
LIBERO_MARK = "problem_info"
"""An attribute of ``data`` that LIBERO writes, and nobody else."""


class DemosConfig(PictureSelection):
    """Settings of the sources that read demonstrations from HDF5."""

    recorded_fps: float = Field(
        default=20.0, gt=0, description="when the file's env_args have no control_freq"
    )


class Demos(BaseSource[DemosConfig]):
    """Demonstrations in all HDF5 files below a folder, or in one file.

    Every uint8 array (T, H, W, 3) or (T, 3, H, W) below ``obs`` is a camera, floats of that shape
    where their name, or ``views``, says so.  Depth and segmentation named after a camera are its
    maps, all other numbers pass through.
    """

    evidence: ClassVar[str]

    @classmethod
    def made(cls, file: SafeHdf5) -> bool:
        """Tell whether a file of demonstrations is of this kind."""
        return not is_libero(file)

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for pictures in the first demonstration of a file."""

        def has_pictures(file: SafeHdf5) -> bool:
            found = (_cameras(file, f"data/{demo}") for demo in file.keys("data")[:1])
            return any(found) and cls.made(file)

        if contents.any_hdf5(has_pictures):
            return Evidence(f"{cls.evidence} in HDF5 files")
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
            cameras = _cameras(file, group, self._config.views)
            names = _view_names(cameras)
            if not cameras:
                there = file.datasets(f"{group}/obs")
                for each in there:
                    if each.endswith(_PICTURES):
                        file.dataset(f"{group}/obs/{each}")  # it says why it is refused
                raise file.error(f"{group}/obs", f"no pictures (T, H, W, 3) of uint8 among {there}")
            arrays, array_names = self._arrays(file, group, cameras)
            yield Episode(
                views=Lazy.of(partial(self._view, file, group), names),
                maps={
                    name: Lazy.of(partial(self._map, file, group), cameras[camera])
                    for name, camera in names.items()
                },
                arrays=Lazy(arrays),
                array_names=array_names,
                files=fingerprints(self.path, [relative]),
                notes=tuple(_perhaps_pictures(file, group, array_names)),
                text=safe_text(_language(file, group)) or self.text(file, relative),
            )

    def text(self, file: SafeHdf5, relative: str) -> str | None:
        """Return the instruction in words, where the demonstration does not tell it itself."""
        return None

    def orientation(self, file: SafeHdf5) -> tuple[Orientation, str | None]:
        """Return how a file's pictures are turned upright, and what says so, if anything does."""
        said = file.attr("data", _CONVENTION)
        known: dict[str, Orientation] = {"opengl": "vflip", "opencv": "none"}
        if isinstance(said, str) and (turn := known.get(said.strip().lower())):
            return turn, f"the file's attribute {_CONVENTION} is {said}"
        return "none", None

    def task(self, relative: str) -> str:
        """Return the name of the task: the file's, without its suffix."""
        return Path(relative).stem

    def _demos(self, file: SafeHdf5) -> list[str]:
        demos = file.keys("data")
        if not demos:
            raise file.error("data", "there are no demonstrations (data/demo_0, ...) in it")
        return demos

    def _view(self, file: SafeHdf5, group: str, camera: str) -> FrameStream:
        path = f"{group}/obs/{camera}"
        data = file.dataset(path)
        declared = file.attr(group, "num_samples")
        if isinstance(declared, int) and data.shape[:1] != (declared,):
            raise file.error(
                group,
                f"{camera} has {len(data)} frames of num_samples {declared}; {_MEND}",
            )
        turn, why = self.orientation(file)
        return picture_stream(
            lambda first, last: file.part(data, slice(first, last)),
            data.shape,
            data.dtype,
            self._fps(file),
            self._limits,
            partial(file.error, path),
            floats=self._config.float_pictures,
            chunk=data.chunks[0] if data.chunks else 1,
            orientation=turn,
            orientation_from=why,
        )

    def _map(self, file: SafeHdf5, group: str, inner: str) -> FrameStream:
        path = f"{group}/obs/{inner}"
        data = file.dataset(path)
        shape, axes = data.shape, len(data.shape)
        if axes not in (3, 4) or (axes == 4 and shape[3] != 1):
            raise file.error(path, f"expected (T, H, W) or (T, H, W, 1), got {shape}")
        turn, why = self.orientation(file)
        return array_stream(
            lambda first, last: file.part(data, slice(first, last)).reshape(-1, *shape[1:3]),
            shape[:3],
            self._fps(file),
            self._limits,
            partial(file.error, path),
            chunk=data.chunks[0] if data.chunks else 1,
            frame_bytes=math.prod(shape[1:]) * data.dtype.itemsize,
            orientation=turn,
            orientation_from=why,
        )

    def _fps(self, file: SafeHdf5) -> float:
        return _control_freq(file) or self._config.recorded_fps

    def _arrays(
        self, file: SafeHdf5, group: str, cameras: Mapping[str, Mapping[str, str]]
    ) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, str]]:
        """Return what reads the arrays, and their names by their path in the demonstration."""
        shown = (path for camera, maps in cameras.items() for path in (camera, *maps.values()))
        pictures = {f"obs/{path}" for path in shown}
        members = [key for key in file.keys(group) if not _is_group(file, f"{group}/{key}")]
        members += [f"obs/{path}" for path in file.datasets(f"{group}/obs")]
        paths = [path for path in members if path not in pictures]
        short = {path: path.removeprefix("obs/").replace("/", ".") for path in paths}
        names = {
            path: path.replace("/", ".") if name in paths and name != path else name
            for path, name in short.items()
        }
        stored = safe_names(names.values())
        return (
            file.arrays({f"{group}/{path}": name for path, name in names.items()}),
            {path: stored[name] for path, name in names.items()},
        )


def is_libero(file: SafeHdf5) -> bool:
    """Tell whether LIBERO wrote a file; others have the same form."""
    return file.attr("data", LIBERO_MARK) is not None


def _cameras(file: SafeHdf5, group: str, asked: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """Return the cameras below ``obs`` by path, and the paths of the maps of each by kind.

    Floats are one where their name says so, or where they are among the views ``asked`` for.
    """
    paths = file.datasets(f"{group}/obs")
    bases = {path: _base(path) for path in paths if _is_camera(file, group, path, asked)}
    maps: dict[str, dict[str, str]] = {
        camera: {
            path.removeprefix(f"{base}_"): path
            for path in paths
            if path != camera and path.startswith(tuple(base + each for each in _MAPS))
        }
        for camera, base in bases.items()
    }
    claimed = {path for found in maps.values() for path in found.values()}
    return {camera: found for camera, found in maps.items() if camera not in claimed}


def _is_camera(file: SafeHdf5, group: str, path: str, asked: Collection[str]) -> bool:
    shape, dtype = file.described(f"{group}/obs/{path}") or ((), np.dtype(np.void))
    if channels_axis(shape) is None:
        return False
    # A single picture, of the goal for example, is no camera.
    steps = file.described(f"{group}/actions")
    alone = shape[0] == 1 and steps is not None and steps[0][:1] != (1,)
    said = path.endswith(_PICTURES) or path in asked
    large = dtype == np.uint8 and is_large(shape)
    return not alone and (large or (said and (dtype == np.uint8 or dtype.kind == "f")))


def _perhaps_pictures(file: SafeHdf5, group: str, names: Mapping[str, str]) -> Iterator[str]:
    """Say which arrays below ``obs``, named by their path, may be pictures."""
    for path, name in names.items():
        described = file.described(f"{group}/{path}") if path.startswith("obs/") else None
        if described and (said := kept_as_numbers(name, *described)):
            yield said


def _base(path: str) -> str:
    suffix = next((each for each in _PICTURES if path.endswith(each)), "")
    return path.removesuffix(suffix)


def _view_names(cameras: Iterable[str]) -> dict[str, str]:
    """Return cameras by view: their name without its suffix, where that tells them apart."""
    short = {path: _base(path) for path in cameras}
    times = Counter(short.values())
    names = [(path if times[name] > 1 else name).replace("/", ".") for path, name in short.items()]
    return dict(zip(safe_names(names).values(), short, strict=True))


def _is_group(file: SafeHdf5, path: str) -> bool:
    with suppress(SourceError):  # a link that is refused is told where it is read
        return file.is_group(path)
    return False


def _language(file: SafeHdf5, group: str) -> str | None:
    """Return the instruction of one demonstration, as robomimic keeps it."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        found = json.loads(file.attr(group, "ep_meta"))["lang"]
        return found if isinstance(found, str) else None
    return None


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
