"""A part of a video file, such as one episode of many that share it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, dropwhile
from pathlib import Path
from typing import Any

import av
import numpy as np

from builder.core.errors import DecodeError
from builder.inputs.containers import broken_off
from builder.inputs.demux import Survey, damaged, samples_end
from builder.inputs.keyframes import has_keyframes
from builder.inputs.streams import Frame, period
from builder.inputs.video import Opened, VideoStream, time_of
from schemas.config import Limits
from schemas.geometry import Orientation


class VideoSpan(VideoStream):
    """The frames of a video file at known times; a ``FrameStream``.

    ``start`` is where the span begins in the file, in seconds; ``seconds`` (T,) are the times
    of its frames from there on.  Frame for frame they must be in the file, to half a period.
    ``orientation`` overrides what the file says.
    Raises DecodeError for whatever is not a readable video within ``limits``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start: float,
        seconds: np.ndarray,
        *,
        limits: Limits | None = None,
        orientation: Orientation | None = None,
    ) -> None:
        self.path = Path(path)
        self._limits = limits or Limits()
        self._turn = orientation
        self._index = None
        self._start, self._seconds, self._count = start, seconds, len(seconds)
        # Counting the whole file for each of its spans would take quadratic time.  What is sought
        # may be found inside a group of pictures, and frames behind a keyframe may refer to some
        # before it.
        self._packets = Survey(count=self._count, skipped=1, leading=True)
        with self._errors_named():
            opened = self._open()
            rate = float(opened.stream.average_rate or 1)
            self._slack = (period(seconds) or 1 / rate) / 2
            container = opened.container
            name = container.format.name
            if missing := broken_off(self.path, name, lambda: samples_end(container)):
                raise damaged(self.path, missing)
            self._delay = _delay(opened)
            opened = self._seek(opened)
            first = self._first_frame(
                opened.frames, f"it has no frame at {self._expected(0):.3f} s"
            )
            self.info = self._describe(opened, first, orientation)
        # The first iteration continues from here.
        self._opened = opened._replace(frames=chain([first], opened.frames))

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames of the span; seconds are those given."""
        with self._errors_named():
            opened, self._opened = self._opened, None
            if opened is None:
                opened = self._seek(self._open())
            with opened.container:
                for index, seconds in enumerate(self._seconds.tolist()):
                    frame = next(opened.frames, None)
                    self._check_time(frame, index)
                    self._check_frame(frame, index)
                    yield Frame(frame, seconds)

    def after(self, first: int) -> Iterator[Frame]:
        """Yield the frames from number ``first`` on, sought as a span of their own."""
        if not first:
            return iter(self)
        rest = self._seconds[first:]
        return iter(
            VideoSpan(self.path, self._start, rest, limits=self._limits, orientation=self._turn)
        )

    def times(self) -> np.ndarray:
        """Return the seconds of all frames, (num_frames,) float64."""
        return self._seconds

    def _seek(self, opened: Opened) -> Opened:
        """Return a container with its frames from the span's first on, decoded from before it.

        The keyframe that is found may itself be shown later than what was asked for: where frames
        are reordered, and where those between it and its group's start cannot be decoded without
        the group before.  Then it is sought further back.
        """
        first = self._expected(0) - self._slack
        last = first + 2 * self._slack
        unit, begin = opened.stream.time_base, opened.stream.start_time or 0
        back, alone = 0.0, has_keyframes(opened.stream)
        while alone and (offset := int((first - back) / unit)) > begin:
            opened.container.seek(offset, stream=opened.stream)
            frames = self._from_key(opened)
            frame = next(frames, None)
            if frame is not None and (frame.pts is None or self._at(frame) <= last):
                frames = chain([frame], frames)
                break
            back = max(2 * back, 2 * self._slack)
        else:
            # Some containers cannot be sought to their very start.
            opened.container.close()
            opened = self._open()
            frames = self._decode(opened, self._packets)
        late = (each for each in frames if each.pts is None or self._at(each) >= first)
        return opened._replace(frames=late)

    def _from_key(self, opened: Opened) -> Iterator[Any]:
        """Decode from the keyframe that was found; nothing where it is not what is shown first.

        Pictures shown before it need the group before.  Where pictures are refreshed row by row,
        the decoder waits, and the first one that it shows may not be whole yet.
        """
        packets = opened.container.demux(opened.stream)
        key = next((each for each in packets if each.size and each.is_keyframe), None)
        if key is None:
            return
        frames = self._decode(opened, self._packets, chain([key], packets))
        shown = dropwhile(lambda each: each.pts is not None and each.pts < (key.pts or 0), frames)
        try:
            first = next(shown, None)
        except (DecodeError, av.InvalidDataError):
            return  # what is wrong, decoding from further back tells
        if first is not None and first.key_frame:
            yield first
            yield from shown

    def _count_notes(self) -> Iterator[str]:
        return iter(())

    def _at(self, frame: Any) -> float:
        return time_of(frame) - self._delay

    def _expected(self, index: int) -> float:
        return self._start + float(self._seconds[index])

    def _check_time(self, frame: Any, index: int) -> None:
        expected = self._expected(index)
        if frame is None or frame.pts is None:
            raise DecodeError.at(
                self.path, f"it ends before {expected:.3f} s (frame {index} of the episode)"
            )
        if abs(self._at(frame) - expected) > self._slack:
            raise DecodeError.at(
                self.path,
                f"it has no frame at {expected:.3f} s (frame {index} of the episode); the next "
                f"one is at {self._at(frame):.3f} s",
            )


def _delay(opened: Opened) -> float:
    """Return the seconds by which frames of an AVI come after their chunks, for reordering."""
    if opened.container.format.name != "avi":
        return 0.0
    packet = next(opened.container.demux(opened.stream))
    known = packet.pts is not None and packet.dts is not None
    return float((packet.pts - packet.dts) * packet.time_base) if known else 0.0
