"""The videos that older track files were made from: found by name, never guessed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import SourceError
from builder.legacy.files import LegacyRef
from builder.sources.base import Frame, FrameStream, StreamInfo
from builder.sources.clock import PickedStream
from builder.sources.listing import VIDEO_SUFFIXES, walk
from builder.video import VideoStream


class Videos:
    """A folder of videos, of which every ``frame_step``-th frame was tracked.

    The video of a file ``a/b.hdf5`` is ``a/b/<view>.mp4``; for a file of one view else
    ``a/b.mp4``, else the only ``b.mp4`` anywhere in the folder; with any video suffix.
    """

    def __init__(self, folder: Path, frame_step: int = 1) -> None:
        self.folder, self.frame_step = folder, frame_step

    def open(self, ref: LegacyRef, view: str) -> FrameStream:
        """Open the video of a view.

        Raises SourceError when there is none, or several, or when it is not of the tracks'
        length or shape; DecodeError when it is damaged.
        """
        path = self.find(ref, view)
        stream: FrameStream = VideoStream(path)
        picks = np.arange(0, stream.info.num_frames, self.frame_step)
        if len(picks) != ref.length:
            raise SourceError(
                f"{path} has {len(picks)} frames at frame_step {self.frame_step}, the tracks of "
                f"{ref.relative} have {ref.length}; is it the video they were made from, and the "
                f"frame step?"
            )
        if self.frame_step > 1:
            fps = stream.info.fps
            stream = PickedStream(stream, picks, fps=fps / self.frame_step if fps else None)
        tracked = ref.tracked[view]
        if tracked is None:
            raise SourceError(
                f"{ref.relative}, view {view}: no height/width attributes, so its tracks cannot be "
                f"placed in {path}; give the size that was tracked"
            )
        (height, width), (source_height, source_width) = tracked, stream.info.source_shape
        # Both sides were rounded, by half a pixel at most.
        slack = 0.5 * (1 / height + 1 / width) + 1e-9
        if abs(width * source_height / (height * source_width) - 1) > 2 * slack:
            raise SourceError(
                f"{path} is {source_height} x {source_width}, {ref.relative} was tracked at "
                f"{height} x {width} (H x W): another aspect, so another video"
            )
        return stream

    def find(self, ref: LegacyRef, view: str) -> Path:
        """Return the path of a view's video; raises SourceError when it is not exactly one."""
        base = ref.relative.with_suffix("")
        places = [[path for path in self._all if path.with_suffix("") == base / view]]
        if len(ref.tracked) == 1:
            places.append([path for path in self._all if path.with_suffix("") == base])
            places.append([path for path in self._all if path.stem == base.name])
        found = next((paths for paths in places if paths), [])
        if len(found) != 1:
            got = "none" if not found else ", ".join(map(str, found[:4]))
            looked = f"{base / view}.*" + (f" or {base}.*" if len(ref.tracked) == 1 else "")
            raise SourceError(
                f"{ref.relative}, view {view}: expected one video {looked} in {self.folder}, "
                f"found {got}"
            )
        return self.folder / found[0]

    @cached_property
    def _all(self) -> list[Path]:
        return [
            Path(inner) / name
            for inner, names in walk(self.folder)
            for name in names
            if name.lower().endswith(VIDEO_SUFFIXES)
        ]


class ArrayFrames:
    """An ATM file's video (1, T, 3, H, W) as a frame stream."""

    def __init__(self, stored: Any, fps: float | None) -> None:
        self._stored, self._fps = stored, fps
        _, length, _, height, width = stored.shape
        self.info = StreamInfo((height, width), length, fps=fps, codec="rawvideo")

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; without fps their seconds are their numbers."""
        for index in range(self.info.num_frames):
            image = np.ascontiguousarray(np.moveaxis(self._stored[0, index], 0, -1))
            yield Frame(image, index / (self._fps or 1.0))
