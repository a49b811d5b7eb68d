"""Parts of a few episodes built for real, from several places of each: what a frame costs there.

Beginnings alone mislead: many videos begin dark, or stand still.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from builder.build.backends import open_executor, open_store
from builder.build.episode import Job, build_episode
from builder.build.executors.base import Outcome
from builder.sources.base import EpisodeRef
from builder.sources.clips import part_of
from schemas.config import BuildConfig, ExecutorPart

PROBED_FRAMES = (16, 80)  # of each view
PROBED_PLACES = 8
"""Places of all episodes together, at least one of each."""

# Multiples of it, modulo 1, are spread evenly, however many there are.
_GOLDEN = (5**0.5 - 1) / 2


class Place(NamedTuple):
    """Where an episode of ``length`` frames is probed: from frame ``first`` on."""

    ref: EpisodeRef
    first: int
    length: int

    @property
    def id(self) -> str:
        """The id under which it is built."""
        return self.part(1).id

    def part(self, most: int) -> EpisodeRef:
        """Return the ref of at most so many of its frames."""
        return part_of(self.ref, self.first, min(self.length, self.first + most), self.length)


def probes(episodes: Sequence[tuple[EpisodeRef, int]]) -> list[Place]:
    """Choose places of episodes, each given with its number of frames: other ones of each."""
    most = max(PROBED_FRAMES)
    each = -(-PROBED_PLACES // max(1, len(episodes)))
    found = []
    for number, (ref, length) in enumerate(episodes):
        places = min(each, max(1, length // most))
        for at in range(places):
            share = (at + _GOLDEN * (number + 1) % 1) / places
            found.append(Place(ref, int(share * max(0, length - most + 1)), length))
    return found


def build_probes(
    config: BuildConfig, places: Sequence[Place], folder: Path
) -> list[dict[str, dict[str, float]]]:
    """Build each place short and long; returns seconds, frames and bytes of each, by id."""
    # The first build of a process is slow: imports, weights, caches.  It does not count.
    rounds = [(folder / "warm", PROBED_FRAMES[0], places[:1])]
    rounds += [(folder / str(most), most, places) for most in PROBED_FRAMES]
    jobs = [Job(_at(config, out), place.part(most)) for out, most, own in rounds for place in own]
    found: dict[str, dict[str, dict[str, float]]] = {str(out): {} for out, _, _ in rounds}
    executor, _ = open_executor(ExecutorPart(kind="serial"), config.limits)
    for event in executor.run(build_episode, jobs):
        if isinstance(event, Outcome) and event.error is None:
            job, built = event.task, event.result
            counts = {"frames": built.frames, "bytes": _stored_bytes(job), "cpu": built.cpu_seconds}
            found[job.config.store.path][job.ref.id] = {**built.seconds, **counts}
    return [found[str(out)] for out, _, _ in rounds[1:]]


def _at(config: BuildConfig, out: Path) -> BuildConfig:
    return config.model_copy(update={"store": config.store.model_copy(update={"path": str(out)})})


def _stored_bytes(job: Job) -> int:
    """Bytes on disk of an episode that was built: of its own files, the next is being written."""
    path = open_store(job.config).path(job.ref.id)
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


class FrameCosts(NamedTuple):
    """What a frame costs at one place."""

    bytes: float
    seconds: float


def frame_costs(
    short: Mapping[str, float], long: Mapping[str, float], stages: Collection[str]
) -> FrameCosts:
    """Return the cost of a frame at a place that was built at two lengths; NaN of one length."""
    extra = long["frames"] - short["frames"] or np.nan
    seconds = sum(long[key] - short[key] for key in stages)
    return FrameCosts((long["bytes"] - short["bytes"]) / extra, seconds / extra)


def standard_error(values: Sequence[float]) -> float | None:
    """Return the relative standard error of the mean; None where a spread cannot be told."""
    known = _known(values)
    if len(known) < 2:
        return None
    return float(known.std(ddof=1) / max(1e-12, known.mean()) / len(known) ** 0.5)


def value_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the most of the values that are known, zeros of none."""
    known = _known(values)
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


def _known(values: Sequence[float]) -> np.ndarray:
    found = np.array(values, np.float64)
    return found[np.isfinite(found)]
