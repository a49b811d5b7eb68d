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
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from builder.canvas.loss_steps import LOSS_WINDOW, rounded_steps
from builder.canvas.windows import valid_steps
from builder.core.errors import DatasetError
from builder.core.spacing import spread
from builder.core.working import Each, one_by_one
from builder.dataset.episodes import Dataset, EpisodeData, ViewData
from builder.dataset.folder import load_meta
from builder.dataset.index import EpisodeIndex
from builder.dataset.layers import layer_names, load_layer
from builder.dataset.opening import open_dataset
from builder.stores.atomic import fsync_file, output_errors, stage
from builder.stores.base import EpisodeReader
from builder.stores.inside import open_inside
from builder.stores.reading import blame_environment, files_in, is_file, open_hdf5, readable
from schemas.base import json_sha256
from schemas.dataset import DatasetMeta
from schemas.geometry import Geometry

COLUMNS = {
    "motion": "mean step of visible points, px",
    "motion_max": "largest step of a visible point, px",
    "vis": "share of visible points",
    "zero": "share of steps that are no motion in AMPLIFY's loss, of all points",
    "saturated": "share of steps beyond the window of AMPLIFY's loss, 7 px, of all points",
    "clipped": "share of coordinates outside the canvas",
    "conf": "mean confidence of visible points, NaN when the tracker gives none",
    "cut": "largest mean change from a frame to the next, in levels; a scene cut is a peak",
}
"""Over the steps that show a frame of their own; NaN where there is nothing to count.

``zero``, ``saturated`` and ``clipped`` count what ``builder.training.metrics.MotionStats`` and the
doctor count: every point, seen or not, on the canvas that the dataset is trained at.
"""

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
# Stored beside the rows: those of other columns, or of other meanings, are out of date.
_COLUMNS = "loss steps, conf where seen: " + ",".join(_ROW_NAMES)

_ROWS_AT_ONCE = 100_000

# Digests of so many of its episodes tell a table that is old from one of other episodes: an
# attribute of HDF5 holds 64 KiB.
_KNOWN_AGAIN = 1000

# What a line that is none raises, and what h5py raises for damaged files.
_NO_ROWS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError)


