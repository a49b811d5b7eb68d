"""What ``letterset stats`` tells of a dataset: columns of its window table, and its arrays.

Everything is read in pieces, so that memory does not grow with the dataset, and what was found is
kept in ``stats/summary.json`` (``summary-<layer>.json`` for a layer's tracks), with the digests of
the episodes it holds for: an unchanged dataset is not read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from builder.canvas.windows import whole_windows
from builder.core.errors import DatasetError
from builder.core.working import Each, one_by_one
from builder.dataset.array_stats import every_array_stats
from builder.dataset.episodes import Dataset
from builder.dataset.filters import Expression
from builder.dataset.window_table import (
    COLUMNS,
    KnownRows,
    Table,
    stats_path,
    table_blocks,
    table_key,
    whole_table,
    write_window_stats,
)
from builder.stores.atomic import publish_text
from builder.stores.reading import readable
from schemas.base import json_sha256

_VERSION = "1"
"""Of what is kept: another one is computed again."""
_SHARES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
_HALF = 1 << 16


def summarize(
    dataset: Dataset, where: str | None = None, *, each: Each = one_by_one, again: bool = False
) -> dict[str, Any]:
    """Bring the window table up to date, and sum it up, with the arrays; JSON data.

    What is known, and holds for the episodes as they are now, is not computed: unless ``again``.
    ``where`` counts the windows that match.  Episodes are read as ``each`` does it.  Raises
    ConfigError, DatasetError for an episode that cannot be read, OutputError.
    """
    condition = Expression(where, COLUMNS) if where else None
    if again or not whole_table(dataset):
        own = dataset.track_layer is None and not again
        known = KnownRows(dataset.path) if own else None
        write_window_stats(dataset, known, each=each, keep=own)
    found = None if again else _kept(dataset)
    if found is None:
        found = {**_windows(dataset), "arrays": _arrays(dataset, each)}
        _keep(dataset, found)
    table = {"table": str(stats_path(dataset))}
    return {**table, **found, **(_matching(dataset, condition) if condition else {})}


def _path(dataset: Dataset) -> Path:
    return stats_path(dataset).with_name(
        f"summary{f'-{dataset.track_layer}' * bool(dataset.track_layer)}.json"
    )


def _key(dataset: Dataset) -> str:
    return hashlib.sha256(f"{_VERSION} {table_key(dataset)}".encode()).hexdigest()


def _kept(dataset: Dataset) -> dict[str, Any] | None:
    """Return what was kept; None where it is not there, damaged, or of other episodes."""
    path = _path(dataset)
    try:
        with readable(path):
            kept = json.loads(path.read_bytes())
        if (kept["key"], kept["sha256"]) == (_key(dataset), json_sha256(kept["found"])):
            found: dict[str, Any] = kept["found"]
            return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError, DatasetError):
        pass
    return None


def _keep(dataset: Dataset, found: dict[str, Any]) -> None:
    kept = {"key": _key(dataset), "sha256": json_sha256(found), "found": found}
    publish_text(dataset.path, _path(dataset), json.dumps(kept) + "\n", replace=True)


def _windows(dataset: Dataset) -> dict[str, Any]:
    """Sum the table up: over the windows within their clip, over all where there are none."""
    views = list(dataset.index.views)
    total = within = 0
    for table in table_blocks(dataset, (), views):
        whole = _within_clip(dataset, by_window := table.by_window())
        total, within = total + len(by_window.start), within + int(whole.sum())
    # Of all views together, and of each where there are several.
    groups = [views, *([[name] for name in views] if len(views) > 1 else [])]
    sums = [{name: _Column() for name in COLUMNS} for _ in groups]
    for again in (False, True):
        for table in table_blocks(dataset, COLUMNS, views):
            for group, columns in zip(groups, sums, strict=True):
                some = table if group is views else table.of_view(views.index(group[0]))
                _add(columns, some.by_window(), dataset, bool(within), again)
    every, *by_view = [_told(columns) for columns in sums]
    return {
        "windows": total,
        "within_clip": within,
        "still": dataset.still_windows,
        "columns": every,
        **({"views": dict(zip(views, by_view, strict=True))} if by_view else {}),
    }


def _add(
    columns: Mapping[str, _Column], table: Table, dataset: Dataset, whole: bool, again: bool
) -> None:
    kept = _within_clip(dataset, table) if whole else slice(None)
    for name, column in columns.items():
        (column.refine if again else column.add)(table.columns[name][kept])


def _told(columns: Mapping[str, _Column]) -> dict[str, dict[str, float | None]]:
    return {name: column.told() for name, column in columns.items()}


def _matching(dataset: Dataset, condition: Expression) -> dict[str, int]:
    """Count the windows for which a condition holds."""
    matching = within = 0
    for table in table_blocks(dataset, sorted(condition.names), list(dataset.index.views)):
        windows = table.by_window()
        mask = condition.mask(windows.columns or {"": windows.start})
        matching += int(mask.sum())
        within += int((mask & _within_clip(dataset, windows)).sum())
    return {"matching": matching, "matching_within_clip": within}


def _within_clip(dataset: Dataset, windows: Table) -> np.ndarray:
    """Tell which windows training takes by default, as the doctor does."""
    lengths = dataset.index.lengths[windows.episode]
    return whole_windows(windows.start, dataset.meta.horizon, lengths)


def _arrays(dataset: Dataset, each: Each) -> dict[str, Any]:
    """Return the statistics of every array that has a row per frame."""
    found = {}
    for name, (stats, more) in every_array_stats(dataset, each).items():
        shares = {f"q{share * 100:02.0f}": q for share, q in zip(more.at, more.values, strict=True)}
        found[name] = {**stats.model_dump(), **shares, "q_error": more.error}
    # As it is read back later: tuples are lists there.
    again: dict[str, Any] = json.loads(json.dumps(found))
    return again


class _Column:
    """Mean and exact percentiles of float32 numbers that come in pieces, twice.

    Counted by their upper 16 bits first, then, where a percentile lies, by their lower ones: as
    unsigned numbers they have the order of the floats.  NaN does not count.
    """

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0
        self._upper = np.zeros(_HALF, np.int64)
        self._lower: dict[int, np.ndarray] | None = None

    def add(self, values: np.ndarray) -> None:
        """Take a piece, the first time."""
        known = values[~np.isnan(values)]
        self.count += len(known)
        self.total += float(known.sum(dtype=np.float64))
        self._upper += np.bincount(_ordered(known) >> 16, minlength=_HALF)

    def refine(self, values: np.ndarray) -> None:
        """Take a piece, the second time."""
        if self._lower is None:
            wanted = {self._bin(rank)[0] for rank in self._ranks()}
            self._lower = {upper: np.zeros(_HALF, np.int64) for upper in wanted}
        bits = _ordered(values[~np.isnan(values)])
        for upper, counts in self._lower.items():
            counts += np.bincount(bits[bits >> 16 == upper] & (_HALF - 1), minlength=_HALF)

    def told(self) -> dict[str, float | None]:
        """Return the mean and the percentiles; None where nothing was counted."""
        if not self.count:
            return dict.fromkeys(["mean", *_SHARES])
        found: dict[str, float | None] = {"mean": self.total / self.count}
        for name, share in _SHARES.items():
            place = share * (self.count - 1)
            low, high = self._at(int(place)), self._at(min(int(place) + 1, self.count - 1))
            found[name] = low + (high - low) * (place - int(place))
        return found

    def _ranks(self) -> Iterator[int]:
        for share in _SHARES.values() if self.count else ():
            at = int(share * (self.count - 1))
            yield from (at, min(at + 1, self.count - 1))

    def _bin(self, rank: int) -> tuple[int, int]:
        """Return the upper bits of the number of this rank, and its rank among those."""
        ends = np.cumsum(self._upper)
        upper = int(np.searchsorted(ends, rank, side="right"))
        return upper, rank - int(ends[upper] - self._upper[upper])

    def _at(self, rank: int) -> float:
        upper, inner = self._bin(rank)
        lower = int(np.searchsorted(np.cumsum((self._lower or {})[upper]), inner, side="right"))
        return _float(upper << 16 | lower)


def _ordered(values: np.ndarray) -> np.ndarray:
    """Return float32 numbers as whole ones of the same order, int64 from 0 to 2^32 - 1."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits | 0x80000000)


def _float(ordered: int) -> float:
    bits = ordered & 0x7FFFFFFF if ordered >> 31 else 0xFFFFFFFF - ordered
    return float(np.array(bits, np.uint32).view(np.float32))
