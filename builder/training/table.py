"""What the table of windows says about samples: which to keep, and how often to draw each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import numpy as np

from builder.core.errors import ConfigError, DatasetError
from builder.dataset.episodes import Dataset
from builder.dataset.filters import Where
from builder.dataset.window_table import COLUMNS, Table, read_columns

Weigh = str | Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""An expression such as ``motion``, or a function of all columns by name, (n,) each, to (n,)."""


class Samples(Protocol):
    """Samples that know their rows in a table of windows, such as a WindowDataset."""

    @property
    def dataset(self) -> Dataset:
        """The dataset they are cut from."""
        ...

    @property
    def views(self) -> Mapping[str, str]:
        """The stored view of each view."""
        ...

    def rows(self, table: Table) -> np.ndarray:
        """Return the row of every sample, (n,) int64, -1 where there is none."""
        ...


def rows_of_samples(table: Table, episodes: np.ndarray, ends: np.ndarray, every: int) -> np.ndarray:
    """Return the row of every sample in a table that has one row per window, -1 for none.

    ``episodes`` (E,) are the numbers by which the table knows them, ``ends`` (E,) the number of
    samples up to the end of each; their samples start ``every`` so many frames (0: one row tells
    about all samples of an episode).
    """
    counts = np.diff(ends, prepend=0)
    begins = np.repeat(ends - counts, counts)
    start = (np.arange(len(begins)) - begins) * every
    # The table's rows are in order of episode and start.
    span = 1 + max(int(start.max(initial=0)), int(table.start.max(initial=0)))
    keys, wanted = table.episode * span + table.start, np.repeat(episodes, counts) * span + start
    at = np.searchsorted(keys, wanted)
    return np.where(np.append(keys, -1)[at] == wanted, at, -1)


def matching_samples(samples: Samples, where: str) -> np.ndarray:
    """Return the numbers of the samples that a filter over the table keeps, ascending.

    The views of a window count together.  Raises ConfigError for a bad filter, DatasetError when
    nothing is left and when there is no table of this dataset.
    """
    condition = Where(where, COLUMNS)
    table = _read(samples, condition.names)
    keeps = np.append(condition.mask(table.columns), False)
    found = np.flatnonzero(keeps[samples.rows(table)])
    if not found.size:
        raise DatasetError(f"{samples.dataset.path}: no window matches {where!r}")
    return found


def window_weights(windows: Samples, by: Weigh = "motion") -> np.ndarray:
    """Return how often to draw each sample, (len(windows),) float64, by ``letterset stats``.

    ``by`` is an expression over the columns, ``motion`` (mean step of visible points, px) or
    ``motion * vis + 0.1``, or a function of them.  The views of a window count together; one with
    nothing to count (NaN), or without a row in the table, gets 0.  Raises ConfigError for a bad
    expression, DatasetError when the table is missing or out of date.
    """
    if isinstance(by, str):
        expression = Where(by, COLUMNS)
        table = _read(windows, expression.names)
        found = expression.values(table.columns)
    else:
        table = _read(windows, COLUMNS)
        found = np.asarray(by(table.columns), np.float64)
    if found.shape != table.start.shape:
        raise ConfigError(f"expected one weight per row, {table.start.shape}, got {found.shape}")
    return np.append(np.nan_to_num(found), 0.0)[windows.rows(table)]


def _read(samples: Samples, names: Collection[str]) -> Table:
    return read_columns(samples.dataset, names or {"vis"}, samples.views.values()).by_window()
