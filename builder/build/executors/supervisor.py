"""Supervising child processes: assigning tasks, stall watch, death, restart.

Executors and tracker processes share this; ``child`` has what runs in the child itself.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

from builder.build.executors.base import Function, Outcome, ProgressEvent
from builder.build.executors.child import (
    UNGUARDED,
    cause_of_death,
    describe,
    end_all,
    start_child,
    unpack,
)
from builder.core.errors import LettersetError, WorkerError

START_ATTEMPTS = 5  # in a row, before it is clear that no child can start
SUSPENDED_SECONDS = 1.0  # woken later than this, the process was suspended, not only busy
_LOOKS = 8  # at a silent child, whether it is suspended, within the time that it may be silent
START_SECONDS = 300.0  # patience with imports, which may come from a slow network disk
TASKS_PER_WORKER = 200  # then a fresh child, so that leaks of libraries stay small


class Message(NamedTuple):
    """A child's message about its task: progress, result or error; ``packed`` as it was sent."""

    kind: str
    value: Any
    packed: bytes

    @classmethod
    def error(cls, text: str) -> Message:
        """Make the message of a task whose child can no longer send one."""
        error = WorkerError(text)
        return cls("error", error, pickle.dumps(("error", (error, ""))))


class CannotStart(LettersetError):
    """START_ATTEMPTS children in a row ended before their first task; ``how`` the last one did."""

    def __init__(self, how: str, unguarded: bool = False) -> None:
        super().__init__(
            "every worker that this script starts runs the script again: put what it does under "
            "'if __name__ == \"__main__\":'"
            if unguarded
            else f"workers cannot start: the last one {how} before its first task; its own "
            f"message, if any, is above"
        )
        self.how = how


@dataclass
class FailedStarts:
    """How many children in a row ended before they were ready, of all workers that share this."""

    count: int = 0


class Worker:
    """One child process, started again when it ends, and the one task it has at a time.

    A child that dies has its task tried once more; one that is silent for ``stall_seconds``
    has not, where no time counts in which it is suspended.  ``slot`` is its number among the
    workers: see ``builder.core.worker_slot``.
    """

    waits_out_suspension = True
    pipe: Connection
    ready: bool
    """Whether the child has spoken since it was started; before that it never has a task."""
    heard: float
    """When it last spoke, or was given a task, on the monotonic clock."""

    def __init__(
        self,
        function: Function,
        stall_seconds: float,
        slot: int = 0,
        failed_starts: FailedStarts | None = None,
    ) -> None:
        self.process: BaseProcess | None = None
        self.stall_seconds = stall_seconds
        self.failed_starts = failed_starts or FailedStarts()
        self._function, self._slot = function, slot
        self._packed_task = b""
        self._died = False
        self._finished = 0

    def assign(self, packed_task: bytes) -> None:
        """Give it a pickled task; its child is started where there is none."""
        self._packed_task, self._died = packed_task, False
        if self.process is None:
            self._start()
        else:
            self.heard = time.monotonic()
            self._send()

    def _start(self) -> None:
        self.process, self.pipe = start_child(self._function, self._slot)
        self.ready, self.heard, self._finished = False, time.monotonic(), 0

    def _send(self) -> None:
        with suppress(OSError):  # receive() meets the end of a dead child's pipe
            self.pipe.send_bytes(self._packed_task)

    @property
    def deadline(self) -> float:
        """When, on the monotonic clock, silence has lasted too long."""
        return self.heard + (self.stall_seconds if self.ready else START_SECONDS)

    def patience(self, now: float) -> float:
        """How long to wait, at most, before looking at it again."""
        return min(self.deadline - now, self.stall_seconds / _LOOKS)

    def receive(self) -> Message | None:
        """Take one message of the child, or its death; None when nothing is said of the task.

        Raises CannotStart.
        """
        try:
            packed = self.pipe.recv_bytes()
        except (EOFError, OSError):
            how = cause_of_death(self.process) if self.process else "is gone"
            self.stop()
            return self.on_death(how) if self.ready else self.on_failed_start(how)
        self.ready, self.heard = True, time.monotonic()
        kind, value = unpack(packed)
        if kind == "ready":
            self.on_ready()
            self._send()
            return None
        if kind != "progress":
            self._finished += 1
            if self._finished == TASKS_PER_WORKER:
                self.stop()
        return Message(kind, value, packed)

    def on_ready(self) -> None:
        """Forget failed starts."""
        self.failed_starts.count = 0

    def on_death(self, how: str) -> Message | None:
        """Try the task once more; the second time its child dies, that is an error."""
        if self._died:
            return Message.error(f"its worker {how}; tried twice")
        self._died = True
        self._start()
        return None

    def on_failed_start(self, how: str) -> Message | None:
        """Start another child: this one never had the task.  Raises CannotStart."""
        if how.endswith(f"exit code {UNGUARDED}"):
            raise CannotStart(how, unguarded=True) from None
        self.failed_starts.count += 1
        if self.failed_starts.count >= START_ATTEMPTS:
            raise CannotStart(how)
        self._start()
        return None

    def on_silence(self) -> Message | None:
        """End a child that was silent for too long.  Raises CannotStart."""
        self.stop()
        if not self.ready:
            return self.on_failed_start(f"was silent for {START_SECONDS:g} s")
        return Message.error(
            f"stalled: no progress for {self.stall_seconds:g} s, so its worker was stopped; if it "
            f"was only slow, raise limits.stall_seconds"
        )

    def stop(self) -> None:
        """End the child, if there is one."""
        stop_all([self])


