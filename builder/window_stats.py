"""A table with one row per window and view: what filters ask about, computed once.

``stats/windows.hdf5`` (``windows-<layer>.hdf5`` for a layer's tracks) has one dataset per column,
rows in order of episodes, views and windows.  It is derived: safe to delete, and refused when
the episodes it was made from are not those that are there now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from builder.dataset import Dataset, ViewData
from builder.errors import DatasetError
from builder.motion import ZERO_STEP_PX
from builder.stores.staging import output_errors, stage
from builder.windows import window_starts

# AMPLIFY's loss tells displacements apart up to so many pixels.
SATURATED_STEP_PX = 7.0

COLUMNS = {
    "motion": "mean step of visible points, px",
    "motion_max": "largest step of a visible point, px",
    "vis": "share of visible points",
    "zero": "share of steps under half a pixel",
    "saturated": "share of steps over 7 px in x or y",
    "clipped": "share of points outside the canvas",
    "conf": "mean confidence, NaN when the tracker gives none",
    "cut": "largest mean change from a frame to the next, in levels; a scene cut is a peak",
}
"""Over the steps that show a frame of their own; NaN where there is nothing to count."""

_BLOCK = 64
_SPARSE = 4  # every so manyth pixel tells a cut


def stats_path(dataset: Dataset) -> Path:
    """Return where the table of a dataset, or of the track layer it was opened with, lies."""
    name = f"windows-{dataset.track_layer}" if dataset.track_layer else "windows"
    return dataset.path / "stats" / f"{name}.hdf5"


def write_window_stats(dataset: Dataset) -> Path:
    """Compute the table of an open dataset; returns its path.  Raises DatasetError, OutputError."""
    path = stats_path(dataset)
    staged = stage(dataset.path / "tmp", ".h5")
    try:
        # The lock on the staged file is ours; HDF5 would ask for another.
        with output_errors(path), h5py.File(staged.path, "w", locking=False) as file:
            _fill(file, dataset)
        staged.publish(path, replace=True)
    except BaseException:
        staged.discard()
        raise
    return path


def _fill(file: Any, dataset: Dataset) -> None:
    lines = dataset.index.values()
    views = sorted({name for line in lines for name in line.views})
    whole = dataset.meta.mode == "episode"
    every = dataset.meta.start_every
    total = sum(
        len(line.views) * (1 if whole else len(window_starts(line.length, every))) for line in lines
    )
    file.attrs["key"], file.attrs["views"] = _key(dataset), views
    dtypes = {**dict.fromkeys(COLUMNS, "<f4"), "start": "<i8", "episode": "<i8", "view": "<i2"}
    columns = {name: file.create_dataset(name, (total,), dtype) for name, dtype in dtypes.items()}
    at = 0
    for number, episode_id in enumerate(dataset.ids):
        episode = dataset[episode_id]
        for name, view in episode.views.items():
            found = window_stats(view, episode.meta.length)
            rows = slice(at, at + len(found["start"]))
            for column, values in found.items():
                columns[column][rows] = values
            columns["episode"][rows], columns["view"][rows] = number, views.index(name)
            at = rows.stop


def window_stats(view: ViewData, length: int) -> dict[str, np.ndarray]:
    """Compute the columns of one view, each (S,) float32, and ``start`` (S,) int64."""
    starts = np.asarray(view.starts)
    out = {name: np.full(len(starts), np.nan, np.float32) for name in COLUMNS}
    tracks, vis, conf = view.tracks, view.vis, view.conf
    height, width = view.geometry.img_shape
    change = _change(view.frames, length)
    for at in range(0, len(starts), _BLOCK):
        block = slice(at, at + _BLOCK)
        xy, seen = np.asarray(tracks[block], np.float32), np.asarray(vis[block]) > 0
        own = starts[block, None] + np.arange(xy.shape[1]) < length
        points = own[:, :, None] & np.ones_like(seen)
        outside = np.any((xy < 0) | (xy > (width, height)), axis=-1)
        out["vis"][block] = _share(seen, points)
        out["clipped"][block] = _share(outside, points)
        if conf is not None:
            out["conf"][block] = _mean(np.asarray(conf[block]), points)
        moved = np.diff(xy, axis=1)
        steps = points[:, 1:] & seen[:, 1:] & seen[:, :-1]
        lengths = np.hypot(moved[..., 0], moved[..., 1])
        out["motion"][block] = _mean(lengths, steps)
        largest = np.where(steps, lengths, -1).reshape(len(xy), -1).max(axis=1, initial=-1)
        out["motion_max"][block] = np.where(largest >= 0, largest, np.nan)
        out["zero"][block] = _share(lengths < ZERO_STEP_PX, steps)
        out["saturated"][block] = _share(np.abs(moved).max(axis=-1) > SATURATED_STEP_PX, steps)
        if change is not None:
            out["cut"][block] = _largest(change, starts[block], xy.shape[1])
    return {**out, "start": starts.astype(np.int64)}


def _mean(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean per window over what counts; NaN where nothing does."""
    total = np.where(counted, values, 0).sum(axis=(1, 2), dtype=np.float64)
    count = counted.sum(axis=(1, 2))
    return np.where(count, total / np.maximum(count, 1), np.nan)


