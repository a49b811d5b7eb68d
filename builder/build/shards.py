"""Splitting one build over independent jobs, such as the tasks of a SLURM array.

Every job computes the same partition from the list of episodes alone, so the jobs
need not know of each other and may start at any time.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.core.errors import ConfigError
from builder.sources.base import EpisodeRef, Source

# Weighing may cost a look at every file; so many episodes are even enough by their number.
WEIGH_AT_MOST = 20_000

_SHARD = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count`` parts of a build."""

    index: int
    count: int

    @property
    def writer(self) -> str:
        """The name under which the shard writes, locks and logs."""
        return f"shard-{self.index}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``.  Raises ConfigError."""
        found = _SHARD.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"--shard takes i/n, such as 0/4 for the first of four (or nothing, inside a SLURM "
                f"array, as the last option), got {text!r}"
            )
        index, count = map(int, found.groups())
        if index >= count:
            last = f"0/{count} to {count - 1}/{count}" if count else "0/1"
            raise ConfigError(f"--shard counts from 0: it goes from {last}, got {text!r}")
        return cls(index, count)

    @classmethod
    def of_slurm_array(cls, environ: Mapping[str, str]) -> Shard:
        """Read the task's place in its SLURM array.  Raises ConfigError outside of one."""
        try:
            task, count = (int(environ[f"SLURM_ARRAY_TASK_{key}"]) for key in ("ID", "COUNT"))
            first = int(environ.get("SLURM_ARRAY_TASK_MIN", 0))
            step = int(environ.get("SLURM_ARRAY_TASK_STEP", 1))
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"--shard without i/n takes its place from a SLURM array job, and this is none "
                f"(SLURM_ARRAY_TASK_ID and _COUNT are not both set: {error}); give --shard i/n"
            ) from None
        index, rest = divmod(task - first, step) if step else (0, 1)
        if rest or not 0 <= index < count:
            raise ConfigError(
                f"task {task} is none of {count} tasks counted from {first} in steps of {step}: "
                f"submit the array as a plain range, such as --array=0-{count - 1}, or give "
                f"--shard i/n"
            )
        return cls(index, count)


def weights_of(refs: Sequence[EpisodeRef], source: Source) -> dict[str, float]:
    """Weigh episodes, by path; very many are not weighed: there are none then."""
    few = len(refs) <= WEIGH_AT_MOST
    return {ref.path: float(source.weight(ref)) for ref in refs} if few else {}


def own_refs(refs: Sequence[EpisodeRef], shard: Shard, source: Source) -> list[EpisodeRef]:
    """Return the shard's episodes, in order; all shards together have each episode once.

    Balanced by ``source.weight(ref)``; very many episodes are balanced by their number.
    """
    few = len(refs) <= WEIGH_AT_MOST
    weights = [float(source.weight(ref)) if few else 0.0 for ref in refs]
    # The heaviest first, each to the shard that has least; ids make every tie the same anywhere.
    order = sorted(range(len(refs)), key=lambda at: (-weights[at], refs[at].id))
    loads = [(0.0, 0, number) for number in range(min(shard.count, len(refs)))]
    mine = []
    for at in order:
        load, episodes, number = loads[0]
        heapq.heapreplace(loads, (load + weights[at], episodes + 1, number))
        if number == shard.index:
            mine.append(at)
    return [refs[at] for at in sorted(mine)]
