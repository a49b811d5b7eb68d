"""A LeRobot v3.0 dataset: frames as H.264, tracks, actions and other arrays as features.

``observation.images.<view>`` are the letterboxed frames.  ``observation.tracks.<view>``
(horizon, N, 2) float32 is the window that starts at the row's frame, in continuous (x, y)
pixels of those frames, ``observation.vis.<view>`` (horizon * N,) its visibility, step after
step.  Time is ``frame_index / fps``, the only clock LeRobot has.  ``letterset.json`` keeps the
ids and the geometry, with which points are decoded to source pixels.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from builder.core.errors import ConfigError
from builder.dataset.array_stats import QUANTILES, finite_rows
from builder.dataset.episodes import Dataset, EpisodeData
from builder.transform.export.common import new_folder, plan_undamaged
from builder.transform.export.lerobot_plan import IMAGES, Plan, fps_number, make_plan
from schemas.dataset import TEXT_INDEX

DATA_MB, VIDEO_MB = 100, 200
"""LeRobot's own defaults."""

_BLOCK = 128
# Every so many frames of a block are looked at for the statistics of pictures.
_STRIDE = 8

CHUNKS_SIZE = 1000
"""Files per folder."""

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

_QUANTILES = {f"q{share * 100:02.0f}": share for share in QUANTILES}
# Bilinear with accurate rounding: without it, swscale leaves some columns unwritten.
_SWSCALE = 0x2 | 0x40000


