"""Decoding: a video file in, its frames out, exactly as many as the file declares.

A demux-only pass (about a hundredth of the cost of decoding) counts the frames first.  A file
is opened as nothing but a local file of a known container, so no playlist, no network and no
second file is ever touched.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

from builder.containers import cut_off
from builder.display import color_info, orientation_of, pixel_aspect
from builder.errors import DecodeError
from builder.ids import printable_path
from builder.sources.base import Frame, StreamInfo
from schemas.config import Limits
from schemas.dataset import Fingerprint
from schemas.geometry import Orientation

# Containers that hold their own frames; playlists, image sequences and devices are not here.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,gif,apng"
# These decoders hide damage unless told to be strict.  Others mark damaged frames by themselves,
# and strict ones refuse files that play everywhere.
_SILENT_CODECS = {"hevc"}
_MIB = 1 << 20


class VideoStream:
    """The frames of one video file; a ``FrameStream``.

    ``orientation`` overrides what the file says; ``frame_step`` keeps every n-th frame.
    Raises DecodeError for whatever is not a whole, readable video within ``limits``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limits: Limits | None = None,
        orientation: Orientation | None = None,
        frame_step: int = 1,
    ) -> None:
        self.path = Path(path)
        self._limits = limits or Limits()
        self._step = frame_step
        self._check_file()
        with self._errors_named(), self._open() as (container, stream):
            first, self._count, notes = self._survey(container, stream)
            self._shape = (first.height, first.width)
            self._rate = stream.average_rate
            self._timed = container.format.name != "avi"
            self.info = self._describe(container, stream, first, orientation, notes)

    def __iter__(self) -> Iterator[Frame]:
        """Yield every ``frame_step``-th frame; seconds are the file's own timestamps."""
        count = 0
        with self._errors_named(), self._open() as (container, stream):
            for frame in container.decode(stream):
                self._check_frame(frame, count)
                if count % self._step == 0:
                    yield Frame(frame, self._seconds(frame, count))
                count += 1
        if count != self._count:
            raise self._wrong_count(count)

    def times(self) -> np.ndarray:
        """Return the seconds of all frames, (num_frames,) float64, without decoding if possible."""
        with self._errors_named(), self._open() as (container, stream):
            packets = (p for p in container.demux(stream) if p.size and not p.is_discard)
            pts = [packet.pts for packet in packets if _is_shown(packet, stream)]
            unit = stream.time_base
        if not self._timed and self._rate:
            seconds = [float(index / self._rate) for index in range(self._count)]
        elif self._timed and len(pts) == self._count and None not in pts:
            seconds = [float(value * unit) for value in sorted(pts)]
        else:
            return np.array([frame.seconds for frame in self], np.float64)
        return np.array(seconds[:: self._step], np.float64)

    def _check_file(self) -> None:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise self._error(f"it cannot be opened: {error.strerror}") from None
        # Opening a FIFO or a device could block for ever; stat does not.
        if not stat.S_ISREG(status.st_mode):
            raise self._error("it is not a regular file (a folder, FIFO, socket or device)")
        if status.st_size == 0:
            raise self._error("the file is empty")

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        options = {
            "protocol_whitelist": "file",
            "format_whitelist": FORMATS,
            "max_pixels": str(self._limits.max_pixels),
        }
        # "file:" keeps names like "concat:x.mp4" from reaching another protocol.
        url = f"file:{self.path}"
        with av.open(url, options=options, metadata_errors="replace") as container:
            stream = self._choose(container)
            self._check_pixels(stream.width, stream.height)
            stream.thread_count = 1
            context = stream.codec_context
            context.options = {"max_pixels": str(self._limits.max_pixels)}
            if context.codec.canonical_name in _SILENT_CODECS:
                context.options |= {"err_detect": "crccheck+explode"}
            yield container, stream

    def _choose(self, container: Any) -> Any:
        """Pick the stream to read: no cover art; the default one, then the largest."""
        cover = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & cover]
        if not streams:
            raise self._error("it has no video stream")
        readable = [s for s in streams if s.codec_context is not None]
        if not readable:
            raise self._error("there is no decoder for its video codec; re-encode it as H.264")
        default = av.stream.Disposition.default
        return max(readable, key=lambda s: (bool(s.disposition & default), s.width * s.height))

    def _survey(self, container: Any, stream: Any) -> tuple[Any, int, list[str]]:
        """Decode the first frame, only count the others; return it, their number, and notes."""
        first, count, packets, start, leading = None, 0, 0, None, False
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise self._error(f"it is damaged or cut off in frame {count}; {_ADVICE}")
            if packet.size and not packet.is_discard:  # Edit lists discard; a flush is empty.
                if packets == 0:
                    start, leading = packet.pts, not packet.is_keyframe
                packets += 1
                count += _is_shown(packet, stream)
                leading |= None not in (start, packet.pts) and packet.pts < start
            if count > self._limits.max_frames:
                raise self._error(
                    f"it has more than {self._limits.max_frames} frames (limits.max_frames)"
                )
            if first is None:
                first = next(iter(packet.decode()), None)
        if first is None:
            raise self._error(f"no frame could be decoded; {_ADVICE}")
        missing = cut_off(self.path, container.format.name, declared=stream.frames, counted=count)
        if missing:
            raise self._error(f"{missing}; {_ADVICE}")
        if not leading:
            return first, count, []
        # Cut out of a longer stream: some frames at the start refer to what is not there.  Only
        # the decoder knows which.
        with self._open() as (again, stream):
            count = sum(1 for _ in again.decode(stream))
        note = f"starts inside a group of pictures: {packets} frames are stored, {count} decode"
        return first, count, [note] if count != packets else []

    def _describe(
        self,
        container: Any,
        stream: Any,
        first: Any,
        orientation: Orientation | None,
        notes: list[str],
    ) -> StreamInfo:
        try:
            orientation = orientation or orientation_of(first)
            color = color_info(first)
        except ValueError as error:
            raise self._error(str(error)) from None
        aspect, note = pixel_aspect(stream.sample_aspect_ratio, orientation)
        if note:
            notes.append(note)
        if len(container.streams.video) > 1:
            notes.append(
                f"the file has {len(container.streams.video)} video streams; "
                f"number {stream.index} was read"
            )
        if first.interlaced_frame:
            notes.append("interlaced: both fields are kept in one frame")
        return StreamInfo(
            coded_shape=(first.height, first.width),
            num_frames=-(-self._count // self._step),
            orientation=orientation,
            sample_aspect_ratio=aspect,
            fps=float(stream.average_rate) / self._step if stream.average_rate else None,
            color=color,
            codec=stream.codec_context.codec.canonical_name,
            notes=tuple(notes),
        )

    def _check_frame(self, frame: Any, index: int) -> None:
        if frame.is_corrupt:
            raise self._error(f"frame {index} is damaged; {_ADVICE}")
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

    def _seconds(self, frame: Any, index: int) -> float:
        # AVI has frame numbers in decoding order instead of times.
        if self._timed and frame.pts is not None:
            return float(frame.pts * frame.time_base)
        return float(index / self._rate) if self._rate else float(index)

    def _wrong_count(self, actual: int) -> DecodeError:
        return self._error(
            f"{actual} frames were decoded, the container declares {self._count}; {_ADVICE}"
        )

    def _error(self, message: str) -> DecodeError:
        return DecodeError(f"{printable_path(self.path)}: {message}")

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            reason = error.strerror or type(error).__name__
            raise self._error(f"not a whole video of a known kind ({reason}); {_ADVICE}") from None


_ADVICE = "get the file again, or re-encode it (ffmpeg -i in -c:v libx264 out.mp4)"


def _is_shown(packet: Any, stream: Any) -> bool:
    """Tell whether a packet is going to give a frame; VP8 has frames for reference only."""
    return stream.codec_context.codec.canonical_name != "vp8" or bool(memoryview(packet)[0] & 0x10)


def fingerprint(path: str | os.PathLike[str]) -> Fingerprint:
    """Size and SHA-256 of the first and the last MiB (of the whole, up to two) of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(file.read(_MIB))
        file.seek(max(_MIB, size - _MIB))
        digest.update(file.read(_MIB))
    return Fingerprint(size=size, sha256=digest.hexdigest())
