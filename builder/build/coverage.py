"""What builds of a dataset left undone: runs that stopped with work left, shards that never ran."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from builder.build.run_log import log_paths, read_log
from builder.core.messages import count

_SHARD = re.compile(r"shard-(\d{1,9})-of-(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class _Run:
    """The latest run of a writer; ``at`` is when it began, as the name of its log has it."""

    writer: str
    at: str
    left: int
    how: str
    listed: int | None


@dataclass(frozen=True)
class _Build:
    """A build in one piece or in ``parts`` shards: the latest run of each that has come."""

    parts: int
    runs: dict[int, _Run]

    @property
    def missing(self) -> list[int]:
        return [part for part in range(self.parts) if part not in self.runs]

    @property
    def complete(self) -> bool:
        return not self.missing and not any(run.left for run in self.runs.values())

    @property
    def began(self) -> str:
        return min((run.at for run in self.runs.values()), default="")

    @property
    def listed(self) -> int | None:
        """How many episodes the source had, at the latest run that knew."""
        runs = sorted(self.runs.values(), key=lambda run: run.at, reverse=True)
        return next((run.listed for run in runs if run.listed is not None), None)


def undone(folder: Path) -> list[str]:
    """Say what builds of a dataset left undone, and what to do; for when no writer is at work.

    A writer whose latest run ended before its last episode is told, and so are the shards of
    ``n`` of which others came: unless a complete build did the same since, or of as many episodes.
    """
    builds = _builds(folder)
    complete = [build for build in builds if build.complete]
    told = []
    for build in builds:
        for run in build.runs.values():
            if run.left and not any(other.began > run.at for other in complete):
                name = "the last run" if run.writer == "main" else run.writer
                told.append(
                    f"{name} {run.how} with {count(run.left, 'episode')} to do: run it again"
                )
        if build.missing and not any(_covers(other, build) for other in complete):
            came = f"{len(build.runs)} of {count(build.parts, 'shard')} came"
            told.append(
                f"{came}, without {_ranges(build.missing)}: run them, or the same build "
                "without --shard"
            )
    return told


def lacking(folder: Path, there: int) -> int:
    """How many episodes of the source are missing where ``there`` were built or failed.

    By the listing of the latest run; at least so many, since what is there may be of others too.
    """
    runs = [run for build in _builds(folder) for run in build.runs.values()]
    listed = max(runs, key=lambda run: run.at).listed if runs else None
    return max(0, (listed or 0) - there)


def _builds(folder: Path) -> list[_Build]:
    latest: dict[str, _Run] = {}
    for path in log_paths(folder):  # the oldest first
        if (log := read_log(path)) is not None:
            ended = log.last.event == "end"
            how = f"stopped ({log.last.how[:200]})" if ended else "was killed"
            left = log.start.todo - log.last.done - log.last.failed
            writer = log.start.writer
            latest[writer] = _Run(writer, path.name, max(0, left), how, log.start.listed)
    builds = [_Build(1, {0: latest["main"]})] if "main" in latest else []
    shards: defaultdict[int, dict[int, _Run]] = defaultdict(dict)
    # A lock tells of a shard that came too early to an end for a log.
    for writer in {*latest, *(path.stem for path in (folder / "index").glob("*.lock"))}:
        if found := _SHARD.fullmatch(writer):
            index, parts = map(int, found.groups())
            shards[parts].update({index: latest[writer]} if writer in latest else {})
    return [*builds, *(_Build(parts, dict(sorted(shards[parts].items()))) for parts in shards)]


def _covers(complete: _Build, other: _Build) -> bool:
    """Tell whether a complete build did what another was to do."""
    if complete.listed is not None and other.listed is not None:
        return complete.listed >= other.listed
    return complete.began > max((run.at for run in other.runs.values()), default="")


def _ranges(numbers: list[int]) -> str:
    """Write sorted numbers shortly: 3, 5 to 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(first) if first == last else f"{first} to {last}" for first, last in runs]
    return ", ".join(words[:20]) + (", ..." if len(words) > 20 else "")
