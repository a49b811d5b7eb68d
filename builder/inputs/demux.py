"""Video files opened safely, and what their packets tell without being decoded.

A file is opened as nothing but a local file of a known container, so no playlist, no network
and no second file is ever touched.
"""

from __future__ import annotations

import errno
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from builder.core.errors import DecodeError
from builder.inputs.display import stream_depth_reason
from builder.inputs.listing import regular_file
from schemas.config import Limits

# Containers that hold their own frames; playlists, image sequences and devices are not here.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,apng"
_ADVICE = "get the file again, or re-encode it (ffmpeg -i in -c:v libx264 out.mp4)"

# Codecs of which every packet gives one frame, beside those that have keyframes only.  Packets of
# others are counted by decoding them.
_ONE_FRAME_EACH = set(
    "h264 hevc av1 vp8 vp9 mpeg1video mpeg2video mpeg4 h263 flv1 msmpeg4v1 msmpeg4v2 msmpeg4v3 "
    "wmv1 wmv2 theora ffv1 gif apng cinepak qtrle svq1".split()
)
# An MPEG-4 packet as small as this holds a frame that is "not coded", and may give none.
_NOT_CODED_BYTES = 16


def advice(path: Path) -> str:
    """Say what to do about a file that is no whole video, and that it is text if it is."""
    with path.open("rb") as file:
        head = file.read(256)
    printable = head.isascii() and all(32 <= byte or byte in b"\t\n\r" for byte in head)
    return "it is text, not video" if printable else _ADVICE


def not_opened(path: Path, error: av.FFmpegError, logged: list[Any]) -> DecodeError:
    """Return an error that says why FFmpeg does not open a file, by what it logged."""
    reason = error.strerror or type(error).__name__
    if error.errno == errno.EACCES:
        return DecodeError.at(path, f"it cannot be opened: {reason}")
    advised = advice(path)
    kinds = [who for _, who, text in logged if _UNREAD in text]
    if kinds and (advised == _ADVICE or kinds[0] == "yuv4mpegpipe"):
        kind, _, picture = kinds[0].split(",")[0].partition("_")
        suffix = "mp4" if kind in _BARE else "mkv"
        what = f"its container ({kind}) is not read; remux it (ffmpeg -i in -c copy out.{suffix})"
        return DecodeError.at(path, f"it is a picture ({kind}), no video" if picture else what)
    said = next((text.strip() for *_, text in logged if _NO_INDEX in text), reason)
    return DecodeError.at(path, f"not a whole video of a known kind ({said}); {advised}")


# What FFmpeg logs of a container that is not among _FORMATS, and of an MP4 that was not finished.
_UNREAD, _NO_INDEX = "Format not on whitelist", "moov atom not found"
# Bare streams have no times, which Matroska needs.
_BARE = set("h264 hevc vvc m4v mpegvideo obu av1 h263 cavsvideo".split())


def damaged(path: Path, what: str) -> DecodeError:
    """Return an error that says what is wrong with a file, and what to do about it."""
    return DecodeError.at(path, f"{what}; {_ADVICE}")


# From PyAV 19 on, metadata that is no UTF-8 is never an error.
_METADATA: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


def encrypted(path: Path) -> DecodeError:
    """Return the error of a video that is encrypted."""
    return DecodeError.at(path, "it is encrypted; decrypt it first")


def open_container(path: Path, limits: Limits, **options: str) -> Any:
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
    return av.open(f"file:{path}", options=options, **_METADATA)


def decoder_limit(limits: Limits) -> str:
    """Pixels at which a decoder stops by itself: it counts whole blocks, so it gets more."""
    return str(2 * limits.max_pixels + (1 << 16))


