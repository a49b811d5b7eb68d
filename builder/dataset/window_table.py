"""The window table: one row per window and view, with the columns that filters ask about.

``stats/windows.hdf5`` (``windows-<layer>.hdf5`` for a layer's tracks) has one dataset per column,
rows in order of episodes, views and windows.  Every build leaves it up to date.  Its rows are
computed by the worker that built an episode, and wait for the end of the build in
``stats/<writer>.rows``: a JSON line per episode, so that a line torn by a kill costs that episode
alone.

Both are derived and safe to delete.  The table is refused when the episodes are no longer those
it was made from; a line that is missing, torn or of another version is computed again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from builder.canvas.windows import valid_steps, window_counts
from builder.core.errors import DatasetError
from builder.dataset.episodes import Dataset, EpisodeData, ViewData
from builder.dataset.opening import open_dataset
from builder.stores.atomic import make_folders, output_errors, stage
from builder.stores.base import EpisodeReader
from builder.trackers.motion import ZERO_STEP_PX
from schemas.base import json_sha256

# Displacements beyond this fall outside the classes of AMPLIFY's loss, 15 x 15 pixels.
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

ROW = np.dtype([*((name, "<f4") for name in COLUMNS), ("start", "<i8")])

# Points read together: bounds memory, also where one window is a whole long episode.
_BLOCK_POINTS = 64 * 16 * 400
_FRAMES = 64
_SPARSE = 4  # a cut shows in every fourth pixel of a row and column

Rows = Mapping[str, np.ndarray]
"""The rows of one episode: by view, (S,) of ``ROW``."""

_ROW_NAMES = ROW.names or ()
_TABLE = np.dtype(
    [*((name, ROW[name]) for name in _ROW_NAMES), ("episode", "<i8"), ("view", "<i2")]
)
_COLUMNS = ",".join(_ROW_NAMES)

_ROWS_AT_ONCE = 100_000

# What h5py raises for damaged files.
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError)


def window_rows(view: ViewData, length: int) -> np.ndarray:
    """Compute the rows of one view of ``length`` frames, (S,) of ``ROW``, one per window."""
    starts = np.asarray(view.starts)
    rows = np.empty(len(starts), ROW)
    rows["start"] = starts
    _, horizon, points = view.vis.shape
    block = max(1, _BLOCK_POINTS // max(1, horizon * points))
    for at in range(0, len(starts), block):
        _fill_rows(rows[at : at + block], view, slice(at, at + block), length)
    if len(starts):
        rows["cut"] = _cuts(view.frames, starts, horizon, length)
    return rows


def _fill_rows(rows: np.ndarray, view: ViewData, block: slice, length: int) -> None:
    """Compute all columns but ``cut`` for some windows, a few steps of them at a time."""
    _, horizon, points = view.vis.shape
    steps = max(1, _BLOCK_POINTS // max(1, len(rows) * points))
    sums = np.zeros(len(rows), [(name, "<f8") for name in (*COLUMNS, "points", "steps")])
    sums["motion_max"] = -1
    for first in range(0, horizon, steps):
        # With the step before, to which the first one is a displacement.
        part = slice(max(first - 1, 0), first + steps)
        own = valid_steps(rows["start"], horizon, length)[:, part]
        _add(sums, view, (block, part), own, first - part.start)
        _release(view.tracks, view.vis, view.conf)
    for name, count in (("vis", "points"), ("clipped", "points"), ("conf", "points")):
        rows[name] = _mean(sums[name], sums[count])
    for name in ("motion", "zero", "saturated"):
        rows[name] = _mean(sums[name], sums["steps"])
    rows["motion_max"] = np.where(sums["steps"], sums["motion_max"], np.nan)
    if view.conf is None:
        rows["conf"] = np.nan


def _add(
    sums: np.ndarray, view: ViewData, part: tuple[slice, slice], own: np.ndarray, seen_before: int
) -> None:
    """Add some steps of some windows; the first ``seen_before`` of them only as origins.

    ``own`` (n, steps) tells which of them show a frame of their own.
    """
    xy = np.asarray(view.tracks[part], np.float32)
    seen = (np.asarray(view.vis[part]) > 0) & own[:, :, None]
    new = own[:, seen_before:]
    height, width = view.geometry.img_shape
    x, y = xy[:, seen_before:, :, 0], xy[:, seen_before:, :, 1]
    outside = (x < 0) | (x > width) | (y < 0) | (y > height)
    sums["points"] += new.sum(axis=1) * xy.shape[2]
    sums["vis"] += np.count_nonzero(seen[:, seen_before:], axis=(1, 2))
    sums["clipped"] += np.count_nonzero(outside & new[:, :, None], axis=(1, 2))
    if view.conf is not None:
        conf = np.asarray(view.conf[part])[:, seen_before:]
        sums["conf"] += (conf.sum(axis=2, dtype=np.float64) * new).sum(axis=1)
    moved = np.diff(xy, axis=1)
    both = seen[:, 1:] & seen[:, :-1]
    lengths = np.where(both, np.hypot(moved[..., 0], moved[..., 1]), 0)
    far = np.abs(moved).max(axis=-1, initial=0) > SATURATED_STEP_PX
    sums["steps"] += np.count_nonzero(both, axis=(1, 2))
    sums["motion"] += lengths.sum(axis=(1, 2), dtype=np.float64)
    sums["motion_max"] = np.maximum(sums["motion_max"], lengths.max(axis=(1, 2), initial=0))
    sums["zero"] += np.count_nonzero(both & (lengths < ZERO_STEP_PX), axis=(1, 2))
    sums["saturated"] += np.count_nonzero(both & far, axis=(1, 2))


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count, total / np.maximum(count, 1), np.nan)


def _cuts(frames: Any, starts: np.ndarray, horizon: int, length: int) -> np.ndarray:
    """Return the largest change from frame to frame in each window, NaN without frames."""
    if frames is None:
        return np.full(len(starts), np.nan)
    change, before = np.zeros(length, np.float32), None
    for index in range(length):
        now = np.asarray(frames[index])[::_SPARSE, ::_SPARSE].astype(np.int16)
        if before is not None:
            change[index] = np.abs(now - before).mean()
        before = now
        if index % _FRAMES == 0:
            _release(frames)
    return np.array([change[s + 1 : s + horizon].max(initial=0.0) for s in starts], np.float32)


def _release(*arrays: Any) -> None:
    """Release the pages of mapped arrays, so that memory does not grow with their length."""
    for array in arrays:
        at = getattr(array, "stored", array)
        while isinstance(at, np.ndarray | memoryview):
            at = at.base if isinstance(at, np.ndarray) else at.obj
        if isinstance(at, mmap.mmap) and hasattr(at, "madvise"):
            at.madvise(mmap.MADV_DONTNEED)


def episode_rows(reader: EpisodeReader) -> Rows:
    """Compute the rows of an episode; raises DatasetError when it cannot be read."""
    episode = EpisodeData(reader)
    return {name: window_rows(view, episode.meta.length) for name, view in episode.views.items()}


def keep_rows(folder: Path, writer: str, digest: str, rows: Rows) -> None:
    """Append the rows of the episode of this digest, unsynced.  Raises OutputError."""
    packed = {view: base64.b64encode(own.tobytes()).decode() for view, own in rows.items()}
    facts = {"digest": digest, "columns": _COLUMNS, "rows": packed}
    line = json.dumps({**facts, "sha256": json_sha256(facts)})
    path = folder / "stats" / f"{writer}.rows"
    with output_errors(path):
        make_folders(path.parent)
        with path.open("ab") as file:
            # The line before may be one that a killed run left half written.
            file.write(f"\n{line}\n".encode())


class KnownRows:
    """The rows that workers computed, by episode digest; read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        for path in sorted((folder / "stats").glob("*.rows")):
            at = 0
            with path.open("rb") as file:
                for line in file:
                    with suppress(ValueError, KeyError, TypeError, AttributeError):
                        found = json.loads(line)
                        whole = found.pop("sha256") == json_sha256(found)
                        if whole and found["columns"] == _COLUMNS:
                            self._places[found["digest"]] = path, at
                    at += len(line)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def get(self, digest: str) -> Rows | None:
        """Return the rows of the episode of this digest, None when they are not known."""
        if digest not in self._places:
            return None
        path, at = self._places[digest]
        with path.open("rb") as file:
            file.seek(at)
            packed = json.loads(file.readline())["rows"]
        return {view: np.frombuffer(base64.b64decode(own), ROW) for view, own in packed.items()}


