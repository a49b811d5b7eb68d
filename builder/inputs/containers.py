"""What a video file declares about itself, held against the bytes that are there.

FFmpeg reads the start of many cut-off files without an error, so these few bytes are read here.
Some cuts cannot be detected: a transport or program stream cut between two packets, a
fragmented MP4 cut between two fragments, a live WebM recording (no sizes, no duration) cut
between two frames, a GIF cut between two images.
"""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Bytes behind the end that may be a tag, a line of text, or anything else of no account.
_SMALL_TAIL = 4096


class Extent(NamedTuple):
    """Where the structure of a file ends.

    ``open``: the format states no size, so what lies behind the end may have been part of it.
    """

    end: int
    open: bool = False


def broken_off(
    path: Path, container: str, samples_end: Callable[[], int], complaint: str | None = None
) -> str | None:
    """Say what is missing or unreadable of a file; None when nothing is known to be.

    ``container`` is FFmpeg's name.  ``samples_end()`` is where the last sample of a sample table
    ends, 0 where there is no table.  ``complaint`` is what FFmpeg said after the last packet:
    of what lies behind the end of a file it means nothing.
    """
    kind = container.partition(",")[0]
    size = os.stat(path).st_size
    if kind not in _CHECKS or not size:
        return complaint and f"it is damaged at its end ({complaint})"
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end, is_open = _CHECKS[kind](data, size)
        tail = data[max(0, end) : end + _SMALL_TAIL + 1]
    if end > size and (is_open or not 0 < samples_end() <= size):
        return f"it is cut off: {size} bytes where its {kind} structure needs {end} or more"
    if is_open and tail and (len(tail) > _SMALL_TAIL or not tail.strip(b"\0")):
        return f"it is damaged: its {kind} structure breaks off at byte {end} of {size}"
    return f"it is damaged at its end ({complaint})" if complaint and not tail else None


_SEGMENT = bytes.fromhex("18538067")
# Elements that a recording without sizes is made of: of the file, its segment and its clusters.
_ELEMENTS = {
    bytes.fromhex(name)
    for name in "1A45DFA3 18538067 114D9B74 1549A966 1654AE6B 1C53BB6B 1043A770 1941A469 1254C367 "
    "1F43B675 E7 A3 A0 A7 AB AF 5854 EC BF".split()
}


def _matroska(data: mmap.mmap, size: int) -> Extent:
    """Find the end of a segment of known size, or of the last element of a live recording."""
    position = 0
    segment_end: int | None = None
    while position < (size if segment_end is None else segment_end):
        name, length = number(data, position), b""
        if name:
            length = number(data, position + len(name))
        if not length or (segment_end is None and name not in _ELEMENTS):
            rest = data[position : position + 8]
            cut = position + len(rest) == size and any(
                each.startswith(rest[: len(each)]) for each in _ELEMENTS
            )
            return Extent(size + 1 if cut else position, True)
        position += len(name) + len(length)
        marker = 1 << 7 * len(length)
        payload = int.from_bytes(length, "big") - marker
        # Live recordings do not know their sizes: their parts come one after another.
        if payload == marker - 1:
            continue
        if name == _SEGMENT:
            segment_end = position + payload
            if segment_end > size:
                break
        else:
            position += payload
    return Extent(position) if segment_end is None else Extent(segment_end)


def number(data: mmap.mmap, at: int) -> bytes:
    """Return the bytes of an EBML number; none where there is no whole one."""
    head = data[at : at + 1]
    width = 9 - head[0].bit_length() if head and head[0] else 0
    raw = data[at : at + width]
    return raw if len(raw) == width else b""


def _avi(data: mmap.mmap, size: int) -> Extent:
    """Find where the last RIFF chunk ends; large files have several."""
    end = 0
    while data[end : end + 4] == b"RIFF" and end + 8 <= size:
        length = int.from_bytes(data[end + 4 : end + 8], "little")
        end += 8 + length + length % 2
    # Some writers count the head in, or forget the padding byte.
    return Extent(end - 9)


# Boxes that lie at the top of a file.
_BOXES = set(
    b"ftyp styp moov moof mdat mfra sidx ssix free skip wide udta meta uuid emsg prft pdin".split()
)


def _mp4(data: mmap.mmap, size: int) -> Extent:
    """Find where the last box with frames ends; what is cut behind them costs nothing."""
    end = position = 0
    fragmented = False
    while position < size:
        head = data[position : position + 16]
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0 and name == b"mdat":
            return Extent(size)
        # Of fragments no table tells how many there are: one that begins must end.
        if fragmented and name not in _BOXES:
            return Extent(max(end, position), True)
        if length < 8 or not name.isascii() or not name.strip(b"\0"):
            return Extent(end)
        position += length
        fragmented |= name == b"moof"
        if name == b"mdat" or (fragmented and (name == b"moof" or position <= size)):
            end = position
    return Extent(end, fragmented)


def _gif(data: mmap.mmap, size: int) -> Extent:
    """Walk the blocks; a file without a trailer ends after its last whole block."""
    at = 13 + _palette(data, 10)
    while at < size:
        kind = data[at]
        if kind == 0x3B:
            return Extent(at + 1)
        if kind not in b"!,":
            return Extent(at, True)
        at += 2 if kind == 0x21 else 11 + _palette(data, at + 9)
        # Sub-blocks: their length, then as many bytes; an empty one is the last.
        while at < size and data[at]:
            at += 1 + data[at]
        at += 1
    return Extent(at)


def _palette(data: mmap.mmap, flags_at: int) -> int:
    flags = data[flags_at] if flags_at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _apng(data: mmap.mmap, size: int) -> Extent:
    at = 8
    while at + 8 <= size:
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if not name.isalpha():
            return Extent(at, True)
        at += 12 + length
        if name == b"IEND":
            return Extent(at)
    return Extent(max(at, size + 1))


