"""Statistics of pass-through arrays with a row per frame, such as actions, over a dataset."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from builder.core.errors import ConfigError
from builder.dataset.episodes import Dataset
from schemas.inference import ArrayStats

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_BINS = 4096


@dataclass(frozen=True)
class Quantiles:
    """Quantiles per dimension; each is off by at most ``error`` of that dimension."""

    at: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    """By quantile, then by dimension."""
    error: tuple[float, ...]


def array_stats(dataset: Dataset, name: str) -> ArrayStats | None:
    """Return exact statistics of an array, None when no episode has it with a row per frame.

    Rows with NaN or infinity, such as an action that was not recorded, do not count.  One pass in
    the order of ids, so that the result is the same every time; summed as deviations from
    the first row.  Raises ConfigError when episodes disagree in the number of dimensions.
    """
    count, shift = 0, None
    for rows in _rows(dataset, name):
        if shift is None:
            shift = rows[0]
            total, squares = np.zeros_like(shift), np.zeros_like(shift)
            low, high = rows[0], rows[0]
        if rows.shape[1:] != shift.shape:
            raise ConfigError(
                f"{dataset.path}: {name} has {rows.shape[1]} dimensions in some episodes and "
                f"{shift.size} in others; it has no common statistics"
            )
        moved = rows - shift
        count += len(rows)
        total += moved.sum(axis=0)
        squares += (moved**2).sum(axis=0)
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    if shift is None:
        return None
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    found = {"mean": shift + mean, "std": np.sqrt(variance), "min": low, "max": high}
    return ArrayStats(count=count, **{key: tuple(v.tolist()) for key, v in found.items()})


def quantiles(dataset: Dataset, name: str, stats: ArrayStats) -> Quantiles:
    """Return quantiles from a histogram of 4096 bins between the exact minimum and maximum."""
    low, high = np.array(stats.min), np.array(stats.max)
    width = (high - low) / _BINS
    counts = np.zeros((low.size, _BINS), np.int64)
    safe = np.where(width > 0, width, 1.0)  # a dimension that never changes has one bin
    dimensions = np.arange(low.size)
    for rows in _rows(dataset, name):
        bins = np.clip(((rows - low) / safe).astype(np.int64), 0, _BINS - 1)
        np.add.at(counts, (np.broadcast_to(dimensions, bins.shape), bins), 1)
    total = np.cumsum(counts, axis=1)
    values = []
    for share in QUANTILES:
        # The bin in which the row of this rank lies; its middle is off by half a bin at most.
        rank = max(1, int(np.ceil(share * stats.count)))
        found = (total >= rank).argmax(axis=1)
        values.append(tuple((low + (found + 0.5) * width).tolist()))
    return Quantiles(QUANTILES, tuple(values), tuple((width / 2).tolist()))


def finite_rows(values: np.ndarray) -> np.ndarray:
    """Return the rows (n, ...) that statistics count, in float64: those without NaN, infinity."""
    rows = np.asarray(values, np.float64)
    return rows[np.isfinite(rows).reshape(len(rows), -1).all(axis=1)]


def _rows(dataset: Dataset, name: str) -> Iterator[np.ndarray]:
    """Yield the finite rows (n, D) of each episode that has some."""
    for episode_id in dataset.ids:
        episode = dataset[episode_id]
        if name in episode.arrays and episode.meta.per_frame(name):
            rows = finite_rows(episode.arrays[name])
            if len(rows):
                yield rows.reshape(len(rows), -1)
