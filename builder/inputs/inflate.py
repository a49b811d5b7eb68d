"""How large a compressed chunk becomes, found out before it is decompressed.

Compression libraries allocate what a chunk claims, or inflate without a bound; a few kilobytes
can become gigabytes.  Every check is by header, by the best ratio possible, or by inflating in
bounded pieces.
"""

import struct
import zlib
from collections.abc import Callable

# No byte of deflate (or LZF) input can give more bytes of output than this.
MAX_RATIO = 1032
_LZF_RATIO = 88
_PIECE = 1 << 20


def check_inflated(codec: str, raw: bytes, limit: int) -> None:
    """Raise ValueError when ``raw`` would become more than ``limit`` bytes, or cannot be judged.

    A ``codec`` whose sizes cannot be told is refused by name.
    """
    if codec not in _SIZES:
        raise ValueError(
            f"the compression {codec!r} is refused; supported are {', '.join(_SIZES)}; "
            f"write the data again with one of them"
        )
    try:
        size = _SIZES[codec](raw, limit)
    except (struct.error, IndexError, zlib.error) as error:
        raise ValueError(f"a {codec} chunk is damaged: {error}") from None
    if size > limit:
        raise ValueError(
            f"a chunk of {len(raw)} bytes ({codec}) would inflate beyond the limit of {limit} "
            f"bytes (limits.max_chunk_bytes)"
        )


def _deflate_size(raw: bytes, limit: int) -> int:
    if len(raw) * MAX_RATIO <= limit:
        return len(raw)
    total, rest = 0, raw
    # A gzip file may hold several members one after another.
    while rest and total <= limit:
        stream = zlib.decompressobj(wbits=47)
        while not stream.eof and total <= limit:
            piece = stream.decompress(rest, _PIECE)
            rest = stream.unconsumed_tail
            total += len(piece)
            if not piece and not rest:
                break
        rest = stream.unused_data if stream.unused_data[:2] == b"\x1f\x8b" else b""
    return total


def _blosc_size(raw: bytes, limit: int) -> int:
    size, _, stored = struct.unpack_from("<III", raw, 4)
    if stored > len(raw):
        # Blosc believes its header, and reads on behind the end.
        raise struct.error(f"its header says {stored} bytes, there are {len(raw)}")
    return int(size)


def _zstd_size(raw: bytes, limit: int) -> int:
    """Read the content size of the (first) frame; a frame that does not say is refused."""
    if raw[:4] != b"\x28\xb5\x2f\xfd":
        raise struct.error("no zstd frame")
    head = raw[4]
    single = head >> 5 & 1
    width = (single, 2, 4, 8)[head >> 6]
    if not width:
        return limit + 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[head & 3]
    if len(raw) < at + width:
        raise struct.error("the header is cut off")
    return int.from_bytes(raw[at : at + width], "little") + (256 if width == 2 else 0)


_SIZES: dict[str, Callable[[bytes, int], int]] = {
    "raw": lambda raw, _: len(raw),
    "deflate": _deflate_size,
    "zlib": _deflate_size,
    "gzip": _deflate_size,
    "lzf": lambda raw, _: len(raw) * _LZF_RATIO,
    "blosc": _blosc_size,
    "lz4": lambda raw, _: int(struct.unpack_from("<I", raw, 0)[0]),
    "lz4_hdf5": lambda raw, _: int(struct.unpack_from(">Q", raw, 0)[0]),
    "zstd": _zstd_size,
}
