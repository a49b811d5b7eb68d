"""Cut-off video files: the sizes a container declares, compared with the size of the file.

FFmpeg reads the start of many cut-off files without an error, so these few bytes are read here.
Some cuts cannot be detected: a transport or program stream cut between two packets, a
fragmented MP4 cut between two fragments, a live WebM recording (no sizes, no duration) cut
between two frames.
"""

import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

_SEGMENT = 0x18538067 & 0x0FFFFFFF


def cut_off(path: Path, container: str, *, declared: int, counted: int) -> str | None:
    """Say how much is missing at the end of a file; None when nothing is known to be missing.

    ``container`` is FFmpeg's name; ``declared`` (0: unknown) and ``counted`` are frames.
    """
    kind = container.partition(",")[0]
    if kind not in _CHECKS:
        return None
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        expected = _CHECKS[kind](file, size)
    # An index cut off behind the last frame costs nothing.
    if expected <= size or (kind == "avi" and declared == counted):
        return None
    return f"it is cut off: {size} bytes where its {kind} structure needs {expected} or more"


def _matroska(file: BinaryIO, size: int) -> int:
    """Where the last element of known size ends."""
    end = position = 0
    while position < size:
        file.seek(position)
        number, length = _vint(file), _vint(file)
        if number is None or length is None:
            # Zeros behind the end, or a cut inside an element's head.
            return max(end, size + (number is not None))
        position = file.tell()
        (name, _), (payload, unknown) = number, length
        # Live recordings do not know their sizes: their parts come one after another.  So do
        # those of the segment, which holds all the rest.
        if payload != unknown:
            end = max(end, position + payload)
            position += payload if name != _SEGMENT else 0
    return end


def _vint(file: BinaryIO) -> tuple[int, int] | None:
    """Read an EBML number without its length marker, and the value that means "unknown".

    Returns None where there is no number, or not all of it.
    """
    head = file.read(1)
    if not head or not head[0]:
        return None
    width = 9 - head[0].bit_length()
    raw = head + file.read(width - 1)
    unknown = (1 << 7 * width) - 1
    return (int.from_bytes(raw, "big") & unknown, unknown) if len(raw) == width else None


def _avi(file: BinaryIO, size: int) -> int:
    """Where the last RIFF chunk ends; large files have several."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(8)
        if head[:4] != b"RIFF" or len(head) < 8:
            break
        length = int.from_bytes(head[4:], "little")
        end += 8 + length + length % 2
    # Some writers count the head in, or forget the padding byte.
    return end - 9


def _mp4(file: BinaryIO, size: int) -> int:
    """Where the last box with frames ends; what is cut behind them costs nothing."""
    end = position = 0
    while position < size:
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < 8:
            # 0 means "to the end of the file".
            break
        position += length
        if name == b"mdat":
            end = position
    return end


def _mpegts(file: BinaryIO, size: int) -> int:
    """Round up to whole packets: 188 bytes, or 192 with a time code in front."""
    packet = 188 if file.read(1) == b"\x47" else 192
    return -(-size // packet) * packet


def _needs_ending(file: BinaryIO, size: int, ending: bytes) -> int:
    file.seek(max(0, size - 1024))
    return size + (not file.read().rstrip(b"\0").endswith(ending))


_CHECKS: dict[str, Callable[[BinaryIO, int], int]] = {
    "mov": _mp4,
    "matroska": _matroska,
    "avi": _avi,
    "mpegts": _mpegts,
    "gif": partial(_needs_ending, ending=b"\0;"),  # the trailer behind the last block's end
    "apng": partial(_needs_ending, ending=b"IEND\xaeB`\x82"),
}
