"""Decoding: a video file in, its frames out, exactly as many as the file declares."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from builder.core.errors import DecodeError
from builder.inputs.containers import cut_off
from builder.inputs.demux import (
    ADVICE,
    Survey,
    advice,
    choose_stream,
    decoder_limit,
    failure,
    open_container,
    survey,
)
from builder.inputs.display import color_info, orientation_of, pixel_aspect
from builder.inputs.streams import Frame, StreamInfo
from schemas.config import Limits
from schemas.dataset import Fingerprint
from schemas.geometry import Orientation

# These decoders hide damage unless told to be strict.  Others mark damaged frames by themselves,
# and strict ones refuse files that play everywhere.
_SILENT_CODECS = {"hevc"}
_MIB = 1 << 20


class _Opened(NamedTuple):
    container: Any
    stream: Any
    frames: Iterator[Any]


class _Clock:
    """When the frames of one stream are shown."""

    def __init__(self, opened: _Opened, pts: Sequence[int] | None) -> None:
        self._rate, self._unit = opened.stream.average_rate, opened.stream.time_base
        # AVI has frame numbers in decoding order instead of times.
        self._numbered = opened.container.format.name == "avi" and bool(self._rate)
        self._pts = pts

    def seconds(self, frame: Any, index: int) -> float:
        """Return the time of a decoded frame; a file without times is read at its rate."""
        if self._numbered or frame.pts is None:
            return float(index / (self._rate or 1))
        return float(frame.pts * frame.time_base)

    def all(self, count: int) -> np.ndarray | None:
        """Return the times of all frames, (count,) float64, or None when only decoding tells."""
        if self._numbered:
            return np.array([float(index / self._rate) for index in range(count)])
        if self._pts is None:
            return None
        return np.array([float(value * self._unit) for value in self._pts])


class VideoStream:
    """The frames of one video file; a ``FrameStream``.

    ``orientation`` overrides what the file says.  Raises DecodeError for whatever is not a
    whole, readable video within ``limits``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limits: Limits | None = None,
        orientation: Orientation | None = None,
    ) -> None:
        self.path = Path(path)
        self._limits = limits or Limits()
        with self._errors_named():
            opened = self._open()
            first = next(opened.frames, None)
            if first is None:
                raise self._error(f"no frame could be decoded; {ADVICE}")
            self._shape = (first.height, first.width)
            self._check_pixels(first.width, first.height)
            found = survey(self.path, opened.stream.index, self._limits)
            self._check_end(opened, found)
            self._count = self._count_frames(found)
            self._clock = _Clock(opened, found.pts if found.count == self._count else None)
            self.info = self._describe(opened, first, orientation, found)
        # The first reading goes on where this stopped: opening a file has its cost.
        self._opened: _Opened | None = opened._replace(frames=chain([first], opened.frames))

    def __iter__(self) -> Iterator[Frame]:
        """Yield all frames in presentation order; seconds are the file's own timestamps."""
        count, last = 0, -math.inf
        with self._errors_named():
            opened, self._opened = self._opened or self._open(), None
            with opened.container:
                for frame in opened.frames:
                    self._check_frame(frame, count)
                    seconds = self._clock.seconds(frame, count)
                    if seconds < last:
                        raise self._error(
                            f"frame {count} is at {seconds:.3f} s, the one before it at "
                            f"{last:.3f} s; {ADVICE}"
                        )
                    yield Frame(frame, seconds)
                    count, last = count + 1, seconds
        if count != self._count:
            raise self._wrong_count(count)

    def times(self) -> np.ndarray:
        """Return the seconds of all frames, (num_frames,) float64, without decoding if possible."""
        known = self._clock.all(self._count)
        return known if known is not None else np.array([frame.seconds for frame in self])

    def _open(self) -> _Opened:
        container = open_container(self.path, self._limits)
        stream = choose_stream(self.path, container)
        self._check_pixels(stream.width, stream.height)
        stream.thread_count = 1
        context = stream.codec_context
        context.options = {"max_pixels": decoder_limit(self._limits)}
        if context.codec.canonical_name in _SILENT_CODECS:
            context.options |= {"err_detect": "crccheck+explode"}
        return _Opened(container, stream, container.decode(stream))

    def _count_frames(self, found: Survey) -> int:
        if not found.inside:
            return found.count
        opened = self._open()
        with opened.container:
            return sum(1 for _ in opened.frames)

    def _check_end(self, opened: _Opened, found: Survey) -> None:
        missing = cut_off(
            self.path,
            opened.container.format.name,
            declared=opened.stream.frames,
            counted=found.count,
        )
        if missing:
            raise self._error(f"{missing}; {ADVICE}")

    def _describe(
        self, opened: _Opened, first: Any, orientation: Orientation | None, found: Survey
    ) -> StreamInfo:
        stream, streams = opened.stream, len(opened.container.streams.video)
        try:
            orientation = orientation or orientation_of(first)
            color = color_info(first)
        except ValueError as error:
            raise self._error(str(error)) from None
        aspect, aspect_note = pixel_aspect(stream.sample_aspect_ratio, orientation)
        notes = [aspect_note] if aspect_note else []
        if found.count != self._count:
            notes.append(
                f"starts inside a group of pictures: {found.count} frames are stored, "
                f"{self._count} can be decoded"
            )
        if streams > 1:
            notes.append(f"the file has {streams} video streams; number {stream.index} was read")
        if first.interlaced_frame:
            notes.append("interlaced: both fields are kept in one frame")
        return StreamInfo(
            coded_shape=(first.height, first.width),
            num_frames=self._count,
            orientation=orientation,
            sample_aspect_ratio=aspect,
            fps=float(stream.average_rate) if stream.average_rate else None,
            color=color,
            codec=stream.codec_context.codec.canonical_name,
            notes=tuple(notes),
        )

    def _check_frame(self, frame: Any, index: int) -> None:
        if frame.is_corrupt:
            raise self._error(f"frame {index} is damaged; {ADVICE}")
        shape = (frame.height, frame.width)
        if shape != self._shape:
            raise self._error(
                f"frame {index} has (H, W) = {shape}, the frames before it {self._shape}; "
                f"split it where the size changes"
            )
        if index >= self._count:
            raise self._wrong_count(index + 1)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise self._error(
                f"its frames of {width}x{height} pixels exceed the limit of "
                f"{self._limits.max_pixels} (limits.max_pixels)"
            )

    def _wrong_count(self, actual: int) -> DecodeError:
        return self._error(
            f"{actual} frames were decoded, the container declares {self._count}; {ADVICE}"
        )

    def _error(self, message: str) -> DecodeError:
        return failure(self.path, message)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            reason = error.strerror or type(error).__name__
            if isinstance(error, PermissionError):
                raise self._error(f"it cannot be opened: {reason}") from None
            what = f"not a whole video of a known kind ({reason}); {advice(self.path)}"
            raise self._error(what) from None


def fingerprint(path: str | os.PathLike[str]) -> Fingerprint:
    """Size and SHA-256 of the first and the last MiB (of the whole, up to two) of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(file.read(_MIB))
        file.seek(max(_MIB, size - _MIB))
        digest.update(file.read(_MIB))
    return Fingerprint(size=size, sha256=digest.hexdigest())
