"""How far a build is: episodes and frames done, and the share of the work."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from builder.build.executors.base import Outcome, ProgressEvent


class Tally:
    """What has been done so far, of ``todo`` episodes.

    ``weights`` say how much work each is, by path, in one unit for all; without, they are alike.
    """

    def __init__(self, todo: int, weights: Mapping[str, float] | None = None) -> None:
        self.todo, self.done, self.failed = todo, 0, 0
        self._frames, self._work = 0, 0.0
        self.weights = weights or {}
        self.running: dict[str, tuple[int, int]] = {}
        """By episode, one per worker: frames done and to do."""

    def count(self, event: Outcome | ProgressEvent) -> None:
        """Take an executor's event into account."""
        name = label(event.task)
        if isinstance(event, ProgressEvent):
            # A task that is tried again starts from 0, and so does its share here.
            self.running[name] = (event.frames_done, event.frames_total)
            return
        frames, _ = self.running.pop(name, (0, 0))
        self._frames += frames
        self._work += self._weight(name)
        self.done += 1
        self.failed += event.error is not None

    @property
    def frames(self) -> int:
        """Frames finished, those of running episodes included."""
        return self._frames + sum(done for done, _ in self.running.values())

    @property
    def share(self) -> float:
        """Share of the work that is done, 0 to 1, running episodes by their frames."""
        running = sum(
            self._weight(name) * done / max(1, total)
            for name, (done, total) in self.running.items()
        )
        return min(1.0, (self._work + running) / (self._total or self.todo or 1))

    @cached_property
    def _total(self) -> float:
        return sum(self.weights.values())

    def _weight(self, name: str) -> float:
        return self.weights.get(name, 0.0) if self._total else 1.0


def label(task: Any) -> str:
    """Name a task for people: its episode's path, where it has one."""
    return str(getattr(getattr(task, "ref", None), "path", task))
