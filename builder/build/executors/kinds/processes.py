"""Child processes of this machine: reused between tasks, replaced when they die.

Every child has a pipe of its own and shares no lock with the others, so one may be killed at
any instant without harm to the rest.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from pydantic import Field

from builder.build.executors.base import Function, Outcome, Progress
from builder.build.executors.child import START_ATTEMPTS, Child, available_cores, describe, end_all
from builder.core.errors import LettersetError, WorkerError
from builder.core.messages import count
from schemas.base import Record, Side

TASKS_PER_WORKER = 200  # then a fresh one, so that a library's leak stays small
START_SECONDS = 300.0  # patience with imports, which may come from a slow network disk


class ProcessesConfig(Record):
    """Settings of the ``processes`` and ``serial`` executors."""

    trackers: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="processes that hold a tracker, one per GPU, fed by all workers, which decode "
        "and write; 0: every worker holds its own",
    )
    ahead: Side = Field(default=8, description="frames of a view on their way to such a process")


class Processes:
    """Runs tasks in ``workers`` spawned, single-threaded children; the default executor."""

    Config = ProcessesConfig

    def __init__(self, config: ProcessesConfig, workers: int | None, stall_seconds: float) -> None:
        self.workers = workers or available_cores()
        self.stall_seconds = stall_seconds

    @property
    def notice(self) -> str | None:
        """What is worth knowing before the start."""
        cores = available_cores()
        if self.workers <= cores:
            return None
        shared = f"{count(self.workers, 'worker')} share {count(cores, 'core')}"
        return f"{shared}: more workers will not make it faster"

    def run(self, function: Function, tasks: Iterable[Any]) -> Iterator[Outcome | Progress]:
        """Yield progress and one Outcome per task; see ``builder.build.executors.base``.

        Raises LettersetError when no worker can be started at all.
        """
        jobs = _Jobs(tasks)
        crew: list[_Worker] = []
        try:
            while True:
                while len(crew) < self.workers and (job := jobs.next()) is not None:
                    free = set(range(self.workers)) - {worker.child.slot for worker in crew}
                    crew.append(_Worker(Child(function, min(free)), job))
                if not crew:
                    return
                yield from self._listen(crew, jobs)
        finally:
            end_all(worker.child for worker in crew)

    def _listen(self, crew: list[_Worker], jobs: _Jobs) -> Iterator[Outcome | Progress]:
        """Wait once for messages, or for a silence that is too long, and deal with them."""
        patience = min(self._deadline(worker) for worker in crew) - time.monotonic()
        spoke = wait([worker.child.pipe for worker in crew], max(0.0, patience))
        now = time.monotonic()
        events: list[Outcome | Progress] = []
        for worker in list(crew):
            if worker.child.pipe in spoke:
                events += _hear(worker, jobs)
            elif now >= self._deadline(worker):
                events += self._give_up(worker, jobs)
            if worker.job is None:
                crew.remove(worker)
                end_all([worker.child])
        # Only now, with everybody at work again: the consumer may take its time.
        yield from events

    def _deadline(self, worker: _Worker) -> float:
        child = worker.child
        return child.heard + (self.stall_seconds if child.ready else START_SECONDS)

    def _give_up(self, worker: _Worker, jobs: _Jobs) -> list[Outcome]:
        """Take the job from a worker that has been silent for too long."""
        job = worker.lose_job()
        if not worker.child.ready:
            jobs.not_started(job, f"was silent for {START_SECONDS:g} s")
            return []
        return [Outcome(job.task, error=stalled(self.stall_seconds))]


class Serial(Processes):
    """One child at a time; never in this process, so a crash still costs one task alone."""

    def __init__(self, config: ProcessesConfig, workers: int | None, stall_seconds: float) -> None:
        super().__init__(config, 1, stall_seconds)


def stalled(seconds: float) -> WorkerError:
    """Make the error of a task whose worker was silent for too long."""
    return WorkerError(
        f"stalled: no progress for {seconds:g} s, so its worker was stopped; if it was only slow, "
        f"raise limits.stall_seconds"
    )


@dataclass
class _Job:
    task: Any
    died: bool = False  # a worker died with it once


@dataclass
class _Worker:
    """A child and the job it has, or is going to get once it is ready; None ends it."""

    child: Child
    job: _Job | None
    finished: int = 0

    def lose_job(self) -> _Job:
        job, self.job = self.job, None
        if job is None:
            raise RuntimeError("a worker without a job is still listened to")
        return job


class _Jobs:
    """Jobs to come: those to be tried again first, then tasks as they are asked for."""

    def __init__(self, tasks: Iterable[Any]) -> None:
        self._fresh = (_Job(task) for task in tasks)
        self._again: deque[_Job] = deque()
        self._failed_starts = 0

    def next(self) -> _Job | None:
        return self._again.popleft() if self._again else next(self._fresh, None)

    def put_back(self, job: _Job) -> None:
        self._again.append(job)

    def started(self) -> None:
        self._failed_starts = 0

    def not_started(self, job: _Job, how: str) -> None:
        """Put the job back; raise LettersetError when no worker starts time and again."""
        self._failed_starts += 1
        if self._failed_starts >= START_ATTEMPTS:
            raise LettersetError(
                f"workers cannot start: the last one {how} before its first task; its own "
                f"message, if any, is above. A script that starts a build needs the guard "
                f"'if __name__ == \"__main__\":' around it"
            )
        self.put_back(job)


def _hear(worker: _Worker, jobs: _Jobs) -> list[Outcome | Progress]:
    """Take one message of a worker and give it the next job where it has none."""
    job = worker.lose_job()
    try:
        kind, value = worker.child.receive()
    except (EOFError, OSError):
        return _mourn(worker.child, job, jobs)
    if kind == "progress":
        worker.job = job
        return [Progress(job.task, *value)]
    if kind == "ready":
        jobs.started()
        return _employ(worker, job, jobs)
    worker.finished += 1
    done = Outcome(job.task, **{kind: value})
    if worker.finished == TASKS_PER_WORKER:
        return [done]
    return [done, *_employ(worker, jobs.next(), jobs)]


def _employ(worker: _Worker, job: _Job | None, jobs: _Jobs) -> list[Outcome | Progress]:
    """Send the worker a job; one that cannot be sent is an outcome and the next is taken."""
    unsent: list[Outcome | Progress] = []
    while job is not None:
        try:
            worker.child.send(job.task)
            worker.job = job
            break
        except Exception as error:
            reason = f"the task cannot be sent to a worker: {describe(error)}"
            unsent.append(Outcome(job.task, error=WorkerError(reason)))
            job = jobs.next()
    return unsent


def _mourn(child: Child, job: _Job, jobs: _Jobs) -> list[Outcome | Progress]:
    """Put a dead child's job back to be tried once more; the second time it is an outcome."""
    how = child.cause_of_death()
    if not child.ready:
        jobs.not_started(job, how)
    elif job.died:
        return [Outcome(job.task, error=WorkerError(f"its worker {how}; tried twice"))]
    else:
        job.died = True
        jobs.put_back(job)
    return []
