"""What the header of a video track says: its turn, views, crop and Dolby Vision profile.

FFmpeg reads it, but PyAV does not pass it on.
"""

import mmap
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from builder.inputs.containers import number


class Margins(NamedTuple):
    """Pixels that are stored and not to be shown, at each side of the stored picture."""

    left: Fraction
    top: Fraction
    right: Fraction
    bottom: Fraction


class TrackHeader(NamedTuple):
    """What is known of a track; nothing where the container has no such header.

    ``matrix`` is the display matrix, 9 numbers of 4 bytes in native order.  ``several_views``:
    the track is stereo.  ``margins`` are those of a ``clap`` box or of PixelCrop elements, for a
    picture of the shape asked for; None where it is shown whole.  ``dolby_vision`` is the profile.
    """

    matrix: bytes | None = None
    several_views: bool = False
    margins: Margins | None = None
    dolby_vision: int | None = None


def track_header(
    path: Path, container: str, track_id: int, position: int, shape: tuple[int, int]
) -> TrackHeader:
    """Read the header of a video track of ``shape`` (H, W).

    ``container`` is FFmpeg's name.  A track of MP4 is found by its id, one of Matroska by its
    ``position`` among the video tracks.
    """
    read = {"mov": _mp4, "matroska": _matroska}.get(container.partition(",")[0])
    if read is None:
        return TrackHeader()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return read(data, track_id if read is _mp4 else position, shape)


def _mp4(data: mmap.mmap, track_id: int, shape: tuple[int, int]) -> TrackHeader:
    for track in _boxes(data, (b"moov", b"trak"), 0, len(data)):
        for head, _ in _boxes(data, (b"tkhd",), *track):
            at = head + (20 if data[head] else 12)
            if _integer(data[at : at + 4]) == track_id and at + 64 <= len(data):
                matrix = np.frombuffer(data[at + 28 : at + 64], ">i4").astype("=i4")
                return _sample_entry(data, track, shape)._replace(matrix=matrix.tobytes())
    return TrackHeader()


def _sample_entry(data: mmap.mmap, track: tuple[int, int], shape: tuple[int, int]) -> TrackHeader:
    """Read the boxes behind the 78 bytes of a track's first sample entry."""
    header = TrackHeader()
    for table, end in _boxes(data, (b"mdia", b"minf", b"stbl", b"stsd"), *track):
        entry = next(_boxes(data, (_ANY,), table + 8, end), None)
        if entry is None:
            continue
        inside = (entry[0] + 78, entry[1])
        for at, _ in _boxes(data, (b"clap",), *inside):
            header = header._replace(margins=_clean_aperture(data[at : at + 32], shape))
        for name in (b"dvcC", b"dvvC"):
            for at, stop in _boxes(data, (name,), *inside):
                header = header._replace(dolby_vision=_profile(data[at:stop]))
        if next(_boxes(data, (b"lhvC",), *inside), None):
            header = header._replace(several_views=True)
    return header


def _clean_aperture(box: bytes, shape: tuple[int, int]) -> Margins | None:
    """Read width, height and offset of the centre, each a fraction (ISO 14496-12, 12.1.4)."""
    if len(box) < 32:
        return None
    numbers = np.frombuffer(box, ">i4").tolist()
    if not all(numbers[1::2]):
        return None
    width, height, x, y = (Fraction(*numbers[k : k + 2]) for k in (0, 2, 4, 6))
    across, down = (shape[1] - width) / 2, (shape[0] - height) / 2
    return _some(Margins(across + x, down + y, across - x, down - y))


def _profile(record: bytes) -> int | None:
    """Read the profile of a Dolby Vision configuration: 7 bits behind two bytes of version."""
    return record[2] >> 1 if len(record) > 2 else None


_ANY = b""


