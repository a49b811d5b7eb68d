"""What runs in an actor of a Ray cluster: one child process at a time and the job it has."""

import pickle
import platform
import secrets
import sys
import time

import ray

from builder.build.executors.supervisor import CannotStart, Message, Worker, watch

Answer = tuple[str, str, str, list[bytes]]
"""Of an actor: its life, its node's id and host name, and what is heard of its job."""

POLL_SECONDS = 1.0  # an actor answers at least so often; progress comes no more often


class Host:
    """One child, which keeps its backends from job to job, and the job it has."""

    def __init__(self, packed_function: bytes, stall_seconds: float) -> None:
        # Spawned children would load Ray's own main module, which takes seconds.
        main = sys.modules["__main__"]
        main.__spec__ = None
        main.__dict__.pop("__file__", None)
        self._worker = Worker(pickle.loads(packed_function), stall_seconds)
        self._life = secrets.token_hex(8)
        self._node = ray.get_runtime_context().get_node_id()
        self._number = -1
        self._answer: list[bytes] = []

    def hello(self) -> Answer:
        """Tell where it is."""
        return self._heard([])

    def advance(self, number: int, packed_task: bytes) -> Answer:
        """Begin a job, or return what is heard of it within a second once it is begun.

        Numbers only rise.  Ray may repeat a call, on a restarted actor or on this one, and late:
        what is over is told again, and an older job is left alone.  The call that begins a job
        answers at once: should the job end the actor, its life is known and is counted.
        """
        if number < self._number:
            return self._heard([])
        if number > self._number:
            if not self._answer:  # the child may still be at a job that a late call began
                self.close()
            self._number, self._answer = number, []
            self._worker.assign(packed_task)
            return self._heard([])
        if not self._answer and self._worker.process is None:  # it was closed meanwhile
            self._worker.assign(packed_task)
        return self._heard(self._answer or self._listen())

    def close(self) -> None:
        """End the child."""
        self._worker.stop()

    def _heard(self, messages: list[bytes]) -> Answer:
        return self._life, self._node, platform.node(), messages

    def _listen(self) -> list[bytes]:
        until = time.monotonic() + POLL_SECONDS
        latest: list[bytes] = []
        while (left := until - time.monotonic()) > 0:
            for message in self._messages(left):
                if message.kind != "progress":
                    self._answer = [*latest, message.packed]
                    return self._answer
                latest = [message.packed]
        return latest

    def _messages(self, seconds: float) -> list[Message]:
        try:
            return [message for _, message in watch([self._worker], seconds)]
        except CannotStart as error:
            return [Message.error(f"its worker {error.how} before its first task, repeatedly")]
