"""What an executor is: it runs tasks in child processes and reports each one's outcome."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from builder.core.errors import ConfigError, OutputError, SourceError
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

    def failure(self) -> tuple[str, str]:
        """Return the stage and the reason of a failure of this one input.

        Raises the error itself where every further input would meet the same.
        """
        if self.error is None or isinstance(self.error, OutputError | ConfigError):
            raise self.error or ValueError("the task did not fail")
        if isinstance(self.error, SourceError):
            return self.error.stage, str(self.error)
        what = f"{type(self.error).__name__}: {self.error}"
        return "internal", f"{what} (a bug in letterset; please report it)"


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

    local_workers: int | None = None
    """How many children work at a time if all of them do on this machine; else None."""

    on_notice: Callable[[str], None] = staticmethod(lambda sentence: None)
    """What a user should read while a run goes on, a sentence at a time; set by who runs it."""

    @property
    def notice(self) -> str | None:
        """One sentence that a user should read before the run starts."""
        return None

    @abstractmethod
    def run(self, function: Function, tasks: Iterable[Any]) -> Events:
        """Yield progress as it is reported and one Outcome per task, in any order.

        ``function`` is picklable and is called as ``function(task, report)`` in a child
        process; it calls ``report(frames_done, frames_total)`` as often as it likes, and what
        takes long in between calls ``builder.core.working.still_working()``, which reports again.
        Tasks are pulled as workers get free, never many ahead.

        An exception raised by ``function`` is the outcome's error, as itself if it can be
        pickled, else as a WorkerError that keeps its text; it is not tried again, but perhaps on
        another host, where that host may be to blame.  A child
        that dies costs its task alone: the task is tried once more, then its error is a
        WorkerError with the signal or exit code.  A child without a report for
        ``stall_seconds`` is ended and its task's error is a WorkerError that says so.

        Closing the iterator ends the children within seconds: do so, for example with
        ``contextlib.closing``, also when an exception ends the loop early.
        """


EXECUTORS: Backends[Executor] = Backends("executors", Executor)
