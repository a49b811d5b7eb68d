"""Statistics of pass-through arrays with a row per frame, such as actions, over a dataset."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from builder.core.errors import ConfigError
from builder.core.working import Each, one_by_one
from builder.dataset.episodes import Dataset, EpisodeData
from schemas.inference import ArrayStats

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_BINS = 4096

Listed = tuple[str, str]
"""Id and digest of an episode."""
Range = tuple[np.ndarray, np.ndarray]
"""Minimum and maximum of each dimension, (D,)."""


@dataclass(frozen=True)
class Quantiles:
    """Quantiles per dimension; each is off by at most ``error`` of that dimension."""

    at: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    """By quantile, then by dimension."""
    error: tuple[float, ...]


@dataclass(frozen=True)
class _Part:
    """Sums over the rows of one episode, of their deviations from a first row; (D,) each."""

    count: int
    total: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, shift: np.ndarray) -> _Part:
        # Rows of other dimensions than the first are refused where parts are added up.
        moved = rows - shift if rows.shape[1:] == shift.shape else rows
        squares = (moved**2).sum(axis=0)
        return cls(len(rows), moved.sum(axis=0), squares, rows.min(axis=0), rows.max(axis=0))


class _Sums:
    """Adds parts up, in the order of ids, so that the result is the same every time."""

    def __init__(self, place: str, shift: np.ndarray) -> None:
        self.place, self.shift, self.count = place, shift, 0
        self.total, self.squares = np.zeros_like(shift), np.zeros_like(shift)
        self.low = self.high = shift

    def add(self, part: _Part) -> None:
        if part.total.shape != self.shift.shape:
            raise ConfigError(
                f"{self.place} has {part.total.size} dimensions in some episodes and "
                f"{self.shift.size} in others; it has no common statistics"
            )
        self.count += part.count
        self.total += part.total
        self.squares += part.squares
        self.low = np.minimum(self.low, part.low)
        self.high = np.maximum(self.high, part.high)

    def stats(self) -> ArrayStats:
        mean = self.total / self.count
        variance = np.maximum(self.squares / self.count - mean**2, 0)
        found = {"mean": self.shift + mean, "std": np.sqrt(variance)}
        found |= {"min": self.low, "max": self.high}
        return ArrayStats(count=self.count, **{key: tuple(v.tolist()) for key, v in found.items()})


def array_stats(dataset: Dataset, name: str) -> ArrayStats | None:
    """Return exact statistics of an array, None when no episode has it with a row per frame.

    Rows with NaN or infinity, such as an action that was not recorded, do not count.  One pass in
    the order of ids, so that the result is the same every time; summed as deviations from
    the first row.  Raises ConfigError when episodes disagree in the number of dimensions.
    """
    sums = None
    for episode_id in dataset.ids:
        if (rows := _rows(dataset[episode_id], name)) is None:
            continue
        sums = sums or _Sums(f"{dataset.path}: {name}", rows[0])
        sums.add(_Part.of(rows, sums.shift))
    return None if sums is None else sums.stats()


def every_array_stats(
    dataset: Dataset, each: Each = one_by_one
) -> dict[str, tuple[ArrayStats, Quantiles]]:
    """Return the statistics of all arrays that have a row per frame, by name, sorted.

    They are those of :func:`array_stats` and :func:`quantiles`, in two passes over the episodes,
    which are read as ``each`` does it.  Raises ConfigError, DatasetError.
    """
    opener, listed = dataset.opener(), dataset.listed()
    sums: dict[str, _Sums] = {}
    firsts: dict[str, np.ndarray] = {}
    only: Collection[str] | None = None
    # What the first episode lacks is met on the way, and summed in a pass of its own.
    for found in each(partial(_parts, opener, {}, None), listed[:1]):
        firsts |= {name: rows for name, rows in found.items() if isinstance(rows, np.ndarray)}
    while only is None or firsts:
        later: dict[str, np.ndarray] = {}
        for name, first in firsts.items():
            sums[name] = _Sums(f"{dataset.path}: {name}", first)
        for found in each(partial(_parts, opener, firsts, only), listed):
            for name, part in found.items():
                if isinstance(part, np.ndarray):
                    later.setdefault(name, part)
                else:
                    sums[name].add(part)
        firsts = only = later
    stats = {name: sums[name].stats() for name in sorted(sums)}
    ranges = {name: _range(each) for name, each in stats.items()}
    counts = {name: np.zeros((low.size, _BINS), np.int64) for name, (low, _) in ranges.items()}
    if any(low.size for low, _ in ranges.values()):
        for binned in each(partial(_binned, opener, ranges), listed):
            for name, (bins, times) in binned.items():
                counts[name].reshape(-1)[bins] += times
    return {name: (stats[name], _quantiles(stats[name], counts[name])) for name in stats}


def quantiles(dataset: Dataset, name: str, stats: ArrayStats) -> Quantiles:
    """Return quantiles from a histogram of 4096 bins between the exact minimum and maximum."""
    low, high = _range(stats)
    counts = np.zeros((low.size, _BINS), np.int64)
    for episode_id in dataset.ids:
        if (rows := _rows(dataset[episode_id], name)) is not None:
            bins, times = _bins(rows, low, high)
            counts.reshape(-1)[bins] += times
    return _quantiles(stats, counts)


def _range(stats: ArrayStats) -> Range:
    return np.array(stats.min), np.array(stats.max)


def _quantiles(stats: ArrayStats, counts: np.ndarray) -> Quantiles:
    low, high = _range(stats)
    width = (high - low) / _BINS
    total = np.cumsum(counts, axis=1)
    values = []
    for share in QUANTILES:
        # The bin in which the row of this rank lies; its middle is off by half a bin at most.
        rank = max(1, int(np.ceil(share * stats.count)))
        found = (total >= rank).argmax(axis=1)
        values.append(tuple((low + (found + 0.5) * width).tolist()))
    return Quantiles(QUANTILES, tuple(values), tuple((width / 2).tolist()))


def _bins(rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which bins the rows (n, D) fall into, of all D histograms in a row, and how often."""
    width = (high - low) / _BINS
    safe = np.where(width > 0, width, 1.0)  # a dimension that never changes has one bin
    bins = np.clip(((rows - low) / safe).astype(np.int64), 0, _BINS - 1)
    bins += np.arange(low.size) * _BINS
    return np.unique(bins, return_counts=True)


