"""What an executor is: it runs tasks in child processes and reports each one's outcome."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from builder.core.registry import Backends

ReportProgress = Callable[[int, int], None]
"""``report(frames_done, frames_total)``: what a task calls to tell how far it is."""

Function = Callable[[Any, ReportProgress], Any]
"""What is done to each task, in a child process: picklable; a task in, its result out."""


@dataclass(frozen=True)
class Outcome:
    """How one task ended: a result, or an error (an exception, also for a lost worker)."""

    task: Any
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class ProgressEvent:
    """What a task reported of how far it is."""

    task: Any
    frames_done: int
    frames_total: int


Events = Generator[Outcome | ProgressEvent, None, None]
"""What a run yields; closing it ends the run."""


class Executor(ABC):
    """Runs ``function(task, report)`` for many tasks; nothing a task does can end the run.

    Constructed as ``Executor(config, workers, stall_seconds)``: its own settings, how many
    children work at a time (None: one per core it may use) and the patience with a silent one.
    """

    @property
    def notice(self) -> str | None:
        """One sentence that a user should read before the run starts."""
        return None

    @abstractmethod
    def run(self, function: Function, tasks: Iterable[Any]) -> Events:
        """Yield progress as it is reported and one Outcome per task, in any order.

        ``function`` is picklable and is called as ``function(task, report)`` in a child
        process; it calls ``report(frames_done, frames_total)`` as often as it likes.  Tasks
        are pulled as workers get free, never many ahead.

        An exception raised by ``function`` is the outcome's error, as itself if it can be
        pickled, else as a WorkerError that keeps its text; it is not tried again.  A child
        that dies costs its task alone: the task is tried once more, then its error is a
        WorkerError with the signal or exit code.  A child without a report for
        ``stall_seconds`` is ended and its task's error is a WorkerError that says so.

        Closing the iterator ends the children within seconds: do so, for example with
        ``contextlib.closing``, also when an exception ends the loop early.
        """


EXECUTORS: Backends[Executor] = Backends("executors", Executor)
