"""Video files in, frames out: exactly as many as a file declares, or an error.

A file is opened as nothing but a local file of a known container, so no playlist, no network
and no second file is ever touched.  Its frames are counted without decoding them.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from builder.core.errors import DecodeError
from builder.inputs.containers import cut_off
from builder.inputs.display import color_info, orientation_of, pixel_aspect
from builder.inputs.listing import regular_file
from builder.inputs.streams import Frame, FrameStream, StreamInfo, period
from schemas.config import Limits
from schemas.geometry import Orientation

# Containers that hold their own frames; playlists, image sequences and devices are not here.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,gif,apng"
_ADVICE = "get the file again, or re-encode it (ffmpeg -i in -c:v libx264 out.mp4)"
# These decoders hide damage unless told to be strict.  Others mark damaged frames by themselves,
# and strict ones refuse files that play everywhere.
_SILENT_CODECS = {"hevc"}


def _advice(path: Path) -> str:
    """Say what to do about a file that is no whole video, and that it is text if it is."""
    with path.open("rb") as file:
        head = file.read(256)
    printable = head.isascii() and all(32 <= byte or byte in b"\t\n\r" for byte in head)
    return "it is text, not video" if printable else _ADVICE


def _open_container(path: Path, limits: Limits, **options: str) -> Any:
    """Open a regular, non-empty file as a local video.

    Raises SourceError for anything else that lies there (a FIFO or device could block for ever
    and is not opened) and av.FFmpegError for other content.
    """
    if regular_file(path) == 0:
        raise DecodeError.at(path, "the file is empty")
    options |= {
        "protocol_whitelist": "file",
        "format_whitelist": _FORMATS,
        "max_pixels": decoder_limit(limits),
    }
    # "file:" keeps names like "concat:x.mp4" from reaching another protocol.
    return av.open(f"file:{path}", options=options, metadata_errors="replace")


def decoder_limit(limits: Limits) -> str:
    """Pixels at which a decoder stops by itself: it counts whole blocks, so it gets more."""
    return str(2 * limits.max_pixels + (1 << 16))


def _choose_stream(path: Path, container: Any) -> Any:
    """Pick the video stream to read: no cover art; the default one, then the largest."""
    kinds = av.stream.Disposition
    streams = [s for s in container.streams.video if not s.disposition & kinds.attached_pic]
    if not streams:
        raise DecodeError.at(path, "it has no video stream")
    readable = [s for s in streams if s.codec_context is not None]
    if not readable:
        raise DecodeError.at(path, "there is no decoder for its video codec; re-encode it as H.264")
    return max(
        readable, key=lambda s: (bool(s.disposition & kinds.default), s.width * s.height, -s.index)
    )


@dataclass(frozen=True)
class _Survey:
    """What the packets of one stream tell.

    ``count`` frames are going to be shown, unless ``inside``: the stream starts inside a group
    of pictures, and only the decoder knows which of the first frames can be shown.
    ``pts`` are the sorted times of all frames in units of ``time_base``; None if some have none.
    """

    count: int
    inside: bool
    pts: array[int] | None


def _survey(path: Path, index: int, limits: Limits) -> _Survey:
    """Read all packets of stream ``index`` without decoding, and count its frames.

    Costs about a hundredth of decoding, and 8 bytes per frame.  Raises DecodeError for packets
    that are damaged or cut off, and beyond ``limits.max_frames``.
    """
    pts, untimed, start, inside = array("q"), 0, None, False
    # Probing must not decode: what only a decoder knows is not asked here.
    with _open_container(path, limits, skip_frame="all") as container:
        stream = container.streams[index]
        has_hidden = stream.codec_context.codec.canonical_name == "vp8"
        for packet in container.demux(stream):
            count = len(pts) + untimed
            if packet.is_corrupt:
                raise DecodeError.at(path, f"it is damaged or cut off in frame {count}; {_ADVICE}")
            # A flush is empty, edit lists discard, and VP8 has frames for reference only.
            if not packet.size or packet.is_discard:
                continue
            if has_hidden and not memoryview(packet)[0] & 0x10:
                continue
            if count == limits.max_frames:
                raise DecodeError.at(
                    path, f"it has more than {limits.max_frames} frames (limits.max_frames)"
                )
            if packet.pts is None:
                untimed += 1
                inside |= count == 0 and not packet.is_keyframe
                continue
            if count == 0:
                start, inside = packet.pts, not packet.is_keyframe
            pts.append(packet.pts)
            inside |= start is not None and packet.pts < start
    return _Survey(len(pts) + untimed, inside, None if untimed else array("q", sorted(pts)))


class _Opened(NamedTuple):
    container: Any
    stream: Any
    frames: Iterator[Any]


class VideoStream(FrameStream):
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
            first = self._first_frame(opened.frames, f"no frame could be decoded; {_ADVICE}")
            packets = _survey(self.path, opened.stream.index, self._limits)
            self._check_end(opened, packets.count)
            self._count = packets.count
            if packets.inside:
                with (again := self._open()).container:
                    self._count = sum(1 for _ in again.frames)
            self._pts = packets.pts if packets.count == self._count else None
            self._rate, self._unit = opened.stream.average_rate, opened.stream.time_base
            # AVI has frame numbers in decoding order instead of times.
            self._numbered = opened.container.format.name == "avi" and bool(self._rate)
            self.info = self._describe(opened, first, orientation, stored=packets.count)
        # The first iteration continues from here: opening the file again would cost time.
        self._opened: _Opened | None = opened._replace(frames=chain([first], opened.frames))

    def __iter__(self) -> Iterator[Frame]:
        """Yield all frames in presentation order; seconds are the file's own timestamps."""
        count, last = 0, -math.inf
        with self._errors_named():
            opened, self._opened = self._opened or self._open(), None
            with opened.container:
                for frame in opened.frames:
                    self._check_frame(frame, count)
                    # A file without times is read at its rate.
                    numbered = self._numbered or frame.pts is None
                    seconds = float(count / (self._rate or 1)) if numbered else _time(frame)
                    if seconds < last:
                        raise DecodeError.at(
                            self.path,
                            f"frame {count} is at {seconds:.3f} s, the one before it at "
                            f"{last:.3f} s; {_ADVICE}",
                        )
                    yield Frame(frame, seconds)
                    count, last = count + 1, seconds
        if count != self._count:
            raise self._wrong_count(count)

    def times(self) -> np.ndarray:
        """Return the seconds of all frames, (num_frames,) float64, without decoding if possible."""
        if self._numbered:
            return np.array([float(index / self._rate) for index in range(self._count)])
        if self._pts is None:
            return super().times()
        return np.array([float(value * self._unit) for value in self._pts])

    def _open(self) -> _Opened:
        container = _open_container(self.path, self._limits)
        stream = _choose_stream(self.path, container)
        self._check_pixels(stream.width, stream.height)
        stream.thread_count = 1
        context = stream.codec_context
        context.options = {"max_pixels": decoder_limit(self._limits)}
        if context.codec.canonical_name in _SILENT_CODECS:
            context.options |= {"err_detect": "crccheck+explode"}
        return _Opened(container, stream, container.decode(stream))

    def _first_frame(self, frames: Iterator[Any], if_none: str) -> Any:
        first = next(frames, None)
        if first is None:
            raise DecodeError.at(self.path, if_none)
        self._shape = (first.height, first.width)
        self._check_pixels(first.width, first.height)
        return first

    def _check_end(self, opened: _Opened, counted: int) -> None:
        declared = opened.stream.frames
        container = opened.container.format.name
        if missing := cut_off(self.path, container, declared=declared, counted=counted):
            raise DecodeError.at(self.path, f"{missing}; {_ADVICE}")

    def _describe(
        self, opened: _Opened, first: Any, orientation: Orientation | None, stored: int
    ) -> StreamInfo:
        stream, streams = opened.stream, len(opened.container.streams.video)
        try:
            orientation = orientation or orientation_of(first)
            color = color_info(first)
        except ValueError as error:
            raise DecodeError.at(self.path, str(error)) from None
        aspect, aspect_note = pixel_aspect(stream.sample_aspect_ratio, orientation)
        notes = [aspect_note] if aspect_note else []
        if stored != self._count:
            notes.append(
                f"starts inside a group of pictures: {stored} frames are stored, "
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
            raise DecodeError.at(self.path, f"frame {index} is damaged; {_ADVICE}")
        shape = (frame.height, frame.width)
        if shape != self._shape:
            raise DecodeError.at(
                self.path,
                f"frame {index} has (H, W) = {shape}, the frames before it {self._shape}; "
                f"split it where the size changes",
            )
        if index >= self._count:
            raise self._wrong_count(index + 1)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise DecodeError.at(
                self.path,
                f"its frames of {width}x{height} pixels exceed the limit of "
                f"{self._limits.max_pixels} (limits.max_pixels)",
            )

    def _wrong_count(self, actual: int) -> DecodeError:
        return DecodeError.at(
            self.path,
            f"{actual} frames were decoded, the container declares {self._count}; {_ADVICE}",
        )

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            reason = error.strerror or type(error).__name__
            if isinstance(error, PermissionError):
                raise DecodeError.at(self.path, f"it cannot be opened: {reason}") from None
            what = f"not a whole video of a known kind ({reason}); {_advice(self.path)}"
            raise DecodeError.at(self.path, what) from None


class VideoSpan(VideoStream):
    """The frames of a video file at known times; a ``FrameStream``.

    ``start`` is where the span begins in the file, in seconds; ``seconds`` (T,) are the times
    of its frames from there on.  Frame for frame they must be in the file, to half a period.
    ``orientation`` overrides what the file says.
    Raises DecodeError for whatever is not a readable video within ``limits``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start: float,
        seconds: np.ndarray,
        *,
        limits: Limits | None = None,
        orientation: Orientation | None = None,
    ) -> None:
        self.path = Path(path)
        self._limits = limits or Limits()
        self._start, self._seconds, self._count = start, seconds, len(seconds)
        with self._errors_named():
            opened = self._open()
            rate = float(opened.stream.average_rate or 1)
            self._slack = (period(seconds) or 1 / rate) / 2
            # Counting the whole file for each of its spans would take quadratic time.
            self._check_end(opened, counted=opened.stream.frames)
            frames = self._seek(opened)
            first = self._first_frame(frames, f"it has no frame at {self._expected(0):.3f} s")
            self.info = self._describe(opened, first, orientation, stored=self._count)
        # The first iteration continues from here.
        self._opened = opened._replace(frames=chain([first], frames))

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames of the span; seconds are those given."""
        with self._errors_named():
            opened, self._opened = self._opened, None
            if opened is None:
                opened = self._open()
                opened = opened._replace(frames=self._seek(opened))
            with opened.container:
                for index, seconds in enumerate(self._seconds.tolist()):
                    frame = next(opened.frames, None)
                    self._check_time(frame, index)
                    self._check_frame(frame, index)
                    yield Frame(frame, seconds)

    def times(self) -> np.ndarray:
        """Return the seconds of all frames, (num_frames,) float64."""
        return self._seconds

    def _seek(self, opened: Any) -> Iterator[Any]:
        """Return the frames from the span's first on, decoding from the keyframe before it."""
        first = self._expected(0) - self._slack
        offset = max(0, int(first / opened.stream.time_base))
        opened.container.seek(offset, stream=opened.stream)
        return (frame for frame in opened.frames if frame.pts is None or _time(frame) >= first)

    def _expected(self, index: int) -> float:
        return self._start + float(self._seconds[index])

    def _check_time(self, frame: Any, index: int) -> None:
        expected = self._expected(index)
        if frame is None or frame.pts is None:
            raise DecodeError.at(
                self.path, f"it ends before {expected:.3f} s (frame {index} of the episode)"
            )
        if abs(_time(frame) - expected) > self._slack:
            raise DecodeError.at(
                self.path,
                f"it has no frame at {expected:.3f} s (frame {index} of the episode); the next "
                f"one is at {_time(frame):.3f} s",
            )


def _time(frame: Any) -> float:
    return float(frame.pts * frame.time_base)
