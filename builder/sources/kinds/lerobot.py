"""LeRobot datasets, versions 3.0 and 2.1, read by the path templates in their ``meta`` folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.paths import printable_path, safe_names, safe_text
from builder.inputs.fingerprint import fingerprints
from builder.inputs.images import encoded_stream
from builder.inputs.listing import natural_key, read_small
from builder.inputs.streams import FrameStream
from builder.inputs.video import VideoSpan, VideoStream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Selection
from schemas.config import Limits

# Columns that only count, or that are the clock.
_COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_INFO = "meta/info.json"
_LICENCE = re.compile(r"^license:\s*(\S[^\n]*)$", re.MULTILINE)
_JSON_BYTES = 1 << 30
_PLACES = ("episode_index", "episode_chunk", "chunk_index", "file_index", "video_key")
_WIDTH = re.compile(r"0?\d{0,2}d?")


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
    packages: ClassVar = ("pyarrow",)
    markers: ClassVar = (_INFO,)

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for the metadata, which state a version."""
        try:
            info = json.loads(read_small(contents.path / _INFO, _JSON_BYTES))
            return Evidence(f"{_INFO} of version {info.get('codebase_version', 'unknown')}", 3)
        except (SourceError, ValueError, AttributeError, RecursionError):
            return None

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
        from builder.inputs.parquet import to_array

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
            path, turn = self.path / relative, self._config.turned_by_hand(names[key])
            views[names[key]] = (
                VideoStream(path, limits=self._limits, orientation=turn)
                if start is None
                else VideoSpan(path, start, clock, limits=self._limits, orientation=turn)
            )
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
        from builder.inputs.parquet import select_rows

        has_time = "timestamp" in meta.features
        columns = [*columns, "timestamp"] if has_time else columns
        path = self.path / row.data
        table = select_rows(path, columns, "episode_index", row.index, self._limits)
        if len(table) != row.length or not row.length:
            raise SourceError.at(
                path, f"{len(table)} rows of episode {row.index}, its metadata declare {row.length}"
            )
        return table

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
            licence = _LICENCE.search(file.read(4096).decode("utf-8", "replace"))
        return safe_text(licence[1].strip("'\" "), 100) if licence else None


def _clock(table: Any, fps: float) -> np.ndarray:
    from builder.inputs.parquet import to_array

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