def finite_rows(values: np.ndarray) -> np.ndarray:
    """Return the rows (n, ...) that statistics count, in float64: those without NaN, infinity."""
    rows = np.asarray(values, np.float64)
    return rows[np.isfinite(rows).reshape(len(rows), -1).all(axis=1)]


def _rows(episode: EpisodeData, name: str) -> np.ndarray | None:
    """Return the finite rows (n, D) of an episode, None where it has none."""
    if name not in episode.arrays or not episode.meta.per_frame(name):
        return None
    rows = finite_rows(episode.arrays[name])
    return rows.reshape(len(rows), -1) if len(rows) else None


def _named(episode: EpisodeData, names: Collection[str] | None) -> Iterator[tuple[str, np.ndarray]]:
    for name in episode.arrays:
        if (names is None or name in names) and (rows := _rows(episode, name)) is not None:
            yield name, rows


def _parts(
    open_episode: Callable[[Listed], EpisodeData],
    shifts: Mapping[str, np.ndarray],
    only: Collection[str] | None,
    listed: Listed,
) -> dict[str, _Part | np.ndarray]:
    """Sum up an episode's arrays; of those without a shift the first row is returned."""
    episode = open_episode(listed)
    try:
        return {
            name: _Part.of(rows, shifts[name]) if name in shifts else rows[0]
            for name, rows in _named(episode, only)
        }
    finally:
        episode.reader.close()


def _binned(
    open_episode: Callable[[Listed], EpisodeData], ranges: Mapping[str, Range], listed: Listed
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    episode = open_episode(listed)
    try:
        return {name: _bins(rows, *ranges[name]) for name, rows in _named(episode, ranges)}
    finally:
        episode.reader.close()
