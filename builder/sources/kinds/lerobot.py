"""LeRobot datasets, versions 3.0 and 2.1; whichever their own path templates describe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.names import safe_names, safe_text
from builder.core.paths import printable_path
from builder.inputs.fingerprint import fingerprints
from builder.inputs.images import encoded_stream
from builder.inputs.parquet import select_rows, to_array
from builder.inputs.streams import FrameStream
from builder.inputs.video import VideoStream
from builder.inputs.video_span import VideoSpan
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.kinds.lerobot_meta import EpisodeRow, LeRobotMeta
from builder.sources.selection import Selection
from schemas.geometry import Orientation

# Columns that only count, or that are the clock.
_COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_INFO = "meta/info.json"
_LICENCE = re.compile(r"^license:\s*(\S[^\n]*)$", re.MULTILINE)


class LeRobotConfig(Selection):
    """Settings of the ``lerobot`` source."""

    arrays: tuple[str, ...] | None = Field(
        default=None, strict=False, description="features to keep; default: all numbers"
    )


class LeRobot(BaseSource[LeRobotConfig]):
    """Episodes of one dataset; cameras are features of dtype ``video`` or ``image``.

    The clock is the ``timestamp`` column.  An episode that shares its video file with others is
    reached by seeking.  Depth maps kept as video are left out.
    """

    Config: ClassVar = LeRobotConfig

    def refs(self) -> Iterator[EpisodeRef]:
        """List the episodes.  Raises SourceError when it is no LeRobot dataset."""
        meta = LeRobotMeta(self.path, self._limits)
        listed = 0
        for row in meta.episodes():
            listed += 1
            name = f"episode_{row.index:06d}"
            task = safe_text("; ".join(row.tasks))
            task = printable_path(task) if task else None
            yield EpisodeRef.at(name, row, task=task, splits=meta.splits(row.index))
        if not listed:
            raise meta.error("the dataset lists no episode")
        if lost := meta.unlisted(listed):
            # Those that are not there are one failure.
            yield EpisodeRef.at(_INFO, lost)

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one episode.  Raises SourceError naming the file that is wrong."""
        meta = LeRobotMeta(self.path, self._limits)
        if isinstance(ref.locator, str):
            raise meta.error(ref.locator)
        row: EpisodeRow = ref.locator
        images = meta.keys("image")
        numeric = self._numeric(meta)
        table = self._table(meta, row, [*numeric, *images])
        clock = _clock(table, meta.fps)
        views: dict[str, FrameStream] = {}
        names = safe_names([*row.videos, *images])
        for key, (relative, start) in row.videos.items():
            turn = self._config.turned_by_hand(names[key])
            views[names[key]] = self._video(relative, start, clock, turn)
        for key in images:
            views[names[key]] = self._images(table[key], f"{row.data}: {key}", clock, meta.fps)
        if not views:
            raise meta.error(f"no feature of dtype video or image in {sorted(meta.features)}")
        arrays = safe_names(numeric)
        videos = dict.fromkeys(relative for relative, _ in row.videos.values())
        yield Episode(
            views=views,
            arrays={
                arrays[key]: to_array(table[key], _shape(meta, key), f"{row.data}: {key}")
                for key in numeric
            },
            files=fingerprints(self.path, [row.data, *videos]),
            text=safe_text("; ".join(row.tasks)),
            licence=self._licence(),
            clock=clock,
        )

    def weight(self, ref: EpisodeRef) -> float:
        """Return the frames of one view."""
        return float(getattr(ref.locator, "length", 0))

    def _numeric(self, meta: LeRobotMeta) -> list[str]:
        if self._config.arrays is not None:
            return list(self._config.arrays)
        pictures = ("video", "image", "string")
        return [
            key
            for key, feature in meta.features.items()
            if feature.get("dtype") not in pictures and key not in _COUNTERS
        ]

    def _table(self, meta: LeRobotMeta, row: EpisodeRow, columns: list[str]) -> Any:
        has_time = "timestamp" in meta.features
        columns = [*columns, "timestamp"] if has_time else columns
        path = self.path / row.data
        table = select_rows(path, columns, "episode_index", row.index, self._limits)
        if len(table) != row.length or not row.length:
            raise SourceError(
                f"{printable_path(path)}: {len(table)} rows of episode {row.index}, its metadata "
                f"declare {row.length}"
            )
        return table

    def _video(
        self, relative: str, start: float | None, clock: np.ndarray, turn: Orientation | None
    ) -> FrameStream:
        path = self.path / relative
        if start is None:
            return VideoStream(path, limits=self._limits, orientation=turn)
        return VideoSpan(path, start, clock, limits=self._limits, orientation=turn)

    def _images(self, column: Any, what: str, clock: np.ndarray, fps: float) -> FrameStream:
        def data_of(index: int) -> bytes:
            value = column[index].as_py()
            data = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(data, bytes):
                raise SourceError(f"{what}: row {index} holds no image bytes")
            return data

        return encoded_stream(data_of, Path(what), clock, fps, self._limits)

    def _licence(self) -> str | None:
        readme = self.path / "README.md"
        if not readme.is_file():
            return None
        with readme.open("rb") as file:
            found = _LICENCE.search(file.read(4096).decode("utf-8", "replace"))
        return safe_text(found[1].strip("'\" "), 100) if found else None


def _clock(table: Any, fps: float) -> np.ndarray:
    if "timestamp" not in table.column_names:
        return np.arange(len(table)) / fps
    seconds = to_array(table["timestamp"], (), "timestamp").astype(np.float64)
    if not np.isfinite(seconds).all() or (np.diff(seconds) <= 0).any():
        raise SourceError("the timestamp column does not ascend")
    return seconds


def _shape(meta: LeRobotMeta, key: str) -> tuple[int, ...]:
    shape = meta.features.get(key, {}).get("shape")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise meta.error(f"the feature {key} has no usable shape, got {shape!r}")
    return tuple(shape)