Stats = Mapping[str, np.ndarray]
"""min, max, mean, std and quantiles, all of one shape, and count (1,)."""


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
    dataset, plan = plan_undamaged(dataset, partial(make_plan, views=views), failures)
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
        meta, length = episode.meta, episode.meta.length
        texts = meta.all_texts or ((meta.task or "").replace("_", " "),)
        numbers = np.array([self._tasks.setdefault(text, len(self._tasks)) for text in texts])
        which = np.asarray(episode.arrays[TEXT_INDEX]) if meta.texts else np.zeros(length, int)
        tasks = numbers[which]
        row: dict[str, Any] = {
            "episode_index": len(self._rows),
            "tasks": list(texts),
            "length": length,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
        }
        row |= _named("data/", self._data.begin())
        for key, video in self._videos.items():
            row |= _named(f"videos/{IMAGES}{key}/", video.begin())
        blocks = [
            self._block(episode, slice(at, min(at + _BLOCK, length)), tasks)
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

    def _block(self, episode: EpisodeData, at: slice, tasks: np.ndarray) -> dict[str, Stats]:
        """Append some frames of an episode; returns their statistics by feature."""
        columns = dict(self._columns(episode, at, tasks))
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
        self, episode: EpisodeData, at: slice, tasks: np.ndarray
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
        yield "task_index", tasks[at, None]

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


class Files(ABC):
    """Numbered files; an episode begins another one when the last has grown to ``limit`` bytes."""

    def __init__(self, root: Path, template: str, limit: int) -> None:
        self._root, self._template, self._limit = root, template, limit
        self._number, self._bytes = -1, 0

    def begin(self) -> dict[str, Any]:
        """Make room for an episode; returns where it will lie, as columns of its metadata."""
        if self._number < 0 or self._bytes >= self._limit:
            self.close()
            self._number, self._bytes = self._number + 1, 0
            path = self._root / self._template.format(**self._place())
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open(path)
        return self._place()

    def _place(self) -> dict[str, Any]:
        chunk, file = divmod(self._number, CHUNKS_SIZE)
        return {"chunk_index": chunk, "file_index": file}

    @abstractmethod
    def _open(self, path: Path) -> None:
        """Begin the file."""

    @abstractmethod
    def close(self) -> None:
        """Finish the last file, if there is one."""


class TableFiles(Files):
    """Parquet files; every block of rows becomes a row group."""

    _writer: pq.ParquetWriter | None = None

    def write(self, columns: Mapping[str, np.ndarray]) -> None:
        """Append rows: arrays (rows, *shape) by feature."""
        table = pa.table({key: _column(values) for key, values in columns.items()})
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)
        self._bytes += table.nbytes

    def _open(self, path: Path) -> None:
        self._path = path

    def close(self) -> None:
        """Write the footer of the last file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class VideoFiles(Files):
    """H.264 files of one view (H, W), every second frame a keyframe, as LeRobot writes them."""

    _container: Any = None

    def __init__(self, root: Path, key: str, shape: tuple[int, int], rate: Fraction, limit: int):
        template = VIDEO_PATH.replace("{video_key}", key)
        super().__init__(root, template, limit)
        self._shape, self._rate, self._frames = shape, rate, 0
        self._reformatter = VideoReformatter()

    def begin(self) -> dict[str, Any]:
        """Make room for an episode; returns where it will lie and when it begins there."""
        return {**super().begin(), "from_timestamp": self._seconds()}

    def end(self) -> dict[str, Any]:
        """Return when the episode ends in its file."""
        return {"to_timestamp": self._seconds()}

    def write(self, frames: Iterable[np.ndarray]) -> None:
        """Append frames (H, W, 3) uint8 RGB."""
        for image in frames:
            frame = self._reformatter.reformat(
                av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"),
                format="yuv420p",
                dst_colorspace=Colorspace.smpte170m,
                dst_color_range=ColorRange.MPEG,
                interpolation=_SWSCALE,
            )
            frame.colorspace, frame.color_range = Colorspace.smpte170m, ColorRange.MPEG
            frame.pts, frame.time_base = self._frames, 1 / self._rate
            packets = self._stream.encode(frame)
            self._bytes += sum(packet.size for packet in packets)
            self._container.mux(packets)
            self._frames += 1

    def _open(self, path: Path) -> None:
        self._frames = 0
        self._container = av.open(f"file:{path}", "w", format="mp4")
        self._stream: Any = self._container.add_stream(
            "libx264", rate=self._rate, options={"crf": "18"}
        )
        self._stream.height, self._stream.width = self._shape
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        # Without B-frames the first frame is at 0 s for every reader.
        context.gop_size, context.max_b_frames = 2, 0
        context.time_base = 1 / self._rate
        context.colorspace, context.color_range = Colorspace.smpte170m, ColorRange.MPEG

    def _seconds(self) -> float:
        return float(self._frames / self._rate)

    def close(self) -> None:
        """Finish the last file."""
        if self._container is not None:
            container, self._container = self._container, None
            with container:
                container.mux(self._stream.encode())


def _column(values: np.ndarray) -> pa.Array:
    """Rows of shape (1,) are plain, of one axis fixed-size lists, of more axes nested lists."""
    array = pa.array(values.reshape(-1))
    shape = values.shape[1:]
    if shape == (1,):
        return array
    if len(shape) == 1:
        return pa.FixedSizeListArray.from_arrays(array, shape[0])
    for size in reversed(shape):
        offsets = np.arange(0, len(array) + 1, size, dtype=np.int32)
        array = pa.ListArray.from_arrays(offsets, array)
    return array


def summarize(values: np.ndarray, axes: tuple[int, ...] = (0,)) -> Stats:
    """Return statistics of (rows, ...) over ``axes``, kept as 1, the first one dropped.

    Rows with NaN or infinity, such as an action that was not recorded, do not count; JSON has no
    such numbers.  Without any other the statistics are 0, of 0 rows.
    """
    rows = finite_rows(values)
    count = len(rows)
    rows = rows if count else np.zeros((1, *rows.shape[1:]))
    names = ("min", "max", "mean", "std")
    found = {name: getattr(rows, name)(axes, keepdims=True) for name in names}
    quantiles = np.quantile(rows, list(_QUANTILES.values()), axes, keepdims=True)
    found |= dict(zip(_QUANTILES, quantiles, strict=True))
    return {**{key: value[0] for key, value in found.items()}, "count": np.array([count])}


def merge(parts: Sequence[Stats]) -> Stats:
    """Return statistics of all parts together.

    Exact but for the quantiles, which are the parts' weighted means, as in LeRobot.
    """
    parts = [part for part in parts if part["count"][0]] or parts[:1]
    counts = np.array([part["count"][0] for part in parts])
    shares = counts / max(1, counts.sum())
    each = {key: np.stack([part[key] for part in parts]) for key in parts[0] if key != "count"}

    def mean(values: np.ndarray) -> np.ndarray:
        return np.tensordot(shares, values, axes=1)

    found = {key: mean(values) for key, values in each.items()}
    found["min"], found["max"] = each["min"].min(axis=0), each["max"].max(axis=0)
    found["std"] = np.sqrt(mean(each["std"] ** 2 + (each["mean"] - found["mean"]) ** 2))
    return {**found, "count": np.array([counts.sum()])}