class ErrorLog:
    """Collect what FFmpeg logs as an error in this thread, as (level, who, message).

    Of most damage a decoder says nothing else: it shows what is left of a frame, or leaves it
    out.  The level is FFmpeg's own, for the whole process, so it is set back after the last.
    """

    __slots__ = ("_capture",)
    _lock, _listening, _before = threading.Lock(), 0, None

    def __enter__(self) -> list[Any]:
        kind = ErrorLog
        with kind._lock:
            if not kind._listening:
                kind._before = av.logging.get_level()
                if kind._before is None or kind._before < av.logging.ERROR:
                    av.logging.set_level(av.logging.ERROR)
                # A message that was logged of the file before must be heard again.
                av.logging.set_skip_repeated(False)
            kind._listening += 1
        self._capture = av.logging.Capture()
        return self._capture.__enter__()

    def __exit__(self, *error: object) -> None:
        self._capture.__exit__(None, None, None)
        kind = ErrorLog
        with kind._lock:
            kind._listening -= 1
            if not kind._listening:
                av.logging.set_level(kind._before)


# Said of H.264 that begins inside a group of pictures; no pixel depends on it.
_HARMLESS = ("mmco: unref short failure",)


def first_error(logged: list[Any], speaker: str | None = None) -> str | None:
    """Return the first error of what was logged, by ``speaker`` if given; None without any."""
    for level, who, text in logged:
        if level <= av.logging.ERROR and speaker in (None, who) and not text.startswith(_HARMLESS):
            return f"{who}: {text.strip()}"
    return None


def choose_stream(path: Path, container: Any, limits: Limits) -> Any:
    """Pick the video stream to read: no cover art, no still beside a moving one, no depth.

    Among those left the default one is taken, then the largest.
    """
    kinds = av.stream.Disposition
    streams = [s for s in container.streams.video if not s.disposition & kinds.attached_pic]
    if not streams:
        raise DecodeError.at(path, "it has no video stream")
    readable = [s for s in streams if s.codec_context is not None]
    if not readable:
        raise DecodeError.at(path, "there is no decoder for its video codec; re-encode it as H.264")
    colour = [s for s in readable if s.codec_context.format and not stream_depth_reason(s)]
    readable = colour or readable
    if len(readable) > 1:
        moving = _moving(path, readable, limits)
        readable = [s for s in readable if s.index in moving]
    return max(
        readable,
        key=lambda s: (bool(s.disposition & kinds.default), s.width * s.height, -s.index),
    )


def _moving(path: Path, streams: list[Any], limits: Limits) -> list[int]:
    """Tell which streams move: of the default ones, unless these are stills beside the others."""
    default = [s.index for s in streams if s.disposition & av.stream.Disposition.default]
    indices = [s.index for s in streams]
    counts, spans = _lengths(path, indices, limits)
    chosen = _fullest(counts, spans, default or indices)
    # A preview in 3 frames is a still; half the rate of another is not.
    still = 10 * max(counts[k] for k in chosen) < max(counts.values())
    short = 2 * max(spans[k] for k in chosen) < max(spans.values())
    return _fullest(counts, spans, indices) if still or short else chosen


def _fullest(counts: dict[int, int], spans: dict[int, float], among: list[int]) -> list[int]:
    """Return those with at least half the packets, over half the time, of the fullest."""
    most, longest = (max(values[k] for k in among) for values in (counts, spans))
    full = [k for k in among if 2 * counts[k] >= most and 2 * spans[k] >= longest]
    return full or [max(among, key=lambda k: counts[k] * spans[k])]


def _lengths(
    path: Path, indices: list[int], limits: Limits
) -> tuple[dict[int, int], dict[int, float]]:
    """Count the packets of streams, and the seconds from their first to their last."""
    counts, firsts, lasts = dict.fromkeys(indices, 0), dict[int, float](), dict[int, float]()
    with open_container(path, limits, skip_frame="all") as container:
        for packet in container.demux(*[container.streams[index] for index in indices]):
            if packet.size:
                index, at = packet.stream_index, packet.dts if packet.pts is None else packet.pts
                seconds = float((at or 0) * packet.time_base)
                firsts[index] = min(firsts.get(index, seconds), seconds)
                lasts[index] = max(lasts.get(index, seconds), seconds)
                counts[index] += 1
    return counts, {k: lasts.get(k, 0.0) - firsts.get(k, 0.0) for k in indices}


