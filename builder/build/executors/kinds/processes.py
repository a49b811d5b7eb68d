"""Child processes of this machine: reused between tasks, replaced when they die.

Every child has a pipe of its own and shares no lock with the others, so one may be killed at
any instant without harm to the rest.
"""

from collections.abc import Iterable
from typing import Any

from pydantic import Field

from builder.build.executors.base import Events, Executor, Function, Outcome, ProgressEvent
from builder.build.executors.supervisor import (
    FailedStarts,
    Worker,
    event_of,
    next_sendable,
    stop_all,
    watch,
)
from builder.core.cores import available_cores
from builder.core.messages import count
from schemas.base import Record, Side


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


class Processes(Executor):
    """Runs tasks in ``workers`` spawned, single-threaded children; the default executor."""

    Config = ProcessesConfig

    def __init__(self, config: ProcessesConfig, workers: int | None, stall_seconds: float) -> None:
        self.workers = self.local_workers = workers or available_cores()
        self.stall_seconds = stall_seconds

    @property
    def notice(self) -> str | None:
        """What is worth knowing before the start."""
        cores = available_cores()
        if self.workers <= cores:
            return None
        shared = f"{count(self.workers, 'worker')} share {count(cores, 'core')}"
        return f"{shared}: more workers will not make it faster"

    def run(self, function: Function, tasks: Iterable[Any]) -> Events:
        """Yield progress and one Outcome per task; see ``builder.build.executors.base``.

        Raises LettersetError when no worker can be started at all.
        """
        tasks, failed_starts = iter(tasks), FailedStarts()
        pool = [
            Worker(function, self.stall_seconds, slot, failed_starts)
            for slot in range(self.workers)
        ]
        task_of: dict[Worker, Any] = {}
        events: list[Outcome | ProgressEvent] = []
        try:
            while True:
                for worker in pool:
                    if worker not in task_of:
                        task, packed, unsendable = next_sendable(tasks)
                        events += unsendable
                        if packed is None:
                            worker.stop()
                            continue
                        worker.assign(packed)
                        task_of[worker] = task
                # Only now, with every worker at work again: the consumer may take its time.
                yield from events
                if not task_of:
                    return
                events = []
                for worker, message in watch(list(task_of)):
                    events.append(event_of(task_of[worker], message.kind, message.value))
                    if message.kind != "progress":
                        del task_of[worker]
        finally:
            stop_all(pool)


class Serial(Processes):
    """One child at a time; never in this process, so a crash still costs one task alone."""

    def __init__(self, config: ProcessesConfig, workers: int | None, stall_seconds: float) -> None:
        super().__init__(config, 1, stall_seconds)