def is_suspended(process: BaseProcess | None) -> bool:
    """Tell whether a child was stopped by a signal or a debugger; False where that is unknown."""
    try:
        with open(f"/proc/{process.pid if process else 0}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


W = TypeVar("W", bound=Worker)


def stop_all(workers: Collection[Worker]) -> None:
    """End the children of workers, all at a time, within seconds."""
    running = [(worker, worker.process) for worker in workers if worker.process is not None]
    for worker, _ in running:
        worker.process = None
    end_all([process for _, process in running])
    for worker, _ in running:
        worker.pipe.close()


def watch(
    workers: Collection[W], seconds: float = math.inf, wake: Sequence[Connection] = ()
) -> Iterator[tuple[W, Message]]:
    """Wait once for messages, deaths or a silence that is too long; yields what tasks say.

    At most ``seconds``, and until a pipe of ``wake`` has something.  Raises CannotStart.
    """
    begun = time.monotonic()
    patience = max(0.0, min(seconds, *(worker.patience(begun) for worker in workers)))
    spoke = wait([*wake, *(worker.pipe for worker in workers)], patience)
    now = time.monotonic()
    if now - begun > patience + max(patience, SUSPENDED_SECONDS):
        # This process was suspended, so its children may have been as well.
        for worker in workers:
            worker.heard = now
    for worker in workers:
        message = None
        if worker.pipe in spoke:
            message = worker.receive()
        elif worker.waits_out_suspension and is_suspended(worker.process):
            worker.heard = now
        elif now >= worker.deadline:
            message = worker.on_silence()
        if message is not None:
            yield worker, message


def event_of(task: Any, kind: str, value: Any) -> Outcome | ProgressEvent:
    """Return the event that a child's message about a task is."""
    return ProgressEvent(task, *value) if kind == "progress" else Outcome(task, **{kind: value})


def next_sendable(tasks: Iterator[Any]) -> tuple[Any, bytes | None, list[Outcome]]:
    """Take the next task, also pickled: None at their end; those that cannot be are outcomes."""
    unsendable: list[Outcome] = []
    for task in tasks:
        try:
            return task, pickle.dumps(task), unsendable
        except Exception as error:
            reason = f"the task cannot be sent to a worker: {describe(error)}"
            unsendable.append(Outcome(task, error=WorkerError(reason)))
    return None, None, unsendable