def stats_path(dataset: Dataset) -> Path:
    """Return the path of the table of a dataset, or of the track layer it was opened with."""
    name = f"windows-{dataset.track_layer}" if dataset.track_layer else "windows"
    return dataset.path / "stats" / f"{name}.hdf5"


def write_window_stats(dataset: Dataset, known: KnownRows | None = None) -> Path:
    """Write the table of an open dataset; returns its path.

    Rows that are ``known`` are copied, the others computed.  Raises DatasetError, OutputError.
    """
    path = stats_path(dataset)
    with stage(dataset.path / "tmp", ".h5") as staged:
        # The lock on the staged file is ours; HDF5 would ask for another.
        with output_errors(path), h5py.File(staged.path, "w", locking=False) as file:
            _fill(file, dataset, known)
        staged.publish(path, replace=True)
    return path


def update_window_stats(folder: Path, on_notice: Callable[[str], None]) -> None:
    """Write the table of a dataset that was just built, unless it is up to date.

    An episode that cannot be read gives a notice; the build goes on.  Raises OutputError.
    """
    try:
        refresh_window_stats(open_dataset(folder))
    except DatasetError as error:
        on_notice(f"the window table was not written: {error}; after that, run letterset stats")


def refresh_window_stats(dataset: Dataset) -> None:
    """Write the table of an open dataset, unless it is up to date.

    Raises DatasetError for an episode that cannot be read, OutputError.
    """
    if len(dataset) and _stored_key(stats_path(dataset)) != _key(dataset):
        # Workers keep the rows of a dataset's own tracks, not those of a layer.
        write_window_stats(dataset, None if dataset.track_layer else KnownRows(dataset.path))