def _flv(data: mmap.mmap, size: int) -> Extent:
    """Find where the last tag ends: its head of 11 bytes, its data, and its size again."""
    end = at = int.from_bytes(data[5:9], "big") + 4
    while at + 11 <= size:
        if data[at] not in _FLV_TAGS:
            return Extent(at, True)
        end = at + 11 + int.from_bytes(data[at + 1 : at + 4], "big")
        at = end + 4
    rest = data[at:size]
    return Extent(size + 1 if rest and rest[0] in _FLV_TAGS else end, end + 4 < size)


# Sound, video and data; no text begins with one.
_FLV_TAGS = (8, 9, 18)


def _asf(data: mmap.mmap, size: int) -> Extent:
    """Walk the objects; the packets in that of data have one size and begin alike."""
    at = end = 0
    while at + 24 <= size:
        name, length = data[at : at + 16], int.from_bytes(data[at + 16 : at + 24], "little")
        # Live recordings do not state the size of their data.
        if length < 24 and name == _ASF_DATA:
            return Extent(size)
        if length < 24 or (end and at + length > size):
            return Extent(at, True)
        if name == _ASF_DATA:
            count, first = int.from_bytes(data[at + 40 : at + 48], "little"), at + 50
            step = (length - 50) // max(1, count)
            starts = data[first : min(at + length, size) : step] if step else b""
            if broken := next((k for k, byte in enumerate(starts) if byte != starts[0]), None):
                return Extent(first + broken * step, True)
            end = at + length
        at += length
    return Extent(max(at, end) or size + 1)


_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def _ogg(data: mmap.mmap, size: int) -> Extent:
    """Walk the pages; each of the streams has a page that says it is the last."""
    at, unfinished = 0, set[bytes]()
    while at < size:
        if data[at : at + 4] != b"OggS":
            return Extent(size + 1 if b"OggS".startswith(data[at:size]) else at, True)
        flags, serial, count = (
            data[at + 5 : at + 6],
            data[at + 14 : at + 18],
            data[at + 26 : at + 27],
        )
        if not count:
            return Extent(size + 1)
        (unfinished.discard if flags[0] & 4 else unfinished.add)(serial)
        at += 27 + count[0] + sum(data[at + 27 : at + 27 + count[0]])
    return Extent(max(at, size + 1) if unfinished else at)


class _Grid(NamedTuple):
    """Where the packets of a transport stream lie: the first, and how far apart."""

    first: int
    step: int


def _grid(data: mmap.mmap) -> _Grid | None:
    """Find packets of 188 bytes, with a time code in front (192) or a checksum behind (204)."""
    head = np.frombuffer(data[: 1 << 17], np.uint8) == 0x47
    for first in np.flatnonzero(head[: 1 << 16]).tolist():
        for step in (188, 192, 204):
            if head[first::step][:8].all():
                return _Grid(first, step)
    return None


def _mpegts(data: mmap.mmap, size: int) -> Extent:
    """Find where the packets end: a capture may begin, but not end, inside one."""
    grid = _grid(data)
    if grid is None:
        return Extent(0, True)
    count = -(-(size - grid.first) // grid.step)
    blocks, rest = divmod(count, 1 << 12)
    at = grid.first
    for number in [1 << 12] * blocks + [rest]:
        found = np.frombuffer(data[at : at + number * grid.step], np.uint8)[:: grid.step] == 0x47
        if not found.all():
            at += int(np.argmin(found)) * grid.step
            return Extent(at, True)
        at += number * grid.step
    # A checksum, or the next time code, may be missing behind the last packet.
    return Extent(at - grid.step + 188)


def restarts(path: Path, pid: int) -> int:
    """Count where a transport stream begins again in the middle, as recordings joined by cat do.

    There the packets of stream ``pid`` are numbered anew, after new tables and with a new frame.
    """
    heads = _heads(path)
    numbers = _numbers(heads)
    tables = np.cumsum(numbers == 0)
    ours = np.flatnonzero((numbers == pid) & (heads[:, 3] & 0x10 > 0))
    counters, starts = heads[ours, 3] & 0xF, heads[ours, 1] & 0x40 > 0
    jumps = (counters[1:] - counters[:-1]) % 16 > 1
    return int((jumps & starts[1:] & (np.diff(tables[ours]) > 0)).sum())


def scrambled(path: Path) -> bool:
    """Tell whether a file is a transport stream of which most packets say they are encrypted."""
    flags = _heads(path)[:, 3] & 0xC0 > 0
    return bool(flags.sum() * 2 > len(flags))


def _heads(path: Path) -> np.ndarray:
    """Return the first bytes of all packets, (num_packets, 4) uint8; none of other files."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        grid = _grid(data)
        if grid is None:
            return np.zeros((0, 4), np.uint8)
        heads = np.frombuffer(data, np.uint8)[grid.first :]
        # What lies in mapped memory must be gone before the map is.
        heads = heads[: len(heads) // grid.step * grid.step].reshape(-1, grid.step)[:, :4].copy()
    return heads


def _numbers(heads: np.ndarray) -> np.ndarray:
    """Return the number of the stream that each packet is of, (num_packets,)."""
    return (heads[:, 1] & 0x1F).astype(np.uint16) << 8 | heads[:, 2]


_CHECKS: dict[str, Callable[[mmap.mmap, int], Extent]] = {
    "mov": _mp4,
    "matroska": _matroska,
    "avi": _avi,
    "mpegts": _mpegts,
    "gif": _gif,
    "apng": _apng,
    "flv": _flv,
    "asf": _asf,
    "ogg": _ogg,
}
