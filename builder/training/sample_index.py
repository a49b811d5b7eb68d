"""Which sample lies where: samples are numbered through all episodes, one after another."""

import numpy as np

from builder.dataset.window_table import Table


class SampleIndex:
    """Finds the episode of a sample, the samples of an episode, and their rows in a window table.

    A sample that a filter drops keeps its number, so that whatever is drawn by number (the
    augmentation) is the same with and without the filter.
    """

    kept: np.ndarray | None = None
    """Numbers (n,) of the samples that a filter keeps, ascending; None: all."""

    def __init__(self, counts: np.ndarray) -> None:
        """Take ``counts`` (E,), how many samples each episode has."""
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        if self.kept is not None:
            return len(self.kept)
        return int(self.ends[-1]) if len(self.ends) else 0

    def number(self, index: int) -> int:
        """Return the number of a sample, given its index among those that are kept."""
        return index if self.kept is None else int(self.kept[index])

    def episode(self, number: int) -> int:
        """Return which episode a sample belongs to, by its place in ``counts``."""
        return int(self.ends.searchsorted(number, side="right"))

    def first(self, episode: int) -> int:
        """Return the number of an episode's first sample."""
        return int(self.ends[episode - 1]) if episode else 0

    def indices(self, episode: int) -> range:
        """Return the indices, among the samples that are kept, of an episode's."""
        first, end = self.first(episode), int(self.ends[episode])
        if self.kept is None:
            return range(first, end)
        return range(*self.kept.searchsorted((first, end)).tolist())

    def rows(self, table: Table, episodes: np.ndarray, every: int) -> np.ndarray:
        """Return the row of every kept sample in a table that has one row per window, -1 for none.

        ``episodes`` (E,) are the numbers by which the table knows the episodes; their samples
        start ``every`` so many frames (0: one row tells about all samples of an episode).
        """
        counts = np.diff(self.ends, prepend=0)
        begins = np.repeat(self.ends - counts, counts)
        start = (np.arange(len(begins)) - begins) * every
        # The table's rows are in order of episode and start.
        span = 1 + max(int(start.max(initial=0)), int(table.start.max(initial=0)))
        keys, wanted = table.episode * span + table.start, np.repeat(episodes, counts) * span
        wanted += start
        at = np.searchsorted(keys, wanted)
        found = np.where(np.append(keys, -1)[at] == wanted, at, -1)
        return found if self.kept is None else found[self.kept]