def carry_window_stats(sources: Iterable[Path], out: Path) -> None:
    """Copy the known rows of episodes that ``out`` took from ``sources``; computes none.

    The table is made when the rows of all episodes are known.  Raises DatasetError, OutputError.
    """
    there, others = KnownRows(out), [KnownRows(source) for source in sources]
    dataset, missing = open_dataset(out), 0
    for line in dataset.index.values():
        if line.digest in there:
            continue
        rows = next((other.get(line.digest) for other in others if line.digest in other), None)
        missing += rows is None
        if rows is not None:
            keep_rows(out, "main", line.digest, rows)
    if not missing and len(dataset):
        write_window_stats(dataset, KnownRows(out))


def _stored_key(path: Path) -> str | None:
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            return str(file.attrs["key"])
    except (OSError, KeyError):
        return None


def _fill(file: Any, dataset: Dataset, known: KnownRows | None) -> None:
    index, views = dataset.index, dataset.index.views
    view_counts = np.array([len(names) for names in index.view_sets], np.int64)[index.view_set]
    total = int((view_counts * window_counts(dataset.meta, index.lengths)).sum())
    file.attrs["key"], file.attrs["views"] = _key(dataset), views
    columns = {
        name: file.create_dataset(name, (total,), _TABLE[name]) for name in _TABLE.names or ()
    }
    at, digests = 0, {name: hashlib.sha256() for name in columns}
    for batch in _batches(_parts(dataset, known, views)):
        for name, column in columns.items():
            column[at : at + len(batch)] = batch[name]
            digests[name].update(batch[name].tobytes())
        at += len(batch)
    for name, column in columns.items():
        column.attrs["sha256"] = digests[name].hexdigest()


