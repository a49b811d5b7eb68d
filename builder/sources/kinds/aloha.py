"""ALOHA and ACT: an HDF5 file per episode, pictures raw or as JPEG in ``observations/images``.

What ``record_episodes.py`` of ALOHA and ACT writes: ``action`` (T, 14), ``observations/qpos``,
``qvel`` and ``effort``, and a dataset per camera, (T, H, W, 3) uint8.  With the attribute
``compress`` it is (T, L) uint8 instead: JPEG files of ``cv2.imencode``, each padded with zeros to
the longest; ``compress_len`` (cameras, T) has their lengths, in an order of cameras that the file
does not tell.  RDT and RoboTwin write (T,) of bytes of one length, others of any length; still
others keep ``compress_len`` elsewhere or turned, or pictures as floats or with the channels first.
A control step is 0.02 s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
from pydantic import Field

from builder.core.errors import DepthError, SourceError
from builder.core.lazy import Lazy
from builder.core.messages import count
from builder.core.paths import printable_path, safe_names
from builder.inputs.fingerprint import fingerprints
from builder.inputs.hdf5 import SafeHdf5, open_hdf5
from builder.inputs.images import encoded_stream
from builder.inputs.listing import HDF5_SUFFIXES, files, locate
from builder.inputs.picture_arrays import channels_axis, picture_stream
from builder.inputs.streams import Frame, FrameStream, even_times
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import PictureSelection

_IMAGES = "observations/images"
_LENGTHS = "compress_len"
_LENGTHS_AT = (_LENGTHS, f"observations/{_LENGTHS}", f"{_IMAGES}/{_LENGTHS}")
_COLORS = (
    "nothing in the file says in which order its colours are: taken as {}; if red and blue are "
    "swapped in the preview, set source.colors={}"
)


class AlohaConfig(PictureSelection):
    """Settings of the ``aloha`` source."""

    recorded_fps: float = Field(default=50.0, gt=0, description="the files say nothing of time")
    colors: Literal["rgb", "bgr"] = Field(
        default="rgb",
        description="bgr: red and blue are swapped, as where cv2.imencode was given RGB",
    )


class Aloha(BaseSource[AlohaConfig]):
    """All HDF5 files below a folder, one episode each; the folder is the task.

    ``action`` and what else has a row per picture passes through.
    """

    Config: ClassVar = AlohaConfig

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for HDF5 files with cameras where ALOHA has them."""
        seen: list[str] = []

        def has_cameras(file: SafeHdf5) -> bool:
            seen[:] = file.keys(_IMAGES)[:1]
            return bool(seen)

        if contents.any_hdf5(has_cameras):
            number = sum(map(len, contents.having(HDF5_SUFFIXES).values()))
            place = f"/{_IMAGES}/{printable_path(seen[0])}"
            why = f"{count(number, 'HDF5 file')} with {place}: ALOHA / ACT"
            return Evidence(why, covers=("episodes", "video"))
        return None

    def refs(self) -> Iterator[EpisodeRef]:
        """List the files in natural order.  Raises SourceError when there is none."""
        for relative in files(self.path, HDF5_SUFFIXES, "HDF5 file"):
            folder = locate(self.path, relative).parent
            task = printable_path(folder.name) or None
            yield EpisodeRef.at(os.fsencode(relative), relative, task=task, group=task)

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one episode.  Raises SourceError naming what is wrong with it."""
        with open_hdf5(locate(self.path, ref.locator), self._limits) as file:
            shown = [each for each in file.datasets(_IMAGES) if _is_camera(file, each)]
            names = safe_names([each.replace("/", ".") for each in shown]).values()
            cameras = dict(zip(names, shown, strict=True))
            if not cameras:
                raise file.error(_IMAGES, f"no camera; the file has {file.keys('')}")
            yield Episode(
                views=Lazy.of(partial(self._view, file), cameras),
                arrays=Lazy(self._arrays(file)),
                files=fingerprints(self.path, [ref.locator]),
            )

    def _view(self, file: SafeHdf5, camera: str) -> FrameStream:
        path, fps = f"{_IMAGES}/{camera}", self._config.recorded_fps
        data = file.dataset(path, "biufSO")
        if channels_axis(data.shape) is not None:
            stream: FrameStream = picture_stream(
                lambda first, last: file.part(data, slice(first, last)),
                data.shape,
                data.dtype,
                fps,
                self._limits,
                partial(file.error, path),
                floats=self._config.float_pictures,
                chunk=data.chunks[0] if data.chunks else 1,
            )
        elif _holds_files(data.shape, data.dtype):
            if not len(data):
                raise file.error(path, "there is no picture in it")
            read = partial(self._jpeg, file, path, data, _lengths(file, camera, len(data)))
            times = even_times(len(data), fps)
            stream = encoded_stream(read, file.place(path), times, fps, self._limits)
        elif _is_depth(data.shape, data.dtype):
            said = f"{data.shape} {data.dtype} is a single channel beyond 8 bits"
            raise DepthError(str(file.error(path, f"{said}, which is depth and no picture")))
        else:
            raise file.error(
                path,
                f"expected pictures (T, H, W, 3) uint8, or JPEG files (T, L) uint8 or (T,) bytes, "
                f"got {data.shape} {data.dtype}; name the other cameras in source.views to build "
                f"without it",
            )
        return _Colored(stream, self._config.colors)

    def _jpeg(
        self, file: SafeHdf5, path: str, data: Any, lengths: list[np.ndarray], index: int
    ) -> bytes:
        raw = file.part(data, index).tobytes().rstrip(b"\0")
        said = [int(length) for each in lengths for length in each[:, index]]
        if said and len(raw) not in said:
            raise file.error(
                path,
                f"picture {index} has {len(raw)} bytes, {_LENGTHS} says {said}: it is damaged; get "
                f"the file again",
            )
        return raw

    def _arrays(self, file: SafeHdf5) -> dict[str, Callable[[], np.ndarray]]:
        paths = [f"{group}{key}" for group in ("", "observations/") for key in file.keys(group)]
        paths = [path for path in paths if path not in _LENGTHS_AT and not file.is_group(path)]
        return file.arrays({path: path.removeprefix("observations/") for path in paths})


def _is_camera(file: SafeHdf5, camera: str) -> bool:
    """Tell whether a dataset may be a camera; what cannot be described is refused when opened."""
    found = file.described(f"{_IMAGES}/{camera}")
    if found is None:
        return True
    numbers = found[1].kind in "biufc" and len(found[0]) < 3
    return camera != _LENGTHS and (not numbers or _holds_files(*found))


def _holds_files(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Tell whether an array holds an encoded picture in each row."""
    if len(shape) == 2:
        return dtype == np.uint8
    return len(shape) == 1 and (dtype.kind == "S" or h5py.check_vlen_dtype(dtype) == np.uint8)


