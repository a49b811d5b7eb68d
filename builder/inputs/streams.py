"""What a stream of frames is, and streams over what is addressed by frame number."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from builder.core.errors import DecodeError
from schemas.config import Limits
from schemas.dataset import ArrayMeta, ColorInfo, MotionSummary, ViewMeta
from schemas.geometry import Geometry, Orientation, oriented_shape

BY_HAND = "source.orientation"
"""What an orientation was taken from that the user set."""


@dataclass(frozen=True)
class StreamInfo:
    """What is known of a view before its frames are decoded.

    ``coded_shape`` (H, W) is the stored pixel grid; ``orientation`` turns it upright;
    ``sample_aspect_ratio`` (width, height of a pixel) applies after orientation.
    ``orientation_from`` says in words what the orientation was taken from; None: the pictures
    are taken as stored, and nothing says that they are upright.
    ``num_frames`` is the exact number of frames the stream is going to yield.
    """

    coded_shape: tuple[int, int]
    num_frames: int
    orientation: Orientation = "none"
    sample_aspect_ratio: tuple[int, int] = (1, 1)
    fps: float | None = None
    color: ColorInfo | None = None
    codec: str | None = None
    notes: tuple[str, ...] = ()
    orientation_from: str | None = None

    @property
    def source_shape(self) -> tuple[int, int]:
        """Shape (H, W) after orientation."""
        return oriented_shape(self.orientation, self.coded_shape)

    def view_meta(
        self,
        name: str,
        geometry: Geometry,
        arrays: Mapping[str, ArrayMeta],
        notes: Sequence[str],
        motion: MotionSummary | None = None,
    ) -> ViewMeta:
        """Describe a stored view made of the stream; ``notes`` come after its own."""
        return ViewMeta(
            name=name,
            geometry=geometry,
            coded_shape=self.coded_shape,
            orientation=self.orientation,
            orientation_from=self.orientation_from,
            color=self.color,
            codec=self.codec,
            fps=self.fps,
            arrays=dict(arrays),
            motion=motion,
            notes=(*self.notes, *notes),
        )


class Frame(NamedTuple):
    """One frame as it comes: not yet oriented, not yet scaled.

    ``image`` is an ``av.VideoFrame``, or an array (H, W, 3) uint8 RGB of the coded shape.
    """

    image: Any
    seconds: float


class FrameStream(ABC):
    """Base of streams: the frames of one view; iterating again starts again.

    A subclass sets ``info`` and iterates.  It overrides ``times``, ``after`` and ``take`` where
    it can do so without decoding the frames that are not asked for.
    """

    info: StreamInfo
    decoded_whole: str | None = None
    """Why a frame is only reached by decoding all before it; None where it need not be."""

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yield frames in presentation order, exactly ``info.num_frames`` of them.

        Raises DecodeError when the stream turns out damaged, short or of changing size.
        """

    def times(self) -> np.ndarray:
        """Return the seconds of all frames, (num_frames,) float64."""
        return np.fromiter((frame.seconds for frame in self), np.float64)

    def after(self, first: int) -> Iterator[Frame]:
        """Yield the frames from number ``first`` on, as iterating does."""
        return islice(iter(self), first, None)

    def take(self, indices: np.ndarray) -> Iterator[Frame]:
        """Yield the frames of ascending indices, (n,), of which one may repeat.

        Raises DecodeError when the stream ends before the last of them.
        """
        wanted = iter(indices.tolist())
        index = next(wanted, None)
        first = index or 0
        for number, frame in enumerate(self.after(first), first):
            while index == number:
                yield frame
                index = next(wanted, None)
            # After its last frame a stream still checks that it was whole.
            if index is None and number + 1 < self.info.num_frames:
                return
        if index is not None:
            raise DecodeError(f"the stream ended before its frame {index}")


_BLOCK_BYTES = 1 << 20