def window_rows(view: ViewData, length: int, img_shape: tuple[int, int]) -> np.ndarray:
    """Compute the rows of a view of ``length`` frames for ``img_shape``, (S,) of ``ROW``."""
    starts = np.asarray(view.starts)
    rows = np.empty(len(starts), ROW)
    rows["start"] = starts
    _, horizon, points = view.vis.shape
    block = max(1, _BLOCK_POINTS // max(1, horizon * points))
    for at in range(0, len(starts), block):
        _fill_rows(rows[at : at + block], view, slice(at, at + block), length, img_shape)
    if len(starts):
        rows["cut"] = _cuts(view.frames, starts, horizon, length)
    return rows


def _fill_rows(
    rows: np.ndarray, view: ViewData, block: slice, length: int, img_shape: tuple[int, int]
) -> None:
    """Compute all columns but ``cut`` for some windows, a few steps of them at a time."""
    _, horizon, points = view.vis.shape
    steps = max(1, _BLOCK_POINTS // max(1, len(rows) * points))
    sums = np.zeros(len(rows), [(name, "<f8") for name in (*COLUMNS, "points", "steps", "seen")])
    sums["motion_max"] = -1
    for first in range(0, horizon, steps):
        # With the step before, to which the first one is a displacement.
        part = slice(max(first - 1, 0), first + steps)
        own = valid_steps(rows["start"], horizon, length)[:, part]
        _add(sums, view, (block, part), own, first - part.start, img_shape)
        _release(view.tracks, view.vis, view.conf)
    for count, names in (
        ("vis", ("conf",)),
        ("points", ("vis", "clipped")),
        ("steps", ("zero", "saturated")),
        ("seen", ("motion",)),
    ):
        for name in names:
            rows[name] = _mean(sums[name], sums[count])
    rows["motion_max"] = np.where(sums["seen"], sums["motion_max"], np.nan)
    if view.conf is None:
        rows["conf"] = np.nan


def _add(
    sums: np.ndarray,
    view: ViewData,
    part: tuple[slice, slice],
    own: np.ndarray,
    seen_before: int,
    img_shape: tuple[int, int],
) -> None:
    """Add some steps of some windows; the first ``seen_before`` of them only as origins.

    ``own`` (n, steps) tells which of them show a frame of their own.
    """
    xy = np.asarray(view.tracks[part], np.float32)
    seen = (np.asarray(view.vis[part]) > 0) & own[:, :, None]
    new = own[:, seen_before:]
    sums["points"] += new.sum(axis=1) * xy.shape[2]
    sums["vis"] += np.count_nonzero(seen[:, seen_before:], axis=(1, 2))
    if view.conf is not None:
        conf = np.asarray(view.conf[part])[:, seen_before:]
        sums["conf"] += np.where(seen[:, seen_before:], conf, 0).sum(axis=(1, 2), dtype=np.float64)
    moved = np.diff(xy, axis=1)
    both = seen[:, 1:] & seen[:, :-1]
    lengths = np.where(both, np.hypot(moved[..., 0], moved[..., 1]), 0)
    sums["seen"] += np.count_nonzero(both, axis=(1, 2))
    sums["motion"] += lengths.sum(axis=(1, 2), dtype=np.float64)
    sums["motion_max"] = np.maximum(sums["motion_max"], lengths.max(axis=(1, 2), initial=0))
    _add_loss_steps(sums, view.geometry, xy, own, seen_before, img_shape)


def _add_loss_steps(
    sums: np.ndarray,
    geometry: Geometry,
    xy: np.ndarray,
    own: np.ndarray,
    seen_before: int,
    img_shape: tuple[int, int],
) -> None:
    """Add what a loss with ``img_shape`` sees of these steps: of every point, seen or not."""
    if geometry.img_shape != img_shape:
        xy = (geometry.onto(img_shape).affine @ ~geometry.affine)(xy)
    size = img_shape[::-1]
    still, far = True, False
    for moved, cells in zip(rounded_steps(xy, size), LOSS_WINDOW[::-1], strict=True):
        still = still & (moved == 0)
        far = far | (np.abs(moved) > cells // 2)
    counted = own[:, 1:, None]
    sums["steps"] += own[:, 1:].sum(axis=1) * xy.shape[2]
    sums["zero"] += np.count_nonzero(still & counted, axis=(1, 2))
    sums["saturated"] += np.count_nonzero(far & counted, axis=(1, 2))
    for axis in (0, 1):
        at = xy[:, seen_before:, :, axis]
        outside = ((at < 0) | (at > size[axis])) & own[:, seen_before:, None]
        sums["clipped"] += np.count_nonzero(outside, axis=(1, 2)) / 2


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


def episode_rows(reader: EpisodeReader, img_shape: tuple[int, int]) -> Rows:
    """Compute the rows of an episode; raises DatasetError when it cannot be read."""
    episode = EpisodeData(reader)
    length = episode.meta.length
    return {name: window_rows(view, length, img_shape) for name, view in episode.views.items()}


def keep_rows(folder: Path, writer: str, digest: str, rows: Rows) -> None:
    """Append the rows of the episode of this digest, unsynced.  Raises OutputError."""
    packed = {view: base64.b64encode(own.tobytes()).decode() for view, own in rows.items()}
    facts = {"digest": digest, "columns": _COLUMNS, "rows": packed}
    line = json.dumps({**facts, "sha256": json_sha256(facts)})
    path = folder / "stats" / f"{writer}.rows"
    with output_errors(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(open_inside(path, folder, flags), "ab") as file:
            # The line before may be one that a killed run left half written.
            file.write(f"\n{line}\n".encode())


class KnownRows:
    """The rows that workers computed, by episode digest; read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        for path in files_in(folder / "stats", ".rows"):
            at = 0
            with readable(path), path.open("rb") as file:
                for line in file:
                    with suppress(*_NO_ROWS):
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
        with readable(path), path.open("rb") as file:
            file.seek(at)
            packed = json.loads(file.readline())["rows"]
        return {view: np.frombuffer(base64.b64decode(own), ROW) for view, own in packed.items()}


def stats_path(dataset: Dataset) -> Path:
    """Return the path of the table of a dataset, or of the track layer it was opened with."""
    name = f"windows-{dataset.track_layer}" if dataset.track_layer else "windows"
    return dataset.path / "stats" / f"{name}.hdf5"


def write_window_stats(
    dataset: Dataset, known: KnownRows | None = None, *, each: Each = one_by_one, keep: bool = False
) -> Path:
    """Write the table of an open dataset; returns its path.

    Rows that are ``known`` are copied, the others computed as ``each`` does it, and with ``keep``
    kept as those of workers are.  Raises DatasetError, OutputError.
    """
    path = stats_path(dataset)
    with stage(dataset.path / "tmp", ".h5") as staged:
        with output_errors(path):
            with h5py.File(staged.folder, "w", locking=False) as file:
                _fill(file, dataset, _all_rows(dataset, known, each, keep))
            fsync_file(staged.folder)
        staged.publish_folder(path, replace=True)
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
    if len(dataset) and _stored_key(stats_path(dataset)) != table_key(dataset):
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
        with open_hdf5(path) as file:
            return str(file.attrs["key"])
    except _DAMAGE:
        return None  # it is written anew


def whole_table(dataset: Dataset) -> bool:
    """Tell whether the table is there, undamaged, and of the episodes as they are now."""
    try:
        with open_hdf5(stats_path(dataset)) as file:
            if file.attrs["key"] != table_key(dataset):
                return False
            for name in _TABLE.names or ():
                _check_column(file, name)
            return True
    except _DAMAGE as error:
        blame_environment(error, stats_path(dataset))
        return False


def _fill(file: Any, dataset: Dataset, rows_of: Iterable[Rows]) -> None:
    index, views = dataset.index, dataset.index.views
    view_counts = np.array([len(names) for names in index.view_sets], np.int64)[index.view_set]
    total = int((view_counts * dataset.window_counts()).sum())
    file.attrs["key"], file.attrs["views"] = table_key(dataset), views
    # Whose it is: another dataset's table would fit no episode here, and still be a whole one.
    file.attrs["dataset"] = load_meta(dataset.path).digest
    file.attrs["episodes"] = index.digests[spread(len(index), _KNOWN_AGAIN)]
    file.attrs["columns"] = _COLUMNS
    columns = {
        name: file.create_dataset(name, (total,), _TABLE[name]) for name in _TABLE.names or ()
    }
    at, digests = 0, {name: hashlib.sha256() for name in columns}
    for batch in _batches(_parts(rows_of, views)):
        for name, column in columns.items():
            column[at : at + len(batch)] = batch[name]
            digests[name].update(batch[name].tobytes())
        at += len(batch)
    for name, column in columns.items():
        column.attrs["sha256"] = digests[name].hexdigest()


def _all_rows(dataset: Dataset, known: KnownRows | None, each: Each, keep: bool) -> Iterator[Rows]:
    """Yield the rows of each episode, in order of ids."""
    listed = dataset.listed()
    compute = partial(_computed, dataset.opener(), dataset.meta.img_shape)
    computed = iter(each(compute, [key for key in listed if not (known and key[1] in known)]))
    for _, digest in listed:
        rows = known.get(digest) if known else None
        if rows is None:
            rows = next(computed)
            if keep:
                keep_rows(dataset.path, "stats", digest, rows)
        yield rows


def _computed(
    open_episode: Callable[[tuple[str, str]], EpisodeData],
    img_shape: tuple[int, int],
    listed: tuple[str, str],
) -> Rows:
    with closing(open_episode(listed).reader) as reader:
        return episode_rows(reader, img_shape)


def _parts(rows_of: Iterable[Rows], views: list[str]) -> Iterator[np.ndarray]:
    """Yield the rows of each view of each episode, in order of ids."""
    for number, rows in enumerate(rows_of):
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
    with _table(dataset) as file:
        stored = [str(name) for name in file.attrs["views"]]
        view = _column(file, "view")
        chosen = np.isin(view, [stored.index(each) for each in views])
        columns = {name: _column(file, name)[chosen] for name in names}
        episode, start = (_column(file, name)[chosen] for name in ("episode", "start"))
        return Table(episode, start, columns, view[chosen])


def table_blocks(dataset: Dataset, names: Iterable[str], views: Sequence[str]) -> Iterator[Table]:
    """Yield some columns in pieces of whole episodes; ``view`` counts in the table's ``views``.

    Bytes are not verified: :func:`whole_table` does.  Raises DatasetError for one out of date.
    """
    names = [*names]
    with _table(dataset) as file:
        if [str(name) for name in file.attrs["views"]] != [*views]:
            raise ValueError("its views are not the dataset's")
        at, total = 0, len(file["episode"])
        while at < total:
            end, episode = min(at + _ROWS_AT_ONCE, total), file["episode"][at : at + _ROWS_AT_ONCE]
            while end < total and episode[0] == episode[-1]:  # one of many rows
                end = min(end + _ROWS_AT_ONCE, total)
                episode = file["episode"][at:end]
            if end < total:
                end = at + int(np.searchsorted(episode, episode[-1]))
            part = slice(at, end)
            columns = {name: file[name][part] for name in names}
            yield Table(episode[: end - at], file["start"][part], columns, file["view"][part])
            at = end


@contextmanager
def _table(dataset: Dataset) -> Iterator[Any]:
    """Open the table of a dataset.  Raises DatasetError when it is out of date or damaged."""
    path = dataset.fetched(stats_path(dataset))
    make = "letterset stats" + (f" --tracks {dataset.track_layer}" if dataset.track_layer else "")
    if not is_file(path):
        raise DatasetError(f"{dataset.path} has no {path.name}: run {make} first")
    try:
        with open_hdf5(path) as file:
            if file.attrs["key"] != table_key(dataset):
                raise DatasetError(
                    f"{path} is out of date: episodes changed since, or an older letterset made "
                    f"it; run {make} again"
                )
            yield file
    except _DAMAGE as error:
        blame_environment(error, path)
        raise DatasetError(f"{path} is damaged: {error}; run {make} again") from None


def _column(file: Any, name: str) -> np.ndarray:
    """Read a column; raises ValueError when its bytes changed since it was written."""
    values: np.ndarray = file[name][()]
    if hashlib.sha256(values.tobytes()).hexdigest() != file[name].attrs["sha256"]:
        raise ValueError(f"the column {name} changed after it was written")
    return values


def _check_column(file: Any, name: str) -> None:
    """Raise what :func:`_column` raises, reading in pieces."""
    digest = hashlib.sha256()
    for at in range(0, len(file[name]), _ROWS_AT_ONCE):
        digest.update(file[name][at : at + _ROWS_AT_ONCE].tobytes())
    if digest.hexdigest() != file[name].attrs["sha256"]:
        raise ValueError(f"the column {name} changed after it was written")


def check_table(
    path: Path, folder: Path, index: EpisodeIndex | None, dataset: DatasetMeta | None
) -> Iterator[tuple[str, bool]]:
    """Yield (message, whether it is only a note) for a table that is damaged, foreign or old.

    ``index`` and ``dataset`` are of the dataset at ``folder``; None when they are not known.
    Raises UnreadableError.
    """
    again = "run letterset stats again"
    try:
        with open_hdf5(path) as file:
            names = _TABLE.names or ()
            if file.attrs.get("columns") != _COLUMNS:
                yield f"it is out of date, an older letterset made it: {again}", True
                return
            for name in names:
                _check_column(file, name)
            layer = path.stem.removeprefix("windows").removeprefix("-")
            if layer and layer not in layer_names(folder):
                yield f"the dataset has no layer {layer!r} any more: delete it", True
                return
            layer_digest = load_layer(folder, layer).digest if layer else ""
            owner = file.attrs.get("dataset")
            made_of = file.attrs.get("episodes")
            if dataset is not None and owner not in (None, dataset.digest):
                yield f"it is the table of another dataset: delete it, then {again}", False
            elif index is not None and file.attrs["key"] != _key_of(index, layer_digest):
                own = {row.tobytes() for row in index.digests}
                kept = made_of is None or not own or any(row.tobytes() in own for row in made_of)
                which = "other" if kept else "none of the dataset's"
                yield f"it was made of {which} episodes: {again}", kept
    except _DAMAGE as error:
        blame_environment(error, path)
        yield f"it is damaged: {error}; {again}", False


@dataclass(frozen=True)
class Table:
    """Some columns of the rows of some views."""

    episode: np.ndarray
    """(n,): the index of the episode's id in ``dataset.ids``."""
    start: np.ndarray
    """(n,): the window's first frame."""
    columns: dict[str, np.ndarray]
    """(n,) each."""
    view: np.ndarray | None = None
    """(n,): the number of the view, where rows are of single views."""

    def of_view(self, number: int) -> Table:
        """Return the rows of one view."""
        own = self.view == number
        columns = {name: values[own] for name, values in self.columns.items()}
        return Table(self.episode[own], self.start[own], columns)

    def by_window(self) -> Table:
        """Merge the views of a window into one row: the mean, of maxima the maximum.

        Views in which nothing was counted (NaN) are left out.
        """
        # Of both as one number: a clip has no more than a million frames.
        starts = int(self.start.max(initial=0)) + 1
        unique, inverse = np.unique(self.episode * starts + self.start, return_inverse=True)
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
        return Table(unique // starts, unique % starts, columns)


def table_key(dataset: Dataset) -> str:
    """Hash of which episodes there are, and of the tracks they were opened with."""
    layer = dataset.track_layer
    return _key_of(dataset.index, dataset.layers[layer].digest if layer else "")


def _key_of(index: EpisodeIndex, layer_digest: str) -> str:
    digest = hashlib.sha256(_COLUMNS.encode())
    digest.update(layer_digest.encode())
    digest.update("\n".join(index.ids).encode())
    digest.update(index.digests.tobytes())
    return digest.hexdigest()
