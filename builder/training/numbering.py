"""Which of all windows a sample is: samples are numbered through, episode by episode."""

from __future__ import annotations

import numpy as np


class Numbering:
    """The samples of some episodes; a filter may keep some of them.

    What a filter drops has a number too: whatever a sample draws by its number stays the same.
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
        """Return the number of a sample that is kept."""
        return index if self.kept is None else int(self.kept[index])

    def episode(self, number: int) -> int:
        """Return the place of the episode that a sample is of."""
        return int(self.ends.searchsorted(number, side="right"))

    def first(self, episode: int) -> int:
        """Return the number of an episode's first sample."""
        return int(self.ends[episode - 1]) if episode else 0

    def indices(self, episode: int) -> range:
        """Return which of the samples that are kept are an episode's."""
        first, end = self.first(episode), int(self.ends[episode])
        if self.kept is None:
            return range(first, end)
        return range(*self.kept.searchsorted((first, end)).tolist())
