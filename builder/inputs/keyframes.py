"""Reaching a frame in the middle of a video: by the keyframe before it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain
from typing import Any

import av

from builder.inputs.demux import Survey

# Codecs whose keyframes need nothing of what was before them, beside those that have no others.
# A picture of a GIF or APNG, whatever its file calls it, is drawn over the one before it.
_INDEPENDENT = set(
    "h264 hevc av1 vp8 vp9 mpeg1video mpeg2video mpeg4 h263 flv1 msmpeg4v1 msmpeg4v2 msmpeg4v3 "
    "wmv1 wmv2 theora ffv1".split()
)
_TRIED = 3
"""Keyframes that are tried, each further back, before a file is decoded from its start."""


def has_keyframes(stream: Any) -> bool:
    """Tell whether the keyframes of a stream need nothing of what was before them."""
    codec = stream.codec_context.codec
    return codec.canonical_name in _INDEPENDENT or codec.intra_only


def decoded_whole(stream: Any, found: Survey, pts: Any, first: Any) -> str | None:
    """Say why no frame in the middle can be sought, by the file's times; None where it can.

    ``pts`` are the times of all frames, ``first`` is the first one, decoded.
    """
    if not has_keyframes(stream):
        name = stream.codec_context.codec.canonical_name
        return f"{name} has no keyframes that stand for themselves"
    if pts is None or not found.keys:
        return "its frames have no times" if pts is None else "it has one keyframe"
    if pts[0] != first.pts:
        return "the times of its frames are not those of its packets"
    if any(map(int.__ge__, pts, pts[1:])):
        return "several of its frames have one time"
    return None


def keys_before(found: Survey, time: int) -> list[tuple[int, int]]:
    """Return (pts, where to seek) of some keyframes at or before a time, the nearest first."""
    last = bisect_right(found.keys, time)
    tried = slice(max(0, last - _TRIED), last)
    return [*zip(found.keys[tried], found.places[tried], strict=True)][::-1]


def packets_from(container: Any, stream: Any, key: tuple[int, int]) -> Iterator[Any] | None:
    """Return the packets of a stream from a keyframe on; None where seeking does not find it."""
    pts, place = key
    try:
        container.seek(place, stream=stream)
    except av.FFmpegError:
        return None
    packets = container.demux(stream)
    for packet in packets:
        if packet.size and packet.is_keyframe:
            if packet.pts == pts:
                return chain([packet], packets)
            if packet.pts is None or packet.pts > pts:
                return None
    return None