@dataclass
class Survey:
    """What the packets of one stream tell.

    ``count`` packets come from the first keyframe on; ``skipped`` ones before it cannot be shown.
    Each gives one frame if ``exact``; otherwise only the decoder knows.  ``leading``: some of the
    first belong to a group of pictures of which the start is missing.
    ``pts`` are the times of all frames, ascending, in units of the stream's time base; None if
    some have none.  ``corrupt`` are the numbers of packets that the container calls damaged.
    ``keys`` are those of keyframes, ascending, and ``places`` where each is sought.
    ``end`` is where the last packet of any stream ends, in seconds; None where the container
    declares no duration to compare it with.  ``complaint`` is what FFmpeg said behind it.
    """

    count: int = 0
    skipped: int = 0
    exact: bool = True
    leading: bool = False
    pts: array[int] | None = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    places: array[int] = field(default_factory=lambda: array("q"))
    corrupt: list[int] = field(default_factory=list)
    end: float | None = None
    complaint: str | None = None


def survey(path: Path, index: int, limits: Limits) -> Survey:
    """Read all packets of stream ``index`` without decoding, and count its frames.

    Costs about a hundredth of decoding, and 8 bytes per frame.  Raises DecodeError where the
    container is broken or the video encrypted, and beyond ``limits.max_frames``.
    """
    # Probing must not decode: what only a decoder knows is not asked here.
    with ErrorLog() as logged:
        container = open_container(path, limits, skip_frame="all")
    with container:
        if error := first_error(logged, container.format.name):
            what = f"its structure is broken ({error})"
            raise encrypted(path) if "encryption" in error else damaged(path, what)
        return _Surveyor(path, container, container.streams[index], limits).survey()


def first_packet(path: Path, index: int, limits: Limits) -> bytes:
    """Return the first packet of stream ``index`` as it is stored."""
    with open_container(path, limits, skip_frame="all") as container:
        return bytes(next(container.demux(container.streams[index])))


def samples_end(container: Any) -> int:
    """Return the byte at which the last sample of any stream ends; 0 if not all are in a table."""
    streams = container.streams
    if any(stream.frames != len(stream.index_entries) for stream in streams):
        return 0
    ends = (entry.pos + entry.size for stream in streams for entry in stream.index_entries)
    return max(ends, default=0)


