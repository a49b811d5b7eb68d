"""The videos that older files were tracked from, matched by file name."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from builder.canvas.letterbox import Letterboxer
from builder.core.errors import ConfigError, DatasetError, SourceError
from builder.dataset.episodes import TrackedSize
from builder.dataset.legacy.files import CONFIG_NAME, LegacyRef
from builder.inputs.listing import VIDEO_SUFFIXES, walk
from builder.inputs.streams import (
    BlockStream,
    Frame,
    FrameStream,
    PickedStream,
    StreamInfo,
    even_times,
)
from builder.inputs.video import VideoStream
from builder.stores.codecs import Rows
from schemas.geometry import Stretch
from schemas.legacy import resized_by_shorter

LONGEST_SKIP = 32
"""Frames up to which decoding on is preferred to seeking."""

MAX_DECODERS = 8
"""Videos open at a time; a decoder may hold tens of megabytes."""


class Videos:
    """A folder of videos, of which every ``frame_step``-th frame was tracked.

    The video of a file ``a/b.hdf5`` is ``a/b/<view>.mp4``; for a file of one view else
    ``a/b.mp4``, else the only ``b.mp4`` anywhere in the folder; with any video suffix.  Raises
    ConfigError for a folder that is not there and a step below 1.
    """

    def __init__(self, folder: Path, frame_step: int = 1) -> None:
        if frame_step < 1:
            raise ConfigError(f"frame_step must be at least 1, got {frame_step}")
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder; give that of the tracked videos")
        self.folder, self.frame_step = folder, frame_step

    def tracked_size(self, ref: LegacyRef, view: str, height: int | None) -> TrackedSize:
        """Tell the tracked size of a view from its video, by the older route's resizing.

        How far the video was scaled, the ``config.yaml`` beside the file says (resize_shorter), or
        else the ``height`` of the tracked frames does, which its query grid told.  Raises
        SourceError for what is not the view's video, DecodeError when it is damaged.
        """
        stream = self._open(ref, view)
        shape = stream.info.source_shape
        basis = f"its video is {shape[0]} x {shape[1]} (H x W)"
        if ref.short_side is not None:
            basis += f", and {CONFIG_NAME} says resize_shorter {ref.short_side}"
            return TrackedSize(resized_by_shorter(shape, ref.short_side), "video", basis)
        if height is None:
            why = "no config.yaml beside the file says resize_shorter, and its points are no grid"
            return TrackedSize(None, "unknown", f"{basis}, but {why}")
        near = round(min(shape) * height / shape[0])
        for short in (near, near - 1, near + 1):
            if short > 0 and resized_by_shorter(shape, short)[0] == height:
                basis += f", and its query grid tells a height of {height}"
                return TrackedSize(resized_by_shorter(shape, short), "video", basis)
        return TrackedSize(None, "unknown", f"{basis}, which no resizing makes {height} high")

    def open(self, ref: LegacyRef, view: str) -> FrameStream:
        """Open the video of a view.

        Raises SourceError when there is none, or several, or when it is not of the tracks'
        length or shape; DecodeError when it is damaged.
        """
        stream = self._open(ref, view)
        size = ref.sizes[view]
        if size.shape is None:
            raise SourceError(
                f"{ref.relative}, view {view}: its tracks cannot be placed in {stream.path}: no "
                f"height and width are recorded{size.basis and f', and {size.basis}'}; give the "
                f"size that was tracked"
            )
        _check_aspect(ref, stream, size.shape)
        if self.frame_step == 1:
            return stream
        fps = stream.info.fps
        picks = np.arange(0, stream.info.num_frames, self.frame_step)
        return PickedStream(stream, picks, fps=fps / self.frame_step if fps else None)

    def frames(self, ref: LegacyRef, view: str, img_shape: tuple[int, int]) -> StretchedVideo:
        """Return a view's frames on the canvas ``img_shape``, where its tracks are.

        Tracks without a recorded size count as pixels of ``img_shape``, so the video must have
        that aspect.  Raises what :meth:`open` raises.
        """
        stream = self._open(ref, view)
        size = ref.sizes[view]
        if ref.layout == "amplify":  # ATM's tracks are shares of the picture, whatever its size
            try:
                _check_aspect(ref, stream, size.shape or img_shape)
            except SourceError as error:
                if size.shape is not None:
                    raise
                why = size.basis or "no height and width are recorded"
                raise SourceError(
                    f"{error}. Its tracked size is not known ({why}), so img_shape counts as it: "
                    f"give the size that was tracked"
                ) from None
        return StretchedVideo(stream, self.frame_step, ref.length, img_shape)

    def _open(self, ref: LegacyRef, view: str) -> VideoStream:
        stream = VideoStream(self.find(ref, view))
        count = -(-stream.info.num_frames // self.frame_step)
        if count != ref.length:
            raise SourceError(
                f"{stream.path} has {count} frames at frame_step {self.frame_step}, the tracks of "
                f"{ref.relative} have {ref.length}; is it the video they were made from, and the "
                f"frame step?{_frame_step_hint(ref, stream.info.fps)}"
            )
        return stream

    def find(self, ref: LegacyRef, view: str) -> Path:
        """Return the path of a view's video; raises SourceError when it is not exactly one."""
        base, alone = ref.relative.with_suffix(""), len(ref.tracked) == 1
        keys: list[Path | str] = [base / view]
        if alone:
            keys += [base, base.name]
        found = next((self._all[key] for key in keys if key in self._all), [])
        if len(found) != 1:
            got = "none" if not found else ", ".join(map(str, found[:4]))
            looked = f"{base / view}.*" + (f" or {base}.*" if alone else "")
            raise SourceError(
                f"{ref.relative}, view {view}: expected one video {looked} in {self.folder}, "
                f"found {got}"
            )
        return self.folder / found[0]

    @cached_property
    def _all(self) -> dict[Path | str, list[Path]]:
        """The videos by path without suffix, and by name alone, without suffix."""
        found: dict[Path | str, list[Path]] = defaultdict(list)
        for inner, names in walk(self.folder):
            for name in names:
                if name.lower().endswith(VIDEO_SUFFIXES):
                    path = Path(inner) / name
                    found[path.with_suffix("")].append(path)
                    found[path.stem].append(path)
        return found


