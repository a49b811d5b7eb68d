"""Samples shuffled within blocks of a few episodes: each episode is read for one short while."""

import hashlib
from collections.abc import Iterator

import numpy as np

from builder.training.sampling import WindowSampler, permutation
from builder.training.windows import WindowDataset


class BlockSampler(WindowSampler):
    """Every sample once per epoch; those of a few episodes at a time, in an order fixed by seed.

    The episodes are shuffled and put in a line, the line is cut into equally long parts for the
    ranks, and of its part a rank takes ``episodes`` at a time and shuffles their samples.  So an
    episode is read by one rank (one at a cut by two), and only while its block lasts: fetched whole
    from a URL, an epoch costs each byte once.  As with a :class:`WindowSampler`, all ranks get
    equally many samples, and the last few of an epoch are left out when they do not divide.

    A batch holds samples of at most ``episodes`` episodes, or twice as many where blocks meet: give
    as many as the model needs to see at a time.  Workers of a DataLoader read the same block, batch
    by batch.  ``set_epoch``, ``state_dict`` and ``load_state_dict`` are a :class:`WindowSampler`'s.
    """

    facts = ("length", "seed", "world_size", "episodes", "lengths")

    def __init__(
        self,
        windows: WindowDataset,
        *,
        episodes: int = 32,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Sample ``windows``, ``episodes`` at a time.

        Raises ValueError for an impossible rank and for fewer than one episode at a time.
        """
        super().__init__(len(windows), seed=seed, rank=rank, world_size=world_size)
        if episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {episodes}")
        self.episodes, self._last = episodes, windows.episode_ends
        self.lengths = hashlib.sha256(self._last.tobytes()).hexdigest()

    def __iter__(self) -> Iterator[int]:
        begin, self._done = self._done, 0
        count = len(self._last)
        order = permutation(count, (self.seed, self.epoch, 2))(np.arange(count))
        # Where each episode begins among all samples, and where it ends in the line.
        counts = np.diff(self._last, prepend=0)[order]
        first, line = (self._last[order] - counts), np.cumsum(counts)
        start, stop = self.rank * len(self), (self.rank + 1) * len(self)
        at = int(line.searchsorted(start, side="right"))
        while start < stop:
            end = min(stop, int(line[min(at + self.episodes, len(line)) - 1]))
            if start + begin < end:
                shuffled = permutation(end - start, (self.seed, self.epoch, 3, self.rank, at))
                places = start + shuffled(np.arange(begin, end - start))
                episode = line.searchsorted(places, side="right")
                inside = places - (line - counts)[episode]
                yield from (first[episode] + inside).tolist()
            begin = max(0, begin - (end - start))
            start, at = end, at + self.episodes