class BlockStream(FrameStream):
    """Frames read by number, neighbouring ones together.

    ``read(first, last)`` returns the frames of that range: an array (n, H, W, 3) uint8, or any
    sequence of what ``Frame.image`` may be.  ``seconds`` (T,) are their times, ``block`` is how
    many frames are read at once.
    """

    def __init__(
        self, info: StreamInfo, seconds: np.ndarray, read: Callable[[int, int], Any], block: int = 1
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


def check_pixels(path: Path, width: int, height: int, limits: Limits) -> None:
    """Raise DecodeError for a picture of more pixels than the limit."""
    if width * height > limits.max_pixels:
        raise DecodeError.at(
            path,
            f"{width}x{height} pixels exceed the limit of {limits.max_pixels} (limits.max_pixels)",
        )


def even_times(count: int, fps: float) -> np.ndarray:
    """Return the seconds (count,) of frames that come at an even rate, from 0."""
    return np.arange(count) / fps


def array_stream(
    read: Callable[[int, int], Any],
    shape: tuple[int, ...],
    fps: float,
    limits: Limits,
    error: Callable[[str], Exception],
    *,
    chunk: int = 1,
    frame_bytes: int | None = None,
    **info: Any,
) -> BlockStream:
    """Return pictures stored as an array of ``shape`` (T, H, W) as frames, evenly spaced in time.

    ``read`` is as in ``BlockStream``; the array is stored in chunks of ``chunk`` frames of
    ``frame_bytes`` each (default: uint8 RGB).  ``info`` are further fields of ``StreamInfo``.
    Raises ``error(message)`` for an array that is empty or beyond the limits.
    """
    count, height, width = shape
    pixels = height * width
    if not (0 < count <= limits.max_frames and 0 < pixels <= limits.max_pixels):
        raise error(
            f"(T, H, W) = {shape} is empty, or exceeds limits.max_pixels {limits.max_pixels} or "
            f"limits.max_frames {limits.max_frames}"
        )
    known = StreamInfo((height, width), count, fps=fps, **{"codec": "raw", **info})
    chunk_bytes = chunk * (frame_bytes or 3 * pixels)
    # Whole chunks, about a MiB, are read together, so that each is decompressed once; but a chunk
    # may hold parts of so many frames that they are not.
    whole = chunk_bytes <= limits.max_chunk_bytes
    block = chunk * max(1, _BLOCK_BYTES // chunk_bytes) if whole else 1
    return BlockStream(known, even_times(count, fps), read, block)


def _runs(indices: np.ndarray, block: int) -> Iterator[tuple[int, int]]:
    """Cut ascending indices into ranges (first, last) of neighbours that lie in one block."""
    if not len(indices):
        return
    blocks = indices // block
    cuts = np.flatnonzero((np.diff(indices) != 1) | (blocks[1:] != blocks[:-1]))
    firsts, lasts = indices[[0, *(cuts + 1)]], indices[[*cuts, -1]] + 1
    yield from zip(firsts.tolist(), lasts.tolist(), strict=True)


class PickedStream(FrameStream):
    """Some frames of another stream, in its order; a frame may come more than once.

    ``indices`` (T,) ascending frame numbers; ``seconds`` (T,) replaces their times.
    """

    def __init__(
        self,
        stream: FrameStream,
        indices: np.ndarray,
        *,
        seconds: np.ndarray | None = None,
        **changes: Any,
    ) -> None:
        self._stream, self._indices, self._seconds = stream, indices, seconds
        self.info = replace(stream.info, num_frames=len(indices), **changes)
        self.decoded_whole = stream.decoded_whole

    def __iter__(self) -> Iterator[Frame]:
        """Yield the picked frames."""
        return self.after(0)

    def after(self, first: int) -> Iterator[Frame]:
        """Yield the picked frames from number ``first`` of them on."""
        for k, frame in enumerate(self._stream.take(self._indices[first:]), first):
            yield frame if self._seconds is None else Frame(frame.image, float(self._seconds[k]))

    def times(self) -> np.ndarray:
        """Return the seconds of the picked frames, (T,) float64."""
        if self._seconds is not None:
            return self._seconds
        return self._stream.times()[self._indices]


def origin(stream: FrameStream) -> tuple[FrameStream, np.ndarray]:
    """Return the stream that frames were picked from, and their numbers in it, (num_frames,)."""
    if not isinstance(stream, PickedStream):
        return stream, np.arange(stream.info.num_frames)
    found, indices = origin(stream._stream)
    return found, indices[stream._indices]


def period(times: np.ndarray) -> float:
    """Return the median seconds from frame to frame; 0 for a single frame."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0
