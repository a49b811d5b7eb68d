"""TAP-Vid pickles: videos with ground-truth tracks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.paths import printable_path
from builder.inputs.fingerprint import fingerprints
from builder.inputs.images import encoded_stream
from builder.inputs.listing import PICKLE_SUFFIXES, files, locate
from builder.inputs.normalized_points import normalized_to_pixels
from builder.inputs.pickled import load_tapvid_videos
from builder.inputs.picture_arrays import picture_stream
from builder.inputs.streams import FrameStream, StreamInfo, even_times
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import PictureSelection


class TapVidConfig(PictureSelection):
    """Settings of the ``tapvid`` source."""

    recorded_fps: float = Field(default=25.0, gt=0, description="the pickles say nothing of time")


class TapVid(BaseSource[TapVidConfig]):
    """Videos in TAP-Vid pickles: ``{name: {video, points, occluded}}`` or a list of these.

    Tracks pass through as ``points_xy`` (T, N, 2) float32 in source pixels (continuous, origin
    at the outer corner) and ``visible`` (T, N) uint8.  A pickle is read whole: one file is held
    in memory at a time, at most ``limits.max_array_bytes``.
    """

    Config: ClassVar = TapVidConfig

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for pickles; beside videos or images they belong to these."""
        if not any(name.lower().endswith(PICKLE_SUFFIXES) for name in contents.names):
            return None
        if not contents.is_folder:
            return Evidence("a pickle")
        return Evidence("pickles and neither videos nor images", strength=0)

    _loaded: tuple[str, dict[str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loaded pickle behind when the source goes to another process."""
        return {**self.__dict__, "_loaded": None}

    def refs(self) -> Iterator[EpisodeRef]:
        """List the videos file by file.  Raises SourceError when there is no pickle."""
        for relative in files(self.path, PICKLE_SUFFIXES, "pickle"):
            try:
                names: list[str | None] = list(self._videos(relative))
            except SourceError:
                # One bad file is one failure: opening it is going to say what is wrong.
                names = [None]
            for name in names:
                group = printable_path(relative)
                yield EpisodeRef.inside(relative, name, (relative, name), group=group)

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one video.  Raises SourceError naming what is wrong with it."""
        relative, name = ref.locator
        sample = self._videos(relative)[name]
        where = f"{printable_path(locate(self.path, relative))}: {printable_path(str(name))}"
        try:
            video, points, occluded = sample["video"], sample["points"], sample["occluded"]
        except (KeyError, TypeError, IndexError):
            raise SourceError(f"{where}: expected a dict of video, points and occluded") from None
        stream = self._stream(video, where)
        yield Episode(
            views={"main": stream},
            arrays=_tracks(points, occluded, stream.info, where),
            files=fingerprints(self.path, [relative]),
        )

    def _videos(self, relative: str) -> dict[str, Any]:
        if self._loaded is None or self._loaded[0] != relative:
            videos = load_tapvid_videos(locate(self.path, relative), self._limits)
            self._loaded = (relative, videos)
        return self._loaded[1]

    def _stream(self, video: Any, where: str) -> FrameStream:
        fps, limits = self._config.recorded_fps, self._limits
        if isinstance(video, np.ndarray) and video.dtype.kind in "biuf":
            return picture_stream(
                lambda first, last: video[first:last],
                video.shape,
                video.dtype,
                fps,
                limits,
                lambda message: SourceError(f"{where}: {message}"),
                floats=self._config.float_pictures,
            )
        encoded = list(video) if isinstance(video, list | tuple | np.ndarray) else []
        if not encoded or not all(isinstance(each, bytes) for each in encoded):
            raise SourceError(f"{where}: expected video as uint8 or as a list of JPEG files")
        times = even_times(len(encoded), fps)
        return encoded_stream(encoded.__getitem__, Path(where), times, fps, limits)


def _tracks(points: Any, occluded: Any, info: StreamInfo, where: str) -> dict[str, np.ndarray]:
    try:
        xy, hidden = np.asarray(points, np.float32), np.asarray(occluded, bool)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{where}: points or occluded are not arrays ({error})") from None
    if xy.ndim != 3 or xy.shape[1:] != (info.num_frames, 2) or hidden.shape != xy.shape[:2]:
        raise SourceError(
            f"{where}: expected points (N, {info.num_frames}, 2) and occluded (N, "
            f"{info.num_frames}), got {xy.shape} and {hidden.shape}"
        )
    pixels = normalized_to_pixels(xy, ~hidden, info.coded_shape, where)
    return {
        "points_xy": np.ascontiguousarray(pixels.swapaxes(0, 1)),
        "visible": np.ascontiguousarray((~hidden).T).astype(np.uint8),
    }
