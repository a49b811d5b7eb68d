"""Which sample comes when: shuffled without a list, split over ranks, resumable anywhere."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import Sampler

from builder.core.errors import ConfigError
from builder.dataset.filters import Expression
from builder.dataset.window_table import COLUMNS
from builder.training.windows import WindowDataset

_ROUNDS = 4
_AT_ONCE = 1024
"""Samples drawn together: one by one, drawing took a fifth of what a batch costs its process."""

Weigh = str | Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""An expression such as ``motion``, or a function of all columns by name, (n,) each, to (n,)."""

Order = Callable[[np.ndarray], np.ndarray]
"""Which indices come at some positions, both (n,) int64."""


class WindowSampler(Sampler[int]):
    """Every index once per epoch, or as often as its weight says, in an order fixed by seed.

    The order is a keyed permutation, computed some indices at a time, so that 10^9 windows cost no
    memory.  Rank r of n takes every n-th of it; all ranks get equally many, the last few
    indices of an epoch are left out when they do not divide.  Pass it to a DataLoader, call
    ``set_epoch``, and keep ``state_dict`` with a checkpoint: ``load_state_dict`` goes on with the
    next sample.  A DataLoader with workers reads ahead, so tell ``state_dict`` how many samples
    were really trained on.

    With ``weights`` (see ``window_weights``) an epoch is as long as without, and
    index i comes ``length * weights[i] / sum(weights)`` times, rounded up or down at random: a
    systematic sample, which strays less from the weights than independent draws.  Equal weights
    give every index once.  That takes 8 bytes per index.
    """

    facts: ClassVar[tuple[str, ...]] = ("length", "seed", "shuffle", "world_size", "weights")
    """What has to be the same to resume."""

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        weights: Any = None,
    ) -> None:
        """Sample ``range(length)``; ``weights`` is None or (length,) numbers, none below 0.

        Raises ValueError for an impossible rank and for impossible weights.
        """
        if not hasattr(length, "__index__"):
            raise TypeError(f"length is a number of samples, len(windows); got {length!r:.80}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be within [0, {world_size}), got {rank}")
        if length < world_size:
            raise ValueError(f"{length} samples cannot be shared by {world_size} ranks")
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = self._done = 0
        self._ends = None if weights is None else _cumulative(weights, length)
        self.weights = (
            None if self._ends is None else hashlib.sha256(self._ends.tobytes()).hexdigest()
        )

    def __repr__(self) -> str:
        weighted = ", weighted" if self.weights else ""
        return (
            f"{type(self).__name__}({len(self)} of {self.length} samples{weighted}, "
            f"rank {self.rank} of {self.world_size}, epoch {self.epoch})"
        )

    def __len__(self) -> int:
        return self.length // self.world_size

    def __iter__(self) -> Iterator[int]:
        order = permutation(self.length, (self.seed, self.epoch)) if self.shuffle else np.copy
        if self._ends is not None:
            order = self._weighted(order, self._ends)
        begin, self._done = self._done, 0
        for first in range(begin, len(self), _AT_ONCE):
            positions = np.arange(first, min(first + _AT_ONCE, len(self)))
            yield from order(positions * self.world_size + self.rank).tolist()

    def _weighted(self, order: Order, ends: np.ndarray) -> Order:
        """Let every index have a share of the positions, and cut them all at one random place."""
        offset = np.random.default_rng((self.seed, self.epoch, 1)).random()
        width, last = ends[-1] / self.length, int(np.argmax(ends == ends[-1]))

        def draw(positions: np.ndarray) -> np.ndarray:
            places = np.searchsorted(ends, (order(positions) + offset) * width, side="right")
            return np.minimum(places, last)  # the sum is rounded

        return draw

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from its first sample on; one that was loaded goes on where it was."""
        if epoch != self.epoch:
            self.epoch, self._done = epoch, 0

    def state_dict(self, samples_done: int) -> dict[str, Any]:
        """Describe where training is: ``samples_done`` of this rank in this epoch, from its start.

        Raises ValueError for a number below 0.
        """
        if samples_done < 0:
            raise ValueError(f"samples_done must be 0 or more, got {samples_done}")
        facts = {name: getattr(self, name) for name in self.facts}
        return {**facts, "epoch": self.epoch, "samples_done": samples_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.  Raises ValueError when the sampler is not the same."""
        for name in self.facts:
            if state.get(name) != getattr(self, name):
                raise ValueError(
                    f"cannot resume: {name} was {state.get(name)}, now it is {getattr(self, name)}"
                )
        self.epoch, self._done = state["epoch"], state["samples_done"]


def window_weights(windows: WindowDataset, by: Weigh = "motion") -> np.ndarray:
    """Return how often to draw each sample, (len(windows),) float64, by ``letterset stats``.

    ``by`` is an expression over the columns, ``motion`` (mean step of visible points, px) or
    ``motion * vis + 0.1``, or a function of them.  The views of a window count together; one with
    nothing to count (NaN), or without a row in the table, gets 0.  Raises ConfigError for a bad
    expression, DatasetError when the table is missing or out of date.
    """
    if isinstance(by, str):
        expression = Expression(by, COLUMNS)
        table = windows.window_table(expression.names)
        found = expression.values(table.columns)
    else:
        table = windows.window_table(COLUMNS)
        found = np.asarray(by(table.columns), np.float64)
    if found.shape != table.start.shape:
        raise ConfigError(f"expected one weight per row, {table.start.shape}, got {found.shape}")
    return np.append(np.nan_to_num(found), 0.0)[windows.rows(table)]


def _cumulative(weights: Any, length: int) -> np.ndarray:
    found = np.asarray(weights, np.float64)
    if found.shape != (length,):
        raise ValueError(f"weights must be ({length},), one per sample, got {found.shape}")
    if not (np.isfinite(found).all() and (found >= 0).all() and found.any()):
        raise ValueError("weights must be finite, none below 0 and not all 0")
    return np.cumsum(found)


def permutation(length: int, key: tuple[int, ...]) -> Order:
    """Return a pseudorandom bijection of ``range(length)``, fixed by ``key``; it maps (n,) int64.

    A Feistel network over the next even power of two, walked until it lands inside (Black
    and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
    """
    half = np.uint64(max(1, ((length - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.default_rng(key).integers(1 << 62, size=_ROUNDS).astype(np.uint64)

    def once(values: np.ndarray) -> np.ndarray:
        left, right = values >> half, values & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        return (left << half) | right

    def walk(indices: np.ndarray) -> np.ndarray:
        values = once(indices.astype(np.uint64))
        while (outside := values >= length).any():
            values[outside] = once(values[outside])
        return values.astype(np.int64)

    return walk


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble 64 bits (the finalizer of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
