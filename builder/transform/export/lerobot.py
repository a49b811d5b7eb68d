"""A LeRobot v3.0 dataset: frames as H.264, tracks, actions and other arrays as features.

``observation.images.<view>`` are the letterboxed frames.  ``observation.tracks.<view>``
(horizon, N, 2) float32 is the window that starts at the row's frame, in continuous (x, y)
pixels of those frames, ``observation.vis.<view>`` (horizon * N,) its visibility, step after
step.  Time is ``frame_index / fps``, the only clock LeRobot has.  ``letterset.json`` keeps the
ids and the geometry, with which points are decoded to source pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from builder.core.errors import ConfigError
from builder.dataset.episodes import Dataset, EpisodeData
from builder.transform.export.common import new_folder
from builder.transform.export.lerobot_files import (
    CHUNKS_SIZE,
    DATA_PATH,
    VIDEO_PATH,
    Stats,
    TableFiles,
    VideoFiles,
    merge,
    summarize,
)
from builder.transform.export.lerobot_plan import IMAGES, Plan, fps_number, make_plan
from builder.transform.export.verified import verified

DATA_MB, VIDEO_MB = 100, 200
"""LeRobot's own defaults."""

_BLOCK = 128
# Every so many frames of a block are looked at for the statistics of pictures.
_STRIDE = 8


def export_lerobot(
    dataset: Dataset,
    out: Path | str,
    views: Sequence[str] | None = None,
    *,
    data_mb: float = DATA_MB,
    video_mb: float = VIDEO_MB,
    failures: dict[str, str] | None = None,
) -> list[str]:
    """Write ``dataset`` to the new folder ``out``; returns the arrays that were left out.

    These have no rows of one shape for the frames of all episodes, or a name that is taken.
    Confidences and splits are not written: LeRobot's splits are ranges of episodes.  ``views``
    defaults to those of the first episode.  An episode begins another file when the last has
    grown to ``data_mb``, ``video_mb``, both above 0.  ``failures`` takes the damaged episodes, with
    the reason; without it they are refused with a DatasetError.

    Raises ConfigError, before any work, naming what the target cannot hold, and OutputError
    when ``out`` cannot be written; then nothing is left there.
    """
    if min(data_mb, video_mb) <= 0:
        raise ConfigError(f"file sizes must be above 0 MB, got {data_mb} and {video_mb}")
    dataset, plan = verified(dataset, partial(make_plan, views=views), failures)
    with new_folder(Path(out)) as folder:
        with ExitStack() as stack:
            writer = _Writer(dataset, folder, plan, data_mb, video_mb, stack)
            for episode_id in dataset.ids:
                writer.add(dataset[episode_id])
        writer.finish()
    return plan.left_out


