"""The files of a LeRobot v3.0 dataset: tables and videos of many episodes, and statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

CHUNKS_SIZE = 1000
"""Files per folder."""

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
# Bilinear with accurate rounding: without it, swscale leaves some columns unwritten.
_SWSCALE = 0x2 | 0x40000

Stats = Mapping[str, np.ndarray]
"""min, max, mean, std and quantiles, all of one shape, and count (1,)."""


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
            self._mux(self._stream.encode(frame))
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

    def _mux(self, packets: list[Any]) -> None:
        self._bytes += sum(packet.size for packet in packets)
        self._container.mux(packets)

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
    rows = np.asarray(values, np.float64)
    rows = rows[np.isfinite(rows).reshape(len(rows), -1).all(axis=1)]
    count = len(rows)
    rows = rows if count else np.zeros((1, *rows.shape[1:]))
    found = {
        "min": rows.min(axes, keepdims=True),
        "max": rows.max(axes, keepdims=True),
        "mean": rows.mean(axes, keepdims=True),
        "std": rows.std(axes, keepdims=True),
    }
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