def _share(values: Any, counted: np.ndarray) -> np.ndarray:
    return _mean(np.asarray(values, np.float32), counted)


def _change(frames: Any, length: int) -> np.ndarray | None:
    """Mean change of each frame from the one before, (T,); None without frames."""
    if frames is None:
        return None
    out, before = np.zeros(length, np.float32), None
    for index in range(length):
        now = np.asarray(frames[index])[::_SPARSE, ::_SPARSE].astype(np.int16)
        if before is not None:
            out[index] = np.abs(now - before).mean()
        before = now
    return out


def _largest(change: np.ndarray, starts: np.ndarray, horizon: int) -> np.ndarray:
    return np.array([change[s + 1 : s + horizon].max(initial=0.0) for s in starts], np.float32)


def read_columns(dataset: Dataset, names: Iterable[str], views: Iterable[str]) -> Table:
    """Read some columns, for some views.  Raises DatasetError when the table is out of date."""
    path = dataset.fetched(stats_path(dataset))
    if not path.exists():
        raise DatasetError(f"{dataset.path} has no {path.name}: run letterset stats first")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            if file.attrs["key"] != _key(dataset):
                raise DatasetError(
                    f"{path} is out of date: episodes changed since; run letterset stats again"
                )
            stored = [str(name) for name in file.attrs["views"]]
            chosen = np.isin(file["view"][()], [stored.index(view) for view in views])
            columns = {name: file[name][()][chosen] for name in names}
            return Table(file["episode"][()][chosen], file["start"][()][chosen], columns)
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{path} is damaged: {error}; run letterset stats again") from None


class Table:
    """Rows of some columns: ``episode`` (n,) is the place of its id in ``dataset.ids``."""

    def __init__(
        self, episode: np.ndarray, start: np.ndarray, columns: dict[str, np.ndarray]
    ) -> None:
        self.episode, self.start, self.columns = episode, start, columns

    def by_window(self) -> Table:
        """Put the views of a window into one row: means, but the largest of largest values.

        A view that has nothing to count (NaN) does not count.
        """
        keys = np.stack([self.episode, self.start], axis=1)
        unique, inverse = np.unique(keys, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        columns = {}
        for name, values in self.columns.items():
            known = ~np.isnan(values)
            if name in ("motion_max", "cut"):
                out = np.full(len(unique), -np.inf)
                np.maximum.at(out, inverse[known], values[known])
                columns[name] = np.where(np.isfinite(out), out, np.nan)
                continue
            total = np.bincount(inverse[known], values[known].astype(np.float64), len(unique))
            count = np.bincount(inverse[known], minlength=len(unique))
            columns[name] = np.where(count, total / np.maximum(count, 1), np.nan)
        return Table(unique[:, 0], unique[:, 1], columns)


def _key(dataset: Dataset) -> str:
    """Hash of which episodes there are, and of the tracks they were opened with."""
    digest = hashlib.sha256()
    if dataset.track_layer:
        digest.update(dataset.layers[dataset.track_layer].digest.encode())
    for line in dataset.index.values():
        digest.update(f"{line.id}\0{line.digest}\n".encode())
    return digest.hexdigest()
