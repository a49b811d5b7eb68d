"""Video files in, frames out: all that a file declares to hold, or an error.

Its frames are counted without decoding them, unless only the decoder knows how many there are.
What the decoder reports while it works is listened to.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from builder.core.errors import DecodeError, DepthError
from builder.core.lru_cache import LruCache
from builder.inputs.containers import broken_off, restarts, scrambled
from builder.inputs.demux import (
    ErrorLog,
    Survey,
    choose_stream,
    damaged,
    decoder_limit,
    encrypted,
    first_error,
    first_packet,
    is_partial,
    not_opened,
    open_container,
    samples_end,
    seconds_of,
    survey,
)
from builder.inputs.display import (
    Cropper,
    color_info,
    depth_reason,
    hdr_note,
    orientation_of,
    pixel_aspect,
    stream_depth_reason,
)
from builder.inputs.fingerprint import stamp
from builder.inputs.images import exif_orientation
from builder.inputs.keyframes import decoded_whole, keys_before, packets_from
from builder.inputs.streams import BY_HAND, Frame, FrameStream, StreamInfo, check_pixels
from builder.inputs.track_header import TrackHeader, track_header
from schemas.config import Limits
from schemas.geometry import Orientation


class Opened(NamedTuple):
    """A container with the chosen stream, and its frames from where it is read on."""

    container: Any
    stream: Any
    frames: Iterator[Any]


@dataclass(frozen=True)
class Whole:
    """What all packets of a file told, that is whole: not read again for each part of it.

    ``recounted``: where packets cannot tell the frames, they were counted by decoding.
    """

    index: int
    header: TrackHeader
    packets: Survey
    count: int
    pts: Any
    recounted: bool = False
    decoded_whole: str | None = None


_WHOLE: LruCache[tuple[Any, ...], Whole] = LruCache(8)


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
        self._index: int | None = None
        self._header = TrackHeader()
        key = _key(self.path, self._limits)
        if known := _WHOLE.get(key):
            self._index, self._header = known.index, known.header
        with self._errors_named():
            opened = self._open()
            if known is None:
                packets = survey(self.path, opened.stream.index, self._limits)
                self._check_whole(opened, packets)
                index = opened.stream.index
                known = Whole(index, self._header, packets, packets.count, packets.pts)
            self._packets, self._count, self._pts = known.packets, known.count, known.pts
            self._unit, self._rate = opened.stream.time_base, opened.stream.average_rate
            # AVI has the numbers of chunks in decoding order instead of times.
            self._numbered = opened.container.format.name == "avi"
            opened = opened._replace(frames=self._decode(opened, self._packets))
            first = self._first_frame(opened.frames, "no frame could be decoded")
            # Of field pictures two make a frame.  Where pictures are refreshed row by row, those
            # before the first whole one are not shown.
            refreshed = opened.stream.codec_context.name == "h264" and not first.key_frame
            unsure = not known.packets.exact or first.interlaced_frame or refreshed
            if not known.recounted and unsure:
                self._recount()
            if not known.recounted:
                why = decoded_whole(opened.stream, self._packets, self._pts, first)
                known = replace(
                    known, count=self._count, pts=self._pts, recounted=True, decoded_whole=why
                )
                _WHOLE[key] = known
            self.decoded_whole = known.decoded_whole
            self.info = self._describe(opened, first, orientation)
        # The first iteration continues from here: opening the file again would cost time.
        self._opened: Opened | None = opened._replace(frames=chain([first], opened.frames))

    def __iter__(self) -> Iterator[Frame]:
        """Yield all frames in presentation order; seconds are the file's own timestamps."""
        return self.after(0)

    def close(self) -> None:
        """Close the file; reading frames opens it again."""
        if self._opened:
            self._opened.container.close()
            self._opened = None

    def after(self, first: int) -> Iterator[Frame]:
        """Yield the frames from number ``first`` on, decoded from the keyframe before it."""
        count, last = first, -float("inf")
        with self._errors_named():
            opened, self._opened = self._opened, None
            if opened is None or first:
                opened = self._opened_at(first, opened)
            with opened.container:
                for frame in opened.frames:
                    self._check_frame(frame, count)
                    seconds = self._seconds_of(frame, count)
                    if seconds < last:
                        raise DecodeError.at(
                            self.path,
                            f"frame {count} is at {seconds:.3f} s, the one before it at "
                            f"{last:.3f} s: recordings may have been joined here; remux it, which "
                            f"gives new times (ffmpeg -i in -c copy out.mp4), or split it",
                        )
                    yield Frame(frame, seconds)
                    count, last = count + 1, seconds
        if count != self._count:
            raise self._wrong_count(count)

    def _opened_at(self, first: int, opened: Opened | None) -> Opened:
        """Open the file at a frame; also takes an open one, which it may go on with."""
        if first and not self.decoded_whole:
            opened = opened or self._open()
            for key in keys_before(self._packets, self._pts[first]):
                packets = packets_from(opened.container, opened.stream, key)
                frames = packets and self._sought(opened, packets, key[0], first)
                if frames:
                    return opened._replace(frames=frames)
        if opened:
            opened.container.close()
        opened = self._open()
        return opened._replace(frames=islice(self._decode(opened, self._packets), first, None))

    def _sought(
        self, opened: Opened, packets: Iterator[Any], key: int, first: int
    ) -> Iterator[Any] | None:
        """Decode from the keyframe shown at ``key`` to the frame ``first``; None if that fails.

        Pictures before the keyframe may need some of the group before.  Every later one must come
        at the time that the packets tell.
        """
        frames = self._decode(opened, replace(self._packets, skipped=0, leading=True), packets)
        shown = dropwhile(lambda frame: frame.pts is None or frame.pts < key, frames)
        try:
            found = next(shown, None)
            # Where a picture is refreshed row by row, the decoder waits until it is whole.
            if found is None or found.pts != key or not found.key_frame:
                return None
            while found is not None and found.pts is not None and found.pts < self._pts[first]:
                found = next(shown, None)
        except (DecodeError, av.InvalidDataError):
            return None  # what is wrong, decoding from the start tells
        if found is None or found.pts != self._pts[first]:
            return None
        return self._at_their_times(chain([found], shown), first)

    def _at_their_times(self, frames: Iterator[Any], first: int) -> Iterator[Any]:
        for index, frame in enumerate(frames, first):
            if index < self._count and frame.pts != self._pts[index]:
                at = self._seconds_of(frame, index)
                expected = seconds_of(self._pts[index], self._unit)
                what = f"frame {index} is at {at:.3f} s, its packet at {expected:.3f} s"
                raise damaged(self.path, what)
            yield frame

    def times(self) -> np.ndarray:
        """Return the seconds of all frames, (num_frames,) float64, without decoding if possible."""
        if self._pts is None:
            return super().times()
        return np.array([seconds_of(value, self._unit) for value in self._pts])

    def _seconds_of(self, frame: Any, index: int) -> float:
        if self._numbered and self._pts is not None:
            return seconds_of(self._pts[index], self._unit)
        # A file without times is read at its rate.
        return float(index / (self._rate or 1)) if frame.pts is None else time_of(frame)

    def _open(self) -> Opened:
        with ErrorLog() as logged:
            try:
                container = open_container(self.path, self._limits)
            except av.FFmpegError as error:
                raise not_opened(self.path, error, logged) from None
        if self._index is None:
            stream = choose_stream(self.path, container, self._limits)
            if reason := stream_depth_reason(stream):
                raise DepthError.at(self.path, reason)
            self._index, self._header = stream.index, self._read_header(container, stream)
        stream = container.streams[self._index]
        check_pixels(self.path, stream.width, stream.height, self._limits)
        stream.thread_count = 1
        # Without it, decoders crop at the left and top by whole blocks of memory only.
        stream.codec_context.flags |= av.codec.context.Flags.unaligned
        # Stored checksums are compared.  Stricter modes find no more than what the decoder logs.
        stream.codec_context.options = {
            "max_pixels": decoder_limit(self._limits),
            "err_detect": "crccheck",
        }
        return Opened(container, stream, iter(()))

    def _read_header(self, container: Any, stream: Any) -> TrackHeader:
        position = [each.index for each in container.streams.video].index(stream.index)
        shape = (stream.height, stream.width)
        return track_header(self.path, container.format.name, stream.id, position, shape)

    def _decode(
        self, opened: Opened, packets: Survey, given_packets: Iterator[Any] | None = None
    ) -> Iterator[Any]:
        """Yield the frames from the first keyframe on, without what is not to be shown of them.

        Raises DecodeError when the decoder reports damage, except of what refers to frames
        before that keyframe: it belongs to a group of pictures of which the start is missing.
        Raises it, too, where the shape of the pixels changes.
        """
        count, first_pts, waiting, early = 0, None, packets.skipped > 0, False
        given, cropper = 0, self._cropper(opened)
        context: Any = opened.stream.codec_context
        aspect: Any = None
        for packet in given_packets or opened.container.demux(opened.stream):
            # An empty packet with a time stands for a frame that was dropped.
            if not packet.size and packet.dts is not None:
                continue
            if packet.size:
                if waiting and (not packet.is_keyframe or is_partial(opened.stream, packet)):
                    continue
                if first_pts is None:
                    first_pts, early = packet.pts, packets.leading
                elif packet.pts is not None and packet.pts > first_pts:
                    early = False
                waiting = False
            # Where recordings were joined, the container calls the last packet damaged.
            packet.is_corrupt = False
            with ErrorLog() as logged:
                try:
                    frames = packet.decode()
                except av.InvalidDataError:
                    if not early:
                        raise
                    frames = []
            error = first_error(logged)
            if error and not early and (count or not packets.skipped):
                raise damaged(self.path, f"frame {count} or one near it is damaged ({error})")
            # The decoder may hold frames back: the packet that changes it tells the number.
            last, aspect = aspect, context.sample_aspect_ratio
            if given and aspect != last and packet.size:
                self._check_aspect(last, aspect, given if packets.exact else count)
            given += 1
            count += len(frames)
            yield from map(cropper, frames) if cropper else frames

    def _cropper(self, opened: Opened) -> Cropper | None:
        margins, stream = self._header.margins, opened.stream
        return Cropper((stream.height, stream.width), margins) if margins else None

    def _recount(self) -> None:
        """Count the frames by decoding them, where packets cannot tell."""
        times: list[int | None] = []
        opened = self._open()
        with opened.container:
            times.extend(frame.pts for frame in self._decode(opened, self._packets))
        if len(times) == self._count:
            return
        chunks, self._count, self._pts = self._pts, len(times), None
        known = [time for time in times if time is not None]
        if len(known) == len(times) and known:
            shift = chunks[0] - known[0] if self._numbered and chunks else 0
            self._pts = array("q", (time + shift for time in known))

    def _first_frame(self, frames: Iterator[Any], if_none: str) -> Any:
        first = next(frames, None)
        if first is None:
            raise encrypted(self.path) if scrambled(self.path) else damaged(self.path, if_none)
        self._shape = (first.height, first.width)
        check_pixels(self.path, first.width, first.height, self._limits)
        if reason := depth_reason(first):
            raise DepthError.at(self.path, reason)
        return first

    def _check_whole(self, opened: Opened, packets: Survey) -> None:
        """Compare what the container declares with the packets that are there."""
        container, stream = opened.container, opened.stream
        name, known, corrupt = container.format.name, packets.pts, packets.corrupt
        missing = broken_off(self.path, name, lambda: samples_end(container), packets.complaint)
        if missing:
            raise damaged(self.path, missing)
        if corrupt and (name != "mpegts" or len(corrupt) > restarts(self.path, stream.id)):
            raise damaged(self.path, f"it is damaged or cut off in frame {corrupt[0]}")
        if not known:
            return
        chunks = np.diff(known)
        # At a rate above that of the frames, each lasts several chunks.
        lasts = int(np.median(chunks)) if len(chunks) else 1
        if name == "avi" and known[-1] + max(1, lasts) < stream.frames:
            raise damaged(
                self.path, f"{stream.frames} frames are declared, the last one is {known[-1]}"
            )
        steps = chunks * float(stream.time_base)
        if packets.end is not None and container.duration and len(steps):
            declared = container.duration / av.time_base
            if declared - packets.end > 0.05 + 1.5 * steps.max():
                raise damaged(
                    self.path,
                    f"it lasts {declared:.3f} s by its header, but ends at {packets.end:.3f} s",
                )

    def _describe(self, opened: Opened, first: Any, orientation: Orientation | None) -> StreamInfo:
        stream, streams = opened.stream, len(opened.container.streams.video)
        said = BY_HAND if orientation else None
        try:
            orientation = orientation or orientation_of(first, lambda: self._stored_turn(opened))
            color = color_info(first, self._header.dolby_vision)
        except ValueError as error:
            raise DecodeError.at(self.path, str(error)) from None
        aspect, aspect_note = pixel_aspect(stream.sample_aspect_ratio, orientation)
        cropper = self._cropper(opened)
        said_of_it = (aspect_note, cropper and cropper.note(first), hdr_note(color))
        notes = [note for note in said_of_it if note]
        notes += self._count_notes()
        if self._header.several_views:
            notes.append("stereo (MV-HEVC): the base view was read")
        if streams > 1:
            notes.append(f"the file has {streams} video streams; number {stream.index} was read")
        if first.interlaced_frame:
            notes.append("interlaced: both fields are kept in one frame")
        return StreamInfo(
            coded_shape=(first.height, first.width),
            num_frames=self._count,
            orientation=orientation,
            orientation_from=said or ("its display matrix" if orientation != "none" else None),
            sample_aspect_ratio=aspect,
            fps=float(stream.average_rate) if stream.average_rate else None,
            color=color,
            codec=stream.codec_context.codec.canonical_name,
            notes=tuple(notes),
        )

    def _stored_turn(self, opened: Opened) -> Orientation | bytes | None:
        """Look in the file for the orientation, where it is hidden in the frames."""
        stream = opened.stream
        if stream.codec_context.codec.canonical_name == "mjpeg":
            return exif_orientation(first_packet(self.path, stream.index, self._limits))
        return self._header.matrix

    def _count_notes(self) -> Iterator[str]:
        packets = self._packets
        stored = packets.count + packets.skipped
        if stored == self._count:
            return
        if packets.skipped or packets.leading:
            yield (
                f"starts inside a group of pictures: {stored} frames are stored, "
                f"{self._count} can be decoded"
            )
        else:
            yield f"{stored} packets hold {self._count} frames"

    def _check_frame(self, frame: Any, index: int) -> None:
        if frame.is_corrupt:
            raise damaged(self.path, f"frame {index} is damaged")
        shape = (frame.height, frame.width)
        if shape != self._shape:
            raise DecodeError.at(
                self.path,
                f"frame {index} has (H, W) = {shape}, the frames before it {self._shape}; "
                f"split it where the size changes",
            )
        if index >= self._count:
            raise self._wrong_count(index + 1)

    def _check_aspect(self, last: Any, aspect: Any, index: int) -> None:
        (before, _), (after, _) = pixel_aspect(last), pixel_aspect(aspect)
        if before != after:
            raise DecodeError.at(
                self.path,
                f"its pixels (width:height) change from {before[0]}:{before[1]} to "
                f"{after[0]}:{after[1]} at frame {index}; split it there",
            )

    def _wrong_count(self, actual: int) -> DecodeError:
        return damaged(self.path, f"{actual} frames were decoded, {self._count} are stored")

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise not_opened(self.path, error, []) from None


def _key(path: Path, limits: Limits) -> tuple[Any, ...]:
    """Return what is known of a file under; another time it is another where it was written to."""
    try:
        return path, stamp(path), limits
    except (OSError, ValueError):
        return path, None, limits  # opening it says what is wrong


def time_of(frame: Any) -> float:
    """Return the seconds at which a frame is shown."""
    return seconds_of(frame.pts, frame.time_base)