@dataclass(frozen=True)
class EpisodeRow:
    """One episode: its number, length, tasks, data file, and video file and start by key."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: str
    videos: dict[str, tuple[str, float | None]]


class LeRobotMeta:
    """``meta/info.json`` and what it points to.  Raises SourceError naming what is wrong."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root, self._limits = root, limits
        self.path = root / "meta" / "info.json"
        try:
            self.info: dict[str, Any] = json.loads(read_small(self.path, _JSON_BYTES))
            self.features = {key: dict(each) for key, each in dict(self.info["features"]).items()}
            self._splits = dict(self.info.get("splits") or {})
            self.fps = float(self.info["fps"])
            self._data_path = str(self.info["data_path"])
            self._video_path = self.info.get("video_path")
            self._chunks_size = int(self.info.get("chunks_size", 1000))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self.error(f"not the info.json of a LeRobot dataset ({error!r})") from None
        if not (0 < self.fps < 10_000 and self._chunks_size > 0):
            raise self.error(f"fps {self.fps} or chunks_size {self._chunks_size} is out of range")

    def error(self, message: str) -> SourceError:
        """Return an error that names the info file."""
        return SourceError.at(self.path, f"{message}")

    def keys(self, dtype: str) -> list[str]:
        """List the features of a dtype, such as "video"; depth maps are left out."""
        return [
            key
            for key, feature in self.features.items()
            if feature.get("dtype") == dtype and not _is_depth(feature.get("info"))
        ]

    def episodes(self) -> Iterator[EpisodeRow]:
        """List all episodes, reading no more of the metadata than is needed for it."""
        videos = self.keys("video")
        listed = self.root / "meta" / "episodes.jsonl"
        source = self._jsonl(listed) if listed.exists() else self._parquet(videos)
        if videos and not isinstance(self._video_path, str):
            raise self.error(f"{videos} are videos, but there is no video_path to find them by")
        seen: set[int] = set()
        for row in source:
            try:
                episode = self._row(row, videos)
            except KeyError as error:
                raise self.error(f"its episode list has a row without {error}") from None
            except (TypeError, ValueError) as error:
                raise self.error(f"its episode list has an invalid row ({error})") from None
            if episode.index in seen:
                raise self.error(f"its episode list has two rows of episode {episode.index}")
            seen.add(episode.index)
            yield episode

    def unlisted(self, listed: int) -> str | None:
        """Say, in words, when fewer episodes are listed than declared."""
        declared = self.info.get("total_episodes")
        if not isinstance(declared, int) or declared <= listed:
            return None
        return (
            f"total_episodes is {declared}, but {listed} are listed; get the metadata again, or "
            f"correct the number if the others were taken out"
        )

    def splits(self, index: int) -> tuple[str, ...]:
        """Return the splits that hold an episode: ``{"train": "0:50"}``."""
        splits = []
        for name, span in self._splits.items():
            first, _, last = str(span).partition(":")
            if first.isdecimal() and last.isdecimal() and int(first) <= index < int(last):
                splits.append(printable_path(name))
        return tuple(splits)

    def _jsonl(self, path: Path) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(read_small(path, _JSON_BYTES).splitlines(), 1):
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError) as error:
                raise SourceError(f"{printable_path(path)}, line {number}: {error}") from None
            if row is not None:
                yield row

    def _parquet(self, videos: list[str]) -> Iterator[dict[str, Any]]:
        from builder.inputs.parquet import column_names, rows

        folder = self.root / "meta" / "episodes"
        files = sorted(folder.glob("*/*.parquet"), key=lambda path: natural_key(str(path)))
        if not files:
            raise self.error("neither meta/episodes.jsonl nor meta/episodes/*/*.parquet is there")
        places = ("chunk_index", "file_index", "from_timestamp")
        wanted = [f"videos/{key}/{place}" for key in videos for place in places]
        wanted += ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index"]
        for path in files:
            there = column_names(path)
            yield from rows(path, [name for name in wanted if name in there], self._limits)

    def _row(self, row: dict[str, Any], videos: list[str]) -> EpisodeRow:
        index = int(row["episode_index"])
        own = {"episode_index": index, "episode_chunk": index // self._chunks_size}
        data = {**own, **_places(row, "data/")}
        files: dict[str, tuple[str, float | None]] = {}
        for key in videos:
            places = {**own, "video_key": key, **_places(row, f"videos/{key}/")}
            start = row.get(f"videos/{key}/from_timestamp")
            files[key] = (
                self._fill(str(self._video_path), places),
                None if start is None else float(start),
            )
            if start is not None and not math.isfinite(float(start)):
                raise ValueError(f"from_timestamp of {key} is {start}")
        tasks = row.get("tasks") or ()
        return EpisodeRow(
            index=index,
            length=int(row["length"]),
            tasks=tuple(map(str, tasks)) if isinstance(tasks, list | tuple) else (str(tasks),),
            data=self._fill(self._data_path, data),
            videos=files,
        )

    def _fill(self, template: str, places: dict[str, Any]) -> str:
        """Fill a template in; only plain places are allowed, and only paths inside the root."""
        for _, name, width, conversion in Formatter().parse(template):
            if name is not None and (
                name not in _PLACES or conversion or not _WIDTH.fullmatch(width or "")
            ):
                raise self.error(
                    f"the path template {template!r} has the unsupported placeholder {{{name}}}"
                )
        path = PurePosixPath(template.format_map(places))
        if path.is_absolute() or ".." in path.parts:
            raise self.error(f"the path {str(path)!r} leads out of the dataset")
        return str(path)


def _is_depth(info: Any) -> bool:
    return isinstance(info, dict) and bool(info.get("video.is_depth_map", False))


def _places(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = ("chunk_index", "file_index")
    return {name: row[prefix + name] for name in names if row.get(prefix + name) is not None}