class _Surveyor:
    def __init__(self, path: Path, container: Any, stream: Any, limits: Limits) -> None:
        self._path, self._container, self._stream, self._limits = path, container, stream, limits
        codec = stream.codec_context.codec
        self._codec = codec.canonical_name
        self._has_key = codec.intra_only
        # AVI has the numbers of chunks, in decoding order, instead of times.
        self._numbered = container.format.name == "avi"
        # Those that state how long they last.
        self._timed = container.format.name.partition(",")[0] in ("matroska", "flv", "asf")
        self._first: int | None = None
        self._first_shown: int | None = None
        self._found = Survey(exact=codec.intra_only or self._codec in _ONE_FRAME_EACH)

    def survey(self) -> Survey:
        found, number = self._found, 0
        if "enc_key_id" in self._stream.metadata:
            raise encrypted(self._path)
        for packet in self._packets():
            # A flush is empty, and so is what stands for a frame that was dropped.
            if packet.size and packet.stream_index == self._stream.index:
                if packet.is_corrupt:
                    found.corrupt.append(number)
                self._add(packet)
                number += 1
        if found.pts is not None:
            found.pts = array("q", sorted(found.pts))
            if self._numbered:
                self._at_last(found.pts)
        order = sorted(range(len(found.keys)), key=found.keys.__getitem__)
        found.keys = array("q", map(found.keys.__getitem__, order))
        found.places = array("q", map(found.places.__getitem__, order))
        if not self._has_key:
            # Recordings that refresh row by row may have none marked; their decoder can tell.
            if found.count and self._codec in _ONE_FRAME_EACH - {"h264"}:
                raise damaged(self._path, "it has no keyframe, from which decoding could begin")
            found.exact = False
        return found

    def _at_last(self, chunks: array[int]) -> None:
        """Move first chunks to where the decoder needs them, ahead by as many as it holds back.

        Empty chunks behind the first one delay the start of a video, not its second frame.
        """
        held = bisect_left(chunks, self._first_shown or 0)
        if 0 < held < len(chunks) - 1:
            step = int(np.median(np.diff(chunks)))
            for k in range(held):
                chunks[k] = max(chunks[k], chunks[held] - (held - k) * step)

    def _packets(self) -> Iterator[Any]:
        """Yield packets, of all streams where they tell how long the file lasts, and listen."""
        found, name = self._found, self._container.format.name
        with ErrorLog() as logged:
            for packet in self._container.demux(*([] if self._timed else [self._stream])):
                at = packet.dts if packet.pts is None else packet.pts
                if error := first_error(logged, name):
                    if "encryption" in error:
                        raise encrypted(self._path)
                    if packet.size or at is not None:
                        what = f"its structure is broken after frame {found.count} ({error})"
                        raise damaged(self._path, what)
                    found.complaint = error
                if self._timed and at is not None:
                    end = seconds_of(at + (packet.duration or 0), packet.time_base)
                    found.end = end if found.end is None else max(found.end, end)
                yield packet

    def _add(self, packet: Any) -> None:
        found = self._found
        if packet.has_sidedata("encryption_info"):
            raise encrypted(self._path)
        # Edit lists discard, and some codecs have frames for reference only.
        if packet.is_discard or _hidden(self._codec, packet):
            self._has_key |= packet.is_keyframe
            return
        if found.count + found.skipped == self._limits.max_frames:
            raise DecodeError.at(
                self._path,
                f"it has more than {self._limits.max_frames} frames (limits.max_frames)",
            )
        if packet.is_keyframe and not self._has_key and not is_partial(self._stream, packet):
            self._has_key = True
            found.skipped, found.count, found.pts = found.count, 0, array("q")
            found.exact &= not found.skipped
        if packet.is_keyframe and packet.pts is not None:
            found.keys.append(packet.pts)
            found.places.append(packet.pts if packet.dts is None else min(packet.pts, packet.dts))
        at = packet.dts if self._numbered else packet.pts
        if found.count == 0:
            self._first, self._first_shown = at, packet.pts
        # Streams without a table of samples leave out the times of some frames anywhere.
        untimed = at is None or self._first is None
        if untimed and self._container.format.name in ("mpeg", "mpegts"):
            pass
        elif untimed or at < self._first:
            found.leading |= not self._numbered
            found.exact = False
        if self._codec == "mpeg4" and packet.size <= _NOT_CODED_BYTES:
            found.exact = False
        if at is None:
            found.pts = None
        elif found.pts is not None:
            found.pts.append(at)
        found.count += 1


def seconds_of(units: int, unit: Fraction) -> float:
    """Return a time in seconds; as ``float(units * unit)``, many times faster."""
    # True division of integers rounds once.
    return units * unit.numerator / unit.denominator


def is_partial(stream: Any, packet: Any) -> bool:
    """Tell whether a packet changes a picture before it, whatever its container calls it."""
    codec, data = stream.codec_context.codec.canonical_name, memoryview(packet)
    if codec == "cinepak":
        return bytes(data[10:12]) == b"\x11\0"  # its first strip; 0x1000 stands for itself
    if codec != "qtrle" or len(data) < 12 or data[5] != 8:
        return False
    first, lines = (int.from_bytes(data[at : at + 2], "big") for at in (6, 10))
    return first > 0 or lines < stream.height


def _hidden(codec: str, packet: Any) -> bool:
    """Tell whether a packet holds nothing to show: a reference of VP8 or VP9, a GIF's comment."""
    if codec == "vp8":
        return not memoryview(packet)[0] & 0x10
    if codec == "vp9":
        data = memoryview(packet)
        # Several frames in one, of which one is shown; else: marker (2 bits), profile (2, and 1
        # more in profile 3), show an older frame, type, show this frame.
        at = 4 + (data[0] >> 4 & 3 == 3)
        return data[-1] >> 5 != 6 and not data[0] << at & 0x80 and not data[0] << at & 0x20
    return codec == "gif" and not _has_image(bytes(packet))


def _has_image(data: bytes) -> bool:
    """Tell whether an image follows the extension blocks at the start of a GIF's packet."""
    at = 0
    while data[at : at + 1] == b"!":
        at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    # The first packet starts with the file's header.
    return data[at : at + 1] in (b",", b"G")
