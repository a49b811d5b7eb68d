"""Opening video files safely, and counting their frames without decoding them.

A file is opened as nothing but a local file of a known container, so no playlist, no network
and no second file is ever touched.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from builder.core.errors import DecodeError
from builder.core.paths import printable_path
from builder.inputs.listing import regular_file
from schemas.config import Limits

# Containers that hold their own frames; playlists, image sequences and devices are not here.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,gif,apng"
ADVICE = "get the file again, or re-encode it (ffmpeg -i in -c:v libx264 out.mp4)"


def advice(path: Path) -> str:
    """Say what to do about a file that is no whole video, and that it is text if it is."""
    with path.open("rb") as file:
        head = file.read(256)
    printable = head.isascii() and all(32 <= byte or byte in b"\t\n\r" for byte in head)
    return "it is text, not video" if printable else ADVICE


def failure(path: Path, message: str) -> DecodeError:
    """Make the error that names a file."""
    return DecodeError(f"{printable_path(path)}: {message}")


def open_container(path: Path, limits: Limits, **options: str) -> Any:
    """Open a regular, non-empty file as a local video.

    Raises SourceError for anything else that lies there (a FIFO or device could block for ever
    and is not opened) and av.FFmpegError for other content.
    """
    if regular_file(path) == 0:
        raise failure(path, "the file is empty")
    options |= {
        "protocol_whitelist": "file",
        "format_whitelist": FORMATS,
        "max_pixels": decoder_limit(limits),
    }
    # "file:" keeps names like "concat:x.mp4" from reaching another protocol.
    return av.open(f"file:{path}", options=options, metadata_errors="replace")


def decoder_limit(limits: Limits) -> str:
    """Pixels at which a decoder stops by itself: it counts whole blocks, so it gets more."""
    return str(2 * limits.max_pixels + (1 << 16))


def choose_stream(path: Path, container: Any) -> Any:
    """Pick the video stream to read: no cover art; the default one, then the largest."""
    kinds = av.stream.Disposition
    streams = [s for s in container.streams.video if not s.disposition & kinds.attached_pic]
    if not streams:
        raise failure(path, "it has no video stream")
    readable = [s for s in streams if s.codec_context is not None]
    if not readable:
        raise failure(path, "there is no decoder for its video codec; re-encode it as H.264")
    return max(
        readable, key=lambda s: (bool(s.disposition & kinds.default), s.width * s.height, -s.index)
    )


@dataclass(frozen=True)
class Survey:
    """What the packets of one stream tell.

    ``count`` frames are going to be shown, unless ``inside``: the stream starts inside a group
    of pictures, and only the decoder knows which of the first frames can be shown.
    ``pts`` are the sorted times of all frames in units of ``time_base``; None if some have none.
    """

    count: int
    inside: bool
    pts: array[int] | None


def survey(path: Path, index: int, limits: Limits) -> Survey:
    """Read all packets of stream ``index`` without decoding, and count its frames.

    Costs about a hundredth of decoding, and 8 bytes per frame.  Raises DecodeError for packets
    that are damaged or cut off, and beyond ``limits.max_frames``.
    """
    pts, untimed, start, inside = array("q"), 0, None, False
    # Probing must not decode: what only a decoder knows is not asked here.
    with open_container(path, limits, skip_frame="all") as container:
        stream = container.streams[index]
        has_hidden = stream.codec_context.codec.canonical_name == "vp8"
        for packet in container.demux(stream):
            count = len(pts) + untimed
            if packet.is_corrupt:
                raise failure(path, f"it is damaged or cut off in frame {count}; {ADVICE}")
            # A flush is empty, edit lists discard, and VP8 has frames for reference only.
            if not packet.size or packet.is_discard:
                continue
            if has_hidden and not memoryview(packet)[0] & 0x10:
                continue
            if count == limits.max_frames:
                raise failure(
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
    return Survey(len(pts) + untimed, inside, None if untimed else array("q", sorted(pts)))
