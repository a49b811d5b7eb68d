"""Image files as frames: decoded strictly, within the pixel limit, upright by their EXIF."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np

from builder.core.errors import DecodeError, SourceError
from builder.inputs.display import color_info
from builder.inputs.listing import IMAGE_SUFFIXES, names_in, read_small
from builder.inputs.streams import BlockStream, StreamInfo, even_times
from builder.inputs.video import decoder_limit
from schemas.config import Limits
from schemas.geometry import Orientation

# First bytes, and the decoder that reads what begins with them.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "mjpeg"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"P5", "pgm"),
    (b"P6", "ppm"),
)
# EXIF orientations 1 to 8.
_EXIF: tuple[Orientation, ...] = (
    "none", "hflip", "rot180", "vflip", "transpose", "rot90", "antitranspose", "rot270",
)  # fmt: skip
_EXIF_HEAD = b"Exif\0\0"
_EXIF_REACH = 1 << 17


def image_stream(folder: Path, fps: float, limits: Limits) -> tuple[BlockStream, tuple[str, str]]:
    """Return the images of a folder as frames, in natural order, and the first and last name.

    Fingerprints of these two stand for the sequence: hashing every image would double the cost.
    Raises SourceError when there is no image.
    """
    names = names_in(folder, IMAGE_SUFFIXES)
    if not names:
        raise SourceError.at(folder, "there is no image in it")

    def data_of(index: int) -> bytes:
        return read_small(folder / names[index], limits.max_array_bytes)

    times = even_times(len(names), fps)
    return encoded_stream(data_of, folder, times, fps, limits, names), (names[0], names[-1])


def encoded_stream(
    data_of: Callable[[int], bytes],
    place: Path,
    seconds: np.ndarray,
    fps: float | None,
    limits: Limits,
    names: Sequence[str] | None = None,
) -> BlockStream:
    """Return encoded images as frames, at ``seconds`` (T,); ``data_of(index)`` is one file.

    All must have the shape and the EXIF orientation of the first.  ``place`` and ``names`` are
    for errors.  Raises DecodeError.
    """
    if len(seconds) > limits.max_frames:
        raise DecodeError.at(
            place, f"it has more than {limits.max_frames} images (limits.max_frames)"
        )

    def path_of(index: int) -> Path:
        return place / (names[index] if names else f"image {index}")

    data = data_of(0)
    first, orientation = decode_image(data, path_of(0), limits), exif_orientation(data)
    shape = (first.height, first.width)
    try:
        color = color_info(first)
    except ValueError as error:
        raise DecodeError.at(path_of(0), f"{error}") from None
    info = StreamInfo(
        coded_shape=shape,
        num_frames=len(seconds),
        orientation=orientation,
        fps=fps,
        color=color,
        codec=_codec_of(data),
    )

    def one(index: int) -> Any:
        data = data_of(index)
        frame, turn = decode_image(data, path_of(index), limits), exif_orientation(data)
        if (frame.height, frame.width, turn) != (*shape, orientation):
            raise DecodeError.at(
                path_of(index),
                f"(H, W) = {(frame.height, frame.width)}, "
                f"{turn}; the first image of the sequence has {shape}, {orientation}; split it",
            )
        return frame

    return BlockStream(info, seconds, lambda start, stop: list(map(one, range(start, stop))))


def decode_image(data: bytes, path: Path, limits: Limits) -> Any:
    """Decode one image into an ``av.VideoFrame``.

    Raises DecodeError when it is cut off, damaged, too large or of an unknown kind; ``path``
    is for the message.
    """
    codec = _codec_of(data)
    if codec is None:
        raise DecodeError.at(path, "not an image of a known kind (PNG, JPEG, WebP, BMP, TIFF, PNM)")
    context: Any = av.CodecContext.create(codec, "r")
    context.options = {"max_pixels": decoder_limit(limits)}
    if codec != "tiff":
        # JPEG hides damage unless told to be strict; strict TIFF refuses what plays everywhere.
        context.options |= {"err_detect": "explode+crccheck"}
    try:
        frames = context.decode(av.Packet(data)) or context.decode(None)
    except av.FFmpegError as error:
        raise DecodeError.at(
            path,
            f"the {codec} image is damaged, cut off or larger than "
            f"{limits.max_pixels} pixels (limits.max_pixels): {error.strerror}",
        ) from None
    if not frames:
        raise DecodeError.at(path, f"the {codec} file holds no image")
    frame = frames[0]
    if frame.width * frame.height > limits.max_pixels:
        raise DecodeError.at(
            path,
            f"{frame.width}x{frame.height} pixels exceed the limit of "
            f"{limits.max_pixels} (limits.max_pixels)",
        )
    return frame


def exif_orientation(data: bytes) -> Orientation:
    """Return the EXIF orientation of an image; "none" when it has none."""
    tiff = _exif(data)
    order = "<" if tiff[:2] == b"II" else ">"
    with suppress(struct.error):
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(min(count, 1000)):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, at + 2 + 12 * entry)
            if tag == 0x112 and kind == 3 and 1 <= value <= 8:
                return _EXIF[value - 1]
    return "none"


def _exif(data: bytes) -> bytes:
    """Return the EXIF block of an image, a TIFF in itself; empty when there is none."""
    if data.startswith(b"\xff\xd8"):
        start = data.find(_EXIF_HEAD, 0, _EXIF_REACH) + len(_EXIF_HEAD)
        return data[start : start + _EXIF_REACH] if start >= len(_EXIF_HEAD) else b""
    if data.startswith(b"\x89PNG"):
        return _part(data, 8, ">I4s", b"eXIf")
    if data.startswith(b"RIFF"):
        return _part(data, 12, "<4sI", b"EXIF").removeprefix(_EXIF_HEAD)
    return data if data[:4] in (b"II*\0", b"MM\0*") else b""


def _part(data: bytes, at: int, head: str, wanted: bytes) -> bytes:
    """Return one chunk of a PNG (length before name, then a checksum) or RIFF file, or nothing."""
    while at + 8 <= len(data):
        first, second = struct.unpack_from(head, data, at)
        name, size = (second, first) if head[0] == ">" else (first, second)
        if name == wanted:
            return data[at + 8 : at + 8 + size]
        at += 8 + size + (4 if head[0] == ">" else size % 2)
    return b""


def _codec_of(data: bytes) -> str | None:
    return next((codec for magic, codec in _MAGIC if data.startswith(magic)), None)
