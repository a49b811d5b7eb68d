"""Image files as frames: decoded strictly, within the pixel limit, upright by their EXIF."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np

from builder.core.errors import DecodeError, DepthError
from builder.inputs import tiff
from builder.inputs.demux import decoder_limit
from builder.inputs.display import color_info, depth_reason
from builder.inputs.fingerprint import fingerprints
from builder.inputs.foreign import foreign
from builder.inputs.image_names import MissingImages, image_names, sequences
from builder.inputs.listing import IMAGE_SUFFIXES, names_in, read_small
from builder.inputs.streams import BlockStream, StreamInfo, check_pixels, even_times
from schemas.config import Limits
from schemas.dataset import Fingerprint
from schemas.geometry import Orientation

# First bytes, and the decoder that reads what begins with them.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "mjpeg"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
    *((magic, "tiff") for magic in tiff.MAGIC),
    (b"P5", "pgm"),
    (b"P6", "ppm"),
)
_PILLOW = {"png": "PNG", "mjpeg": "JPEG", "webp": "WEBP", "bmp": "BMP", "ppm": "PPM", "pgm": "PPM"}
_END_MARKS = {"png": b"IEND", "mjpeg": b"\xff\xd9"}
# EXIF orientations 1 to 8.
_EXIF: tuple[Orientation, ...] = (
    "none", "hflip", "rot180", "vflip", "transpose", "rot90", "antitranspose", "rot270",
)  # fmt: skip
_EXIF_HEAD = b"Exif\0\0"
_EXIF_REACH = 1 << 17


def image_stream(
    folder: Path,
    fps: float,
    limits: Limits,
    missing: MissingImages = "error",
    first: int | None = None,
    sequence: str | None = None,
) -> BlockStream:
    """Return the images of a folder as frames, in natural order.

    Of a single TIFF file the pages are the frames.  The other arguments are as in
    :func:`image_names`.  Raises SourceError.
    """
    names, notes = image_names(folder, limits, missing, first, sequence)

    def data_of(index: int) -> bytes:
        return read_small(folder / names[index], limits.max_array_bytes)

    place, times = folder / names[0], even_times(len(names), fps)
    if len(names) == 1 and _codec_of(data := data_of(0)) == "tiff":
        pages = tiff.tiff_pages(data, place)
        times = even_times(len(pages), fps)
        return encoded_stream(lambda _: data, place, times, fps, limits, pages=pages)
    return encoded_stream(data_of, folder, times, fps, limits, names, notes=notes)


def ends_of(root: Path, folder: str, sequence: str | None = None) -> dict[str, Fingerprint]:
    """Fingerprint the first and last image of a folder, or of a sequence in it, below ``root``.

    They stand for the sequence: hashing every image would double the cost.
    """
    names = names_in(root / folder, IMAGE_SUFFIXES)
    if sequence is not None:
        names = sequences(root / folder)[sequence]
    return fingerprints(root, (os.path.join(folder, name) for name in (names[0], names[-1])))


def encoded_stream(
    data_of: Callable[[int], bytes],
    place: Path,
    seconds: np.ndarray,
    fps: float | None,
    limits: Limits,
    names: Sequence[str] | None = None,
    pages: Sequence[int] | None = None,
    notes: tuple[str, ...] = (),
) -> BlockStream:
    """Return encoded images as frames, at ``seconds`` (T,); ``data_of(index)`` is one file.

    All must have the shape and the EXIF orientation of the first.  ``place`` and ``names`` are
    for errors; ``pages`` are the pages of TIFF files that hold several.  Raises DecodeError.
    """
    if len(seconds) > limits.max_frames:
        raise DecodeError.at(
            place, f"it has more than {limits.max_frames} images (limits.max_frames)"
        )

    def path_of(index: int) -> Path:
        return place / (names[index] if names else f"image {index}")

    def decoded(index: int, data: bytes) -> Any:
        page = pages[index] if pages else None
        return decode_image(data, path_of(index), limits, page), exif_orientation(data)

    data = data_of(0)
    first, orientation = decoded(0, data)
    shape, pixels = (first.height, first.width), first.format.name
    with foreign(path_of(0)):
        color = color_info(first)
    info = StreamInfo(
        coded_shape=shape,
        num_frames=len(seconds),
        orientation=orientation,
        orientation_from="EXIF" if orientation != "none" else None,
        fps=fps,
        color=color,
        codec=_codec_of(data),
        notes=notes,
    )

    def one(index: int) -> Any:
        frame, turn = decoded(index, data_of(index))
        if (frame.height, frame.width, turn) != (*shape, orientation):
            raise DecodeError.at(
                path_of(index),
                f"(H, W) = {(frame.height, frame.width)}, "
                f"{turn}; the first image of the sequence has {shape}, {orientation}; split it",
            )
        if frame.format.name != pixels:
            raise DecodeError.at(
                path_of(index),
                f"its pixels are {frame.format.name}, those of the first image of the sequence "
                f"{pixels}: they may be of two cameras, or a mask; split it, or save all alike",
            )
        return frame

    return BlockStream(info, seconds, lambda start, stop: list(map(one, range(start, stop))))


def decode_image(data: bytes, path: Path, limits: Limits, page: int | None = None) -> Any:
    """Decode one image, or a page of a TIFF file, into an ``av.VideoFrame``.

    Raises DecodeError when it is cut off, damaged, too large or of an unknown kind, DepthError
    when it is no camera's picture; ``path`` is for the message.
    """
    codec = _codec_of(data)
    if codec is None:
        raise DecodeError.at(path, "not an image of a known kind (PNG, JPEG, WebP, BMP, TIFF, PNM)")
    if codec == "tiff":
        return tiff.decode_tiff(data, path, limits, page)
    if _is_animation(codec, data):
        raise DecodeError.at(
            path,
            f"the {codec} file holds several images, one was expected; save each as a file, or "
            f"the animation as video",
        )
    with foreign(path, what=f"the {codec} image cannot be decoded"):
        context: Any = av.CodecContext.create(codec, "r")
        # JPEG hides damage unless told to be strict.
        context.options = {"max_pixels": decoder_limit(limits), "err_detect": "explode+crccheck"}
        try:
            frames = context.decode(av.Packet(data)) or context.decode(None)
        except av.FFmpegError as error:
            check_pixels(path, *_declared_size(codec, data), limits)
            what = "cut off" if _is_cut_off(codec, data) else "damaged"
            raise DecodeError.at(path, f"the {codec} image is {what}: {error.strerror}") from None
    if not frames:
        raise DecodeError.at(path, f"the {codec} file holds no image")
    check_pixels(path, frames[0].width, frames[0].height, limits)
    if reason := depth_reason(frames[0]):
        raise DepthError.at(path, reason)
    return frames[0]


def _is_animation(codec: str, data: bytes) -> bool:
    """Tell whether a file holds more than one image, of which a decoder shows the first."""
    if codec == "png":
        # The number of frames, in a chunk before the pixels.
        return int.from_bytes(_part(data, 8, ">I4s", b"acTL")[:4], "big") > 1
    if codec == "webp":
        return bool(_part(data, 12, "<4sI", b"ANIM"))
    if codec in ("ppm", "pgm"):
        head = _PNM_HEAD.match(data)
        width, height, top = map(int, head.groups()) if head else (0, 0, 0)
        channels = 3 if codec == "ppm" else 1
        end = len(head[0]) + width * height * channels * (2 if top > 255 else 1) if head else 0
        return data[end : end + 2].startswith((b"P5", b"P6")) if end else False
    return False


# Width, height and largest value; comments may stand between them.
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM_HEAD = re.compile(rb"P[56]" + 2 * (_GAP + rb"(\d{1,9})") + _GAP + rb"(\d{1,5})\s")


def _declared_size(codec: str, data: bytes) -> tuple[int, int]:
    """Return the width and height that an image declares; (0, 0) where they cannot be read."""
    from PIL import Image

    Image.init()
    read_header, _ = Image.OPEN[_PILLOW[codec]]
    try:
        return read_header(BytesIO(data), "").size
    # Of a damaged file anything may be raised.
    except Exception:
        return (0, 0)


def _is_cut_off(codec: str, data: bytes) -> bool:
    """Tell whether the end of a damaged image is missing, by its end mark or declared size."""
    if codec in _END_MARKS:
        return _END_MARKS[codec] not in data
    if codec == "webp":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if codec == "bmp":
        return int.from_bytes(data[2:6], "little") > len(data)
    return True  # a PNM file is nothing but a header and pixels


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
    return data if data.startswith(tiff.MAGIC) else b""


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
