"""A part of a video file, reached by seeking: its cost does not depend on where it lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from builder.inputs.demux import Survey
from builder.inputs.streams import Frame, period
from builder.inputs.video import VideoStream
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
        self._start, self._seconds, self._count = start, seconds, len(seconds)
        with self._errors_named():
            opened = self._open()
            rate = float(opened.stream.average_rate or 1)
            self._slack = (period(seconds) or 1 / rate) / 2
            # Counting the whole file for each of its spans would take quadratic time.
            survey = Survey(self._count, inside=False, pts=None)
            self._check_end(opened, replace(survey, count=opened.stream.frames))
            frames = self._seek(opened)
            first = next(frames, None)
            if first is None:
                raise self._error(f"it has no frame at {self._expected(0):.3f} s")
            self._shape = (first.height, first.width)
            self._check_pixels(first.width, first.height)
            self.info = self._describe(opened, first, orientation, survey)
        # The first reading goes on where this stopped.
        self._opened = opened._replace(frames=chain([first], frames))

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames of the span; seconds are those given."""
        with self._errors_named():
            opened, self._opened = self._opened, None
            if opened is None:
                opened = self._open()
                opened = opened._replace(frames=self._seek(opened))
            with opened.container:
                for index, seconds in enumerate(self._seconds.tolist()):
                    frame = next(opened.frames, None)
                    self._check_time(frame, index)
                    self._check_frame(frame, index)
                    yield Frame(frame, seconds)

    def times(self) -> np.ndarray:
        """Return the seconds of all frames, (num_frames,) float64."""
        return self._seconds

    def _seek(self, opened: Any) -> Iterator[Any]:
        """Return the frames from the span's first on, decoding from the keyframe before it."""
        first = self._expected(0) - self._slack
        offset = max(0, int(first / opened.stream.time_base))
        opened.container.seek(offset, stream=opened.stream)
        return (frame for frame in opened.frames if frame.pts is None or _time(frame) >= first)

    def _expected(self, index: int) -> float:
        return self._start + float(self._seconds[index])

    def _check_time(self, frame: Any, index: int) -> None:
        expected = self._expected(index)
        if frame is None or frame.pts is None:
            raise self._error(f"it ends before {expected:.3f} s (frame {index} of the episode)")
        if abs(_time(frame) - expected) > self._slack:
            raise self._error(
                f"it has no frame at {expected:.3f} s (frame {index} of the episode); the next "
                f"one is at {_time(frame):.3f} s"
            )


def _time(frame: Any) -> float:
    return float(frame.pts * frame.time_base)