def _parts(dataset: Dataset, known: KnownRows | None, views: list[str]) -> Iterator[np.ndarray]:
    """Yield the rows of each view of each episode, in order of ids."""
    for number, episode_id in enumerate(dataset.ids):
        rows = known.get(dataset.index[episode_id].digest) if known else None
        if rows is None:
            rows = episode_rows(dataset[episode_id].reader)
        for view, own in rows.items():
            part = np.empty(len(own), _TABLE)
            part[[*_ROW_NAMES]] = own
            part["episode"], part["view"] = number, views.index(view)
            yield part


def _batches(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Join parts into pieces of about 100,000 rows: each write to an HDF5 file has its cost."""
    waiting, rows = list[np.ndarray](), 0
    for part in parts:
        waiting.append(part)
        rows += len(part)
        if rows > _ROWS_AT_ONCE:
            yield np.concatenate(waiting)
            waiting, rows = [], 0
    yield np.concatenate([np.empty(0, _TABLE), *waiting])


def read_columns(dataset: Dataset, names: Iterable[str], views: Iterable[str]) -> Table:
    """Read some columns, for some views.  Raises DatasetError when the table is out of date."""
    path = dataset.fetched(stats_path(dataset))
    make = "letterset stats" + (f" --tracks {dataset.track_layer}" if dataset.track_layer else "")
    if not path.exists():
        raise DatasetError(f"{dataset.path} has no {path.name}: run {make} first")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            if file.attrs["key"] != _key(dataset):
                raise DatasetError(
                    f"{path} is out of date: episodes changed since; run {make} again"
                )
            stored = [str(name) for name in file.attrs["views"]]
            chosen = np.isin(_column(file, "view"), [stored.index(view) for view in views])
            columns = {name: _column(file, name)[chosen] for name in names}
            return Table(_column(file, "episode")[chosen], _column(file, "start")[chosen], columns)
    except _DAMAGE as error:
        raise DatasetError(f"{path} is damaged: {error}; run {make} again") from None


def _column(file: Any, name: str) -> np.ndarray:
    """Read a column; raises ValueError when its bytes changed since it was written."""
    values: np.ndarray = file[name][()]
    if hashlib.sha256(values.tobytes()).hexdigest() != file[name].attrs["sha256"]:
        raise ValueError(f"the column {name} changed after it was written")
    return values


def check_tables(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield (where, message, whether it is only a note) for tables that are damaged or old."""
    for path in sorted((folder / "stats").glob("windows*.hdf5")):
        where, again = f"stats/{path.name}", "run letterset stats again"
        try:
            with h5py.File(path, "r", locking="best-effort") as file:
                names = _TABLE.names or ()
                if not any("sha256" in file[name].attrs for name in names):
                    yield where, f"it is out of date, it has no digests: {again}", True
                    continue
                for name in names:
                    _column(file, name)
        except _DAMAGE as error:
            yield where, f"it is damaged: {error}; {again}", False


@dataclass(frozen=True)
class Table:
    """Some columns of the rows of some views."""

    episode: np.ndarray
    """(n,): the index of the episode's id in ``dataset.ids``."""
    start: np.ndarray
    """(n,): the window's first frame."""
    columns: dict[str, np.ndarray]
    """(n,) each."""

    def by_window(self) -> Table:
        """Merge the views of a window into one row: the mean, of maxima the maximum.

        Views in which nothing was counted (NaN) are left out.
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
            columns[name] = _mean(total, count)
        return Table(unique[:, 0], unique[:, 1], columns)


def _key(dataset: Dataset) -> str:
    """Hash of which episodes there are, and of the tracks they were opened with."""
    digest = hashlib.sha256(b"with digests")  # tables without them are out of date
    if dataset.track_layer:
        digest.update(dataset.layers[dataset.track_layer].digest.encode())
    digest.update("\n".join(dataset.ids).encode())
    digest.update(dataset.index.digests.tobytes())
    return digest.hexdigest()
