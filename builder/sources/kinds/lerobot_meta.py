"""The ``meta`` folder of a LeRobot dataset: what lies where, by its own templates."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

from builder.core.errors import SourceError
from builder.core.paths import printable_path
from builder.inputs.listing import natural_key, read_small
from builder.inputs.parquet import column_names, rows
from schemas.config import Limits

_JSON_BYTES = 1 << 30
_PLACES = ("episode_index", "episode_chunk", "chunk_index", "file_index", "video_key")
_WIDTH = re.compile(r"0?\d{0,2}d?")


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
        return SourceError(f"{printable_path(self.path)}: {message}")

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
                found = self._row(row, videos)
            except KeyError as error:
                raise self.error(f"its episode list has a row without {error}") from None
            except (TypeError, ValueError) as error:
                raise self.error(f"its episode list has a row that is none ({error})") from None
            if found.index in seen:
                raise self.error(f"its episode list has two rows of episode {found.index}")
            seen.add(found.index)
            yield found

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
        found = []
        for name, span in self._splits.items():
            first, _, last = str(span).partition(":")
            if first.isdecimal() and last.isdecimal() and int(first) <= index < int(last):
                found.append(printable_path(name))
        return tuple(found)

    def _jsonl(self, path: Path) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(read_small(path, _JSON_BYTES).splitlines(), 1):
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError) as error:
                raise SourceError(f"{printable_path(path)}, line {number}: {error}") from None
            if row is not None:
                yield row

    def _parquet(self, videos: list[str]) -> Iterator[dict[str, Any]]:
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
        found: dict[str, tuple[str, float | None]] = {}
        for key in videos:
            where = {**own, "video_key": key, **_places(row, f"videos/{key}/")}
            start = row.get(f"videos/{key}/from_timestamp")
            found[key] = (
                self._fill(str(self._video_path), where),
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
            videos=found,
        )

    def _fill(self, template: str, places: dict[str, Any]) -> str:
        """Fill a template in; only plain places are allowed, and only paths inside the root."""
        for _, name, width, conversion in Formatter().parse(template):
            if name is not None and (
                name not in _PLACES or conversion or not _WIDTH.fullmatch(width or "")
            ):
                raise self.error(f"the path template {template!r} has the odd place {{{name}}}")
        path = PurePosixPath(template.format_map(places))
        if path.is_absolute() or ".." in path.parts:
            raise self.error(f"the path {str(path)!r} leads out of the dataset")
        return str(path)


def _is_depth(info: Any) -> bool:
    return isinstance(info, dict) and bool(info.get("video.is_depth_map", False))


def _places(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = ("chunk_index", "file_index")
    return {name: row[prefix + name] for name in names if row.get(prefix + name) is not None}