def _boxes(
    data: mmap.mmap, names: tuple[bytes, ...], start: int, stop: int
) -> Iterator[tuple[int, int]]:
    """Yield where the payloads of boxes below one another begin and end."""
    while start + 8 <= stop:
        length, head = _integer(data[start : start + 4]), 8
        if length == 1:
            length, head = _integer(data[start + 8 : start + 16]), 16
        end = min(start + length, stop) if length else stop
        if names[0] in (_ANY, data[start + 4 : start + 8]):
            inner = (start + head, end)
            yield from _boxes(data, names[1:], *inner) if names[1:] else [inner]
        if end <= start:
            return
        start = end


# Names of Matroska's elements (RFC 9559).
_TRACK, _VIDEO = (0x18538067, 0x1654AE6B, 0xAE), 0xE0
_LEFT, _TOP, _RIGHT, _BOTTOM = 0x54CC, 0x54BB, 0x54DD, 0x54AA
_MAPPING, _MAPPING_KIND, _MAPPING_DATA = 0x41E4, 0x41E7, 0x41ED


def _matroska(data: mmap.mmap, position: int, shape: tuple[int, int]) -> TrackHeader:
    seen = 0
    for track in _elements(data, _TRACK, 0, len(data)):
        video = next(_elements(data, (_VIDEO,), *track), None)
        if video is None:
            continue
        if seen == position:
            sides = (
                sum(_integer(data[at:end]) for at, end in _elements(data, (name,), *video))
                for name in (_LEFT, _TOP, _RIGHT, _BOTTOM)
            )
            margins = _some(Margins(*map(Fraction, sides)))
            return TrackHeader(margins=margins, dolby_vision=_mapped_profile(data, track))
        seen += 1
    return TrackHeader()


def _mapped_profile(data: mmap.mmap, track: tuple[int, int]) -> int | None:
    for mapping in _elements(data, (_MAPPING,), *track):
        kinds = [data[at:end] for at, end in _elements(data, (_MAPPING_KIND,), *mapping)]
        if kinds in ([b"dvcC"], [b"dvvC"]):
            for at, end in _elements(data, (_MAPPING_DATA,), *mapping):
                return _profile(data[at:end])
    return None


def _elements(
    data: mmap.mmap, names: tuple[int, ...], start: int, stop: int
) -> Iterator[tuple[int, int]]:
    """Yield where the payloads of elements below one another begin and end."""
    while start < stop:
        name = number(data, start)
        length = number(data, start + len(name)) if name else b""
        if not length:
            return
        begin, marker = start + len(name) + len(length), 1 << 7 * len(length)
        size = _integer(length) - marker
        # Of unknown size are parts of live recordings; they begin behind the tracks.
        end = stop if size == marker - 1 else min(begin + size, stop)
        if _integer(name) == names[0]:
            inner = (begin, end)
            yield from _elements(data, names[1:], *inner) if names[1:] else [inner]
        start = end


def _some(margins: Margins) -> Margins | None:
    return margins if any(margins) else None


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "big")


# Profiles whose parameters state the sampling of colours and the bits (H.264, 7.3.2.1.1).
_STATED = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


def gray_bits(extradata: bytes | None) -> int:
    """Return the bits of an H.264 stream of a single channel, of its head; 0 of any other.

    FFmpeg decodes it as if it had colours, all of them neutral.
    """
    data = extradata or b""
    # The record of MP4 and Matroska, or the stream's own units behind their start codes.
    at = 8 if data[:1] == b"\1" else data.find(b"\0\0\1") + 3
    while at > 2 and at < len(data) and data[at] & 0x1F != 7:
        at = data.find(b"\0\0\1", at) + 3
    unit = data[at : at + 64].replace(b"\0\0\3", b"\0\0")
    if at < 3 or len(unit) < 8 or unit[0] & 0x1F != 7 or unit[1] not in _STATED:
        return 0
    bits = "".join(f"{byte:08b}" for byte in unit[4:])
    numbers = []
    for _ in range(3):  # the unit's id, the sampling of colours, the bits beyond 8
        zeros = len(bits) - len(bits.lstrip("0"))
        value, bits = bits[zeros : 2 * zeros + 1], bits[2 * zeros + 1 :]
        numbers.append(int(value or "1", 2) - 1)
    return 8 + numbers[2] if numbers[1] == 0 else 0