def _is_depth(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    single = len(shape) == 3 or (len(shape) == 4 and 1 in (shape[1], shape[3]))
    return single and dtype.kind in "iuf" and dtype.itemsize > 1


def _lengths(file: SafeHdf5, camera: str, count: int) -> list[np.ndarray]:
    """Return what the file says of the lengths of its pictures, (cameras, T) each.

    They are only a check: what has another form than one row, or column, per camera is none.
    """
    for place in _LENGTHS_AT:
        with suppress(SourceError):
            path = f"{place}/{camera}" if file.is_group(place) else place
            found = file.array(path)
            if found.ndim in (1, 2) and count in found.shape:
                rows = np.atleast_2d(found)
                return [each for each in (rows, rows.T) if each.shape[1] == count]
    return []


class _Colored(FrameStream):
    """A stream whose pictures are RGB, or BGR; it notes which they were taken as."""

    def __init__(self, stream: FrameStream, colors: str) -> None:
        self._stream, self._swapped = stream, colors == "bgr"
        note = _COLORS.format(*(("BGR", "rgb") if self._swapped else ("RGB", "bgr")))
        self.info = replace(stream.info, notes=(*stream.info.notes, note))

    def __iter__(self) -> Iterator[Frame]:
        return self._turned(iter(self._stream))

    def times(self) -> np.ndarray:
        return self._stream.times()

    def take(self, indices: np.ndarray) -> Iterator[Frame]:
        return self._turned(self._stream.take(indices))

    def _turned(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        return map(_swap, frames) if self._swapped else frames


def _swap(frame: Frame) -> Frame:
    image: Any = frame.image
    pixels = image if isinstance(image, np.ndarray) else image.to_ndarray(format="rgb24")
    return Frame(np.ascontiguousarray(pixels[..., ::-1]), frame.seconds)
