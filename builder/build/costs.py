"""A cost model of a build: fitted on a probe of a few episodes, then scaled to any size.

Seconds and bytes are linear in frames, with a constant per episode; the numbers come from
``builder.build.estimate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Costs:
    """What a build takes by unit.  Seconds are of one worker, frames are of single views.

    ``frames_error`` is the relative standard error of ``frames``, 0 where they were counted.
    ``cpu_share`` below 1 means that the probe waited, for a device, a disk or other programs,
    and that on an idle machine the seconds may be fewer.
    """

    episodes: int
    probed: int
    frames: float
    frames_error: float
    fps: float
    frame_seconds: Mapping[str, float]
    episode_seconds: float
    frame_bytes: float
    episode_bytes: float
    source_frame_bytes: float
    cpu_share: float
    device: str
    disk_bytes_per_second: float
    syncs_per_second: float

    def estimate(self, episodes: float | None = None, hours: float | None = None) -> Estimate:
        """Scale to all episodes of the source, to a number of episodes, or to hours of video."""
        length = self.frames / self.episodes
        if hours is not None:
            frames = hours * 3600 * self.fps
            episodes = frames / length
        else:
            episodes = self.episodes if episodes is None else episodes
            frames = episodes * length
        stages = {name: each * frames / 3600 for name, each in self.frame_seconds.items()}
        stages["per episode"] = self.episode_seconds * episodes / 3600
        total = sum(stages.values())
        size = self.frame_bytes * frames + self.episode_bytes * episodes
        return Estimate(
            episodes=round(episodes),
            frames=round(frames),
            video_hours=frames / self.fps / 3600,
            worker_hours=total,
            stage_hours=stages,
            gpu_hours=stages.get("track", 0.0) if self.device != "cpu" else 0.0,
            bytes=round(size),
            files=round(episodes),
            read_bytes=round(self.source_frame_bytes * frames),
            workers_until=self._limits(total * 3600, size, frames, episodes),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the costs as JSON data."""
        return asdict(self)

    def _limits(
        self, seconds: float, size: float, frames: float, episodes: float
    ) -> dict[str, float]:
        """Return how many workers keep each shared thing busy; more gain nothing."""
        read = self.source_frame_bytes * frames
        return {
            "writing to the output disk": self.disk_bytes_per_second * seconds / max(1.0, size),
            "reading the source at the same rate": self.disk_bytes_per_second
            * seconds
            / max(1.0, read),
            "listing episodes (one writer)": self.syncs_per_second * seconds / max(1.0, episodes),
        }


@dataclass(frozen=True)
class Estimate:
    """A build of some size.  ``workers_until`` tells what holds back more than so many."""

    episodes: int
    frames: int
    video_hours: float
    worker_hours: float
    stage_hours: dict[str, float]
    gpu_hours: float
    bytes: int
    files: int
    read_bytes: int
    workers_until: dict[str, float]

    @property
    def first_bottleneck(self) -> str:
        """What is exhausted first as workers are added."""
        return min(self.workers_until, key=lambda name: self.workers_until[name])

    def as_json(self) -> dict[str, Any]:
        """Return the estimate as JSON data."""
        return {**asdict(self), "first_bottleneck": self.first_bottleneck}