class _Writer:
    """Writes episode after episode, in blocks of frames; ``stack`` closes its files."""

    def __init__(
        self,
        dataset: Dataset,
        root: Path,
        plan: Plan,
        data_mb: float,
        video_mb: float,
        stack: ExitStack,
    ) -> None:
        self.dataset, self.root, self.plan = dataset, root, plan
        self._limits = {"data_files_size_in_mb": data_mb, "video_files_size_in_mb": video_mb}
        self._data = TableFiles(root, DATA_PATH, int(data_mb * 2**20))
        shape, limit = dataset.meta.img_shape, int(video_mb * 2**20)
        self._videos = {
            key: VideoFiles(root, IMAGES + key, shape, plan.rate, limit) for key in plan.views
        }
        for files in (self._data, *self._videos.values()):
            stack.callback(files.close)
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._stats: list[dict[str, Stats]] = []
        self._frames = 0

    def add(self, episode: EpisodeData) -> None:
        """Append one episode."""
        text = episode.meta.text or (episode.meta.task or "").replace("_", " ")
        task, length = self._tasks.setdefault(text, len(self._tasks)), episode.meta.length
        row: dict[str, Any] = {
            "episode_index": len(self._rows),
            "tasks": [text],
            "length": length,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
        }
        row |= _named("data/", self._data.begin())
        for key, video in self._videos.items():
            row |= _named(f"videos/{IMAGES}{key}/", video.begin())
        blocks = [
            self._block(episode, slice(at, min(at + _BLOCK, length)), task)
            for at in range(0, length, _BLOCK)
        ]
        for key, video in self._videos.items():
            row |= _named(f"videos/{IMAGES}{key}/", video.end())
        stats = {key: merge([block[key] for block in blocks]) for key in blocks[0]}
        for key, values in stats.items():
            row |= _named(f"stats/{key}/", {name: v.tolist() for name, v in values.items()})
        self._rows.append({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        self._stats.append(stats)
        self._frames += length

    def _block(self, episode: EpisodeData, at: slice, task: int) -> dict[str, Stats]:
        """Append some frames of an episode; returns their statistics by feature."""
        columns = dict(self._columns(episode, at, task))
        self._data.write(columns)
        stats = {key: summarize(values, self._axes(key)) for key, values in columns.items()}
        for key, video in self._videos.items():
            frames = np.asarray(episode.views[self.plan.views[key]].frames[at])
            video.write(frames)
            colours = summarize(frames[::_STRIDE] / 255, (0, 1, 2))
            # (1, 1, 3) -> (3, 1, 1): LeRobot's pictures in memory have their channels first.
            stats[IMAGES + key] = {
                name: value if name == "count" else value.reshape(3, 1, 1)
                for name, value in colours.items()
            }
        return stats

    def _axes(self, key: str) -> tuple[int, ...]:
        """Return what statistics go over; for tracks all but x and y, not each point and step."""
        if key in self.plan.arrays or not key.startswith("observation."):
            return (0,)
        return (0, 1, 2) if key.startswith("observation.tracks.") else (0, 1)

    def _columns(
        self, episode: EpisodeData, at: slice, task: int
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield features (rows, *shape) by name."""
        for key, name in self.plan.views.items() if self.dataset.meta.has_tracks else ():
            view = episode.views[name]
            yield f"observation.tracks.{key}", np.asarray(view.tracks[at])
            vis = np.asarray(view.vis[at])
            yield f"observation.vis.{key}", vis.reshape(len(vis), -1)
        index = np.arange(at.start, at.stop)
        for key, name in self.plan.arrays.items():
            shape = self.plan.features[key]["shape"]
            yield key, np.asarray(episode.arrays[name][at]).reshape(len(index), *shape)
        yield "timestamp", (index[:, None] / float(self.plan.rate)).astype(np.float32)
        yield "frame_index", index[:, None]
        yield "episode_index", np.full((len(index), 1), len(self._rows))
        yield "index", self._frames + index[:, None]
        yield "task_index", np.full((len(index), 1), task)

    def finish(self) -> None:
        """Write what describes the episodes."""
        meta = self.root / "meta"
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        episodes = pa.Table.from_pylist(self._rows)
        pq.write_table(episodes, meta / "episodes" / "chunk-000" / "file-000.parquet")
        pq.write_table(_task_table(self._tasks), meta / "tasks.parquet")
        stats = {key: merge([each[key] for each in self._stats]) for key in self._stats[0]}
        listed = {
            key: {name: value.tolist() for name, value in values.items()}
            for key, values in stats.items()
        }
        _write_json(meta / "stats.json", listed)
        _write_json(meta / "info.json", self._info())
        _write_json(self.root / "letterset.json", self._origin())

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self._rows),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNKS_SIZE,
            **self._limits,
            "fps": fps_number(self.plan.rate),
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": self.plan.features,
        }

    def _origin(self) -> dict[str, Any]:
        """Return the dataset's digest, and id and geometry by view of every episode in order."""
        episodes = [
            {
                "id": episode.id,
                "geometry": {
                    key: episode.views[name].geometry.model_dump(mode="json")
                    for key, name in self.plan.views.items()
                },
            }
            for episode in self.dataset
        ]
        return {"dataset": self.dataset.meta.digest, "episodes": episodes}


def _named(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in values.items()}


def _task_table(tasks: dict[str, int]) -> pa.Table:
    """Tasks by index; LeRobot looks them up in the index of the pandas frame this was."""
    table = pa.table({"task_index": list(tasks.values()), "task": list(tasks)})
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype}
        for name, kind, dtype in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": described}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
