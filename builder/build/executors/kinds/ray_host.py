"""What runs in an actor of a Ray cluster: one child process at a time and the job it has."""

from __future__ import annotations

import pickle
import secrets
import sys
import time

from builder.build.executors.child import START_ATTEMPTS, Child, end_all, unpack
from builder.build.executors.kinds.processes import START_SECONDS, TASKS_PER_WORKER, stalled
from builder.core.errors import WorkerError

POLL_SECONDS = 1.0  # an actor answers at least so often; progress comes no more often


class Host:
    """One child, which keeps its backends from job to job, and the job it has."""

    def __init__(self, packed_function: bytes, stall_seconds: float) -> None:
        # Spawned children would load Ray's own main module, which takes seconds.
        main = sys.modules["__main__"]
        main.__spec__ = None
        main.__dict__.pop("__file__", None)
        self._function = pickle.loads(packed_function)
        self._stall_seconds = stall_seconds
        self._life = secrets.token_hex(8)
        self._child: Child | None = None
        self._number = -1
        self._died = False
        self._answer: list[bytes] = []
        self._failed_starts = 0
        self._finished = 0

    def advance(self, number: int, packed_task: bytes) -> tuple[str, list[bytes]]:
        """Begin a job, or return what is heard of it within a second once it is begun.

        Numbers only rise.  Ray may repeat a call, on a restarted actor or on this one, and late:
        what is over is told again, and an older job is left alone.  The call that begins a job
        answers at once: should the job end the actor, its life is known and is counted.
        """
        if number < self._number:
            return self._life, []
        if number > self._number:
            if not self._answer:  # the child may still be at a job that a late call began
                self.close()
            self._number, self._died, self._answer = number, False, []
            self._begin(packed_task)
            return self._life, []
        return self._life, self._answer or self._listen(packed_task)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            end_all([self._child])
            self._child = None

    def _begin(self, packed_task: bytes) -> Child:
        if self._child is None:
            self._child, self._finished = Child(self._function), 0
        self._child.heard = time.monotonic()
        self._child.send_packed(packed_task)
        return self._child

    def _listen(self, packed_task: bytes) -> list[bytes]:
        child = self._child or self._begin(packed_task)
        until = time.monotonic() + POLL_SECONDS
        latest: list[bytes] = []
        while (left := until - time.monotonic()) > 0 and child.pipe.poll(left):
            try:
                packed = child.receive_packed()
            except (EOFError, OSError):
                return self._mourn(child)
            kind, _ = unpack(packed)
            if kind == "progress":
                latest = [packed]
            elif kind != "ready":
                self._finished, self._failed_starts = self._finished + 1, 0
                if self._finished == TASKS_PER_WORKER:
                    self.close()
                return self._over([*latest, packed])
        patience = self._stall_seconds if child.ready else START_SECONDS
        if time.monotonic() - child.heard < patience:
            return latest
        self.close()
        return self._over([_error(stalled(patience))])

    def _over(self, messages: list[bytes]) -> list[bytes]:
        self._answer = messages
        return messages

    def _mourn(self, child: Child) -> list[bytes]:
        """Have a job begun once more; the second time it is an error."""
        how = child.cause_of_death()
        self.close()
        if not child.ready:  # it never had the job, which may yet be tried twice
            self._failed_starts += 1
            if self._failed_starts < START_ATTEMPTS:
                return []
            reason = f"its worker {how} before its first task, time and again"
            return self._over([_error(WorkerError(reason))])
        self._failed_starts = 0
        if self._died:
            return self._over([_error(WorkerError(f"its worker {how}; tried twice"))])
        self._died = True
        return []


def _error(error: WorkerError) -> bytes:
    return pickle.dumps(("error", (error, "")))
