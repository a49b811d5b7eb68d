"""What the ``meta`` folder of a LeRobot dataset tells: features, episodes, tasks, paths."""

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
from schemas.config import Limits

INFO = "meta/info.json"
JSON_BYTES = 1 << 30
# Columns that only count, or that are the clock.
_COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_PLACES = ("episode_index", "episode_chunk", "chunk_index", "file_index", "video_key")
_DEPTH = re.compile(r"(video\.|image\.)?is_depth(_map)?$")
_WIDTH = re.compile(r"0?\d{0,2}d?")


@dataclass(frozen=True)
class EpisodeRow:
    """One episode: its number, length, tasks, data file, and video file and start by key.

    ``root`` is the dataset's folder below the source's; paths are relative to the source's.  No
    place is known of a video that the episode list does not name.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    data: str
    videos: dict[str, tuple[str, float | None] | None]
    root: str = ""


class LeRobotMeta:
    """``meta/info.json`` and what it points to.  Raises SourceError naming what is wrong."""

    def __init__(self, root: Path, limits: Limits, below: str = "") -> None:
        self.root, self._limits, self._below = root, limits, below
        self.path = root / "meta" / "info.json"
        try:
            self.info: dict[str, Any] = json.loads(read_small(self.path, JSON_BYTES))
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
            if feature.get("dtype") == dtype and not _is_depth(feature)
        ]

    def numeric(self) -> list[str]:
        """List the features that may be numbers."""
        pictures = ("video", "image")
        return [
            key
            for key, feature in self.features.items()
            if feature.get("dtype") not in pictures and key not in _COUNTERS
        ]

    def depth_notes(self) -> Iterator[str]:
        """Say which features are left out as depth."""
        for key, feature in self.features.items():
            if feature.get("dtype") in ("video", "image") and _is_depth(feature):
                yield f"view {key} is left out: {INFO} marks it as depth"

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

    def tasks(self) -> tuple[dict[int, str], str | None]:
        """Return the texts by their number, and what is to be noted about them."""
        listed = self.root / "meta" / "tasks.jsonl"
        table = self.root / "meta" / "tasks.parquet"
        if listed.exists():
            found = [(row.get("task_index"), row.get("task")) for row in self._jsonl(listed)]
            return {n: t for n, t in found if isinstance(n, int) and isinstance(t, str)}, None
        if table.exists():
            from builder.inputs.parquet import column_names, rows

            texts = {}
            # The text is the index of a pandas frame, whatever that was called.
            for row in rows(table, column_names(table), self._limits):
                words = [each for each in row.values() if isinstance(each, str)]
                if isinstance(number := row.get("task_index"), int) and words:
                    texts[number] = words[0]
            return texts, None
        order = dict.fromkeys(task for row in self.episodes() for task in row.tasks)
        note = (
            "meta/tasks is not there: task_index was read as a place in the order in which the "
            "episode list names tasks"
        )
        return dict(enumerate(order)), note

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
        for number, line in enumerate(read_small(path, JSON_BYTES).splitlines(), 1):
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
        files = {key: self._place(row, key, own) for key in videos}
        tasks = row.get("tasks") or ()
        return EpisodeRow(
            index=index,
            length=int(row["length"]),
            tasks=tuple(map(str, tasks)) if isinstance(tasks, list | tuple) else (str(tasks),),
            data=self._fill(self._data_path, data),
            videos=files,
            root=self._below,
        )

    def _place(
        self, row: dict[str, Any], key: str, own: dict[str, Any]
    ) -> tuple[str, float | None] | None:
        """Return the file of an episode's video and where it starts there, if they are listed."""
        start = row.get(f"videos/{key}/from_timestamp")
        if start is not None and not math.isfinite(float(start)):
            raise ValueError(f"from_timestamp of {key} is {start}")
        places = {**own, "video_key": key, **_places(row, f"videos/{key}/")}
        try:
            path = self._fill(str(self._video_path), places)
        except KeyError:
            return None
        return path, None if start is None else float(start)

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
        return str(PurePosixPath(self._below, path))


def _is_depth(feature: dict[str, Any]) -> bool:
    """Tell whether a feature is marked as depth, at any of the places that versions differ in."""
    no = (False, None, 0, "false", "False")
    return any(
        _is_depth(value) if isinstance(value, dict) else _DEPTH.match(key) and value not in no
        for key, value in feature.items()
    )


def _places(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = ("chunk_index", "file_index")
    return {name: row[prefix + name] for name in names if row.get(prefix + name) is not None}
