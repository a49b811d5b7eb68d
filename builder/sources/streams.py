"""Frame streams over things that are addressed by frame number: arrays, image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from builder.errors import DecodeError
from builder.sources.base import Frame, StreamInfo

_BLOCK_BYTES = 1 << 20


class BlockStream:
    """Frames read by number, neighbouring ones together; a ``FrameStream``.

    ``read(first, last)`` returns the frames of that range: an array (n, H, W, 3) uint8, or any
    sequence of what ``Frame.image`` may be.  ``seconds`` (T,) are their times, ``block`` is how
    many frames are read at once.
    """

    def __init__(
        self,
        info: StreamInfo,
        seconds: np.ndarray,
        read: Callable[[int, int], Any],
        block: int = 1,
    ) -> None:
        self.info, self._seconds, self._read, self._block = info, seconds, read, max(1, block)

    def __iter__(self) -> Iterator[Frame]:
        """Yield all frames in order."""
        return self.take(np.arange(self.info.num_frames))

    def times(self) -> np.ndarray:
        """Return the seconds of all frames, (T,) float64."""
        return self._seconds

    def take(self, indices: np.ndarray) -> Iterator[Frame]:
        """Yield the frames of ascending indices, (n,); no others are read.

        Raises DecodeError when another number of frames comes than was asked for.
        """
        for first, last in _runs(indices, self._block):
            images = self._read(first, last)
            if len(images) != last - first:
                raise DecodeError(f"{last - first} frames were asked for, {len(images)} came")
            # Small frames come at 100,000 per second: nothing is done for each of them here.
            yield from map(Frame, images, self._seconds[first:last].tolist())


def even_times(count: int, fps: float) -> np.ndarray:
    """Return the seconds (count,) of frames that come at an even rate, from 0."""
    return np.arange(count) / fps


def frames_at_once(chunk: int, frame_bytes: int) -> int:
    """Return how many frames to read together: whole chunks of ``chunk`` frames, about a MiB.

    So each chunk is decompressed once.
    """
    return chunk * max(1, _BLOCK_BYTES // (chunk * frame_bytes))


def _runs(indices: np.ndarray, block: int) -> Iterator[tuple[int, int]]:
    """Cut ascending indices into ranges (first, last) of neighbours that lie in one block."""
    if not len(indices):
        return
    blocks = indices // block
    cuts = np.flatnonzero((np.diff(indices) != 1) | (blocks[1:] != blocks[:-1]))
    firsts, lasts = indices[[0, *(cuts + 1)]], indices[[*cuts, -1]] + 1
    yield from zip(firsts.tolist(), lasts.tolist(), strict=True)