def _frame_step_hint(ref: LegacyRef, fps: float | None) -> str:
    target = ref.setting("target_fps")
    if not target or not fps:
        return ""
    step = max(1, round(fps / target))
    return f" {CONFIG_NAME} says target_fps {target:g}, which is frame step {step} at {fps:.4g} fps"


def _check_aspect(ref: LegacyRef, stream: VideoStream, tracked: tuple[int, int]) -> None:
    (height, width), (source_height, source_width) = tracked, stream.info.source_shape
    # Both sides were rounded, by half a pixel at most.
    slack = 0.5 * (1 / height + 1 / width) + 1e-9
    if abs(width * source_height / (height * source_width) - 1) > 2 * slack:
        raise SourceError(
            f"{stream.path} is {source_height} x {source_width}, {ref.relative} was tracked at "
            f"{height} x {width} (H x W): the aspects differ, so it is another video"
        )


class StretchedVideo(Rows):
    """A video's frames as an array (T, H, W, 3) uint8, stretched to the canvas as tracks are.

    Decoded when touched; a jump decodes from the keyframe before.  The ``MAX_DECODERS`` most
    recently used of all videos stay open.  Raises DatasetError for damage.
    """

    _reading: ClassVar[deque[StretchedVideo]] = deque()

    def __init__(
        self, stream: VideoStream, step: int, length: int, img_shape: tuple[int, int]
    ) -> None:
        # Frames are reached by its packets; no file is open until then.
        self._stream, self._step = stream, step
        stream.close()
        box = Stretch(source_shape=stream.info.source_shape, img_shape=img_shape)
        self._boxer = Letterboxer(box, stream.info.orientation)
        self.shape, self.dtype, self.ndim = (length, *img_shape, 3), np.dtype(np.uint8), 4
        self._ahead: Iterator[Frame] = iter(())
        self._next, self._pid = 0, -1

    def _row(self, number: int) -> np.ndarray:
        index = number * self._step
        try:
            # A forked process must not share its parent's decoder.
            if self._pid != os.getpid() or not 0 <= index - self._next < LONGEST_SKIP:
                self._jump(index)
            for frame in self._ahead:
                self._next += 1
                if self._next > index:
                    return self._boxer.content(frame.image)
        except SourceError as error:
            self._pid = -1
            raise DatasetError(str(error)) from None
        raise DatasetError(f"{self._stream.path}: it has no frame {index}")

    def _jump(self, index: int) -> None:
        self._ahead = self._stream.after(index)
        self._next, self._pid = index, os.getpid()
        if self in self._reading:
            self._reading.remove(self)
        self._reading.append(self)
        if len(self._reading) > MAX_DECODERS:
            oldest = self._reading.popleft()
            oldest._ahead, oldest._pid = iter(()), -1


def array_frames(stored: Any, fps: float | None) -> BlockStream:
    """Return an ATM file's video (1, T, 3, H, W) as frames; without fps one comes every second."""
    _, length, _, height, width = stored.shape
    info = StreamInfo((height, width), length, fps=fps, codec="rawvideo")

    def read(first: int, last: int) -> list[np.ndarray]:
        frames = np.moveaxis(stored[0, first:last], 1, -1)
        return [np.ascontiguousarray(frame) for frame in frames]

    return BlockStream(info, even_times(length, fps or 1.0), read)
