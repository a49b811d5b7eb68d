"""What an executor is: it runs tasks in child processes and reports each one's outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Outcome:
    """How one task ended: a result, or an error (an exception, also for a lost worker)."""

    task: Any
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Progress:
    """A worker's sign of life."""

    task: Any
    frames_done: int
    frames_total: int


class Executor(Protocol):
    """Runs ``function(task, report)`` for many tasks; nothing a task does can end the run.

    Constructed as ``Executor(config, stall_seconds)``.
    """

    def run(
        self,
        function: Callable[[Any, Callable[[int, int], None]], Any],
        tasks: Iterable[Any],
    ) -> Iterator[Outcome | Progress]:
        """Yield progress as it is reported and one Outcome per task, in any order.

        ``function`` is picklable and is called as ``function(task, report)`` in a child
        process; it calls ``report(frames_done, frames_total)`` now and then.  A child that
        crashes, or shows no progress for ``stall_seconds``, costs that task alone.  Closing
        the iterator ends the children.
        """
        ...
