"""What runs in an actor of a Ray cluster: one child process at a time and the job it has."""

import pickle
import platform
import sys
import time

import ray

from builder.build.executors.supervisor import CannotStart, Message, Worker, watch

Answer = tuple[str, str, list[bytes]]
"""Of an actor: its node's id and host name, and what is heard of its job."""

POLL_SECONDS = 1.0  # an actor answers at least so often; progress comes no more often


class Host:
    """One child, which keeps its backends from job to job, and the job it has."""

    def __init__(self, packed_function: bytes, stall_seconds: float) -> None:
        # Spawned children would load Ray's own main module, which takes seconds.
        main = sys.modules["__main__"]
        main.__spec__ = None
        main.__dict__.pop("__file__", None)
        self._worker = Worker(pickle.loads(packed_function), stall_seconds)
        self._node = ray.get_runtime_context().get_node_id()

    def hello(self) -> Answer:
        """Tell where it is."""
        return self._heard([])

    def begin(self, packed_task: bytes) -> Answer:
        """Begin a job."""
        self._worker.assign(packed_task)
        return self.listen()

    def listen(self) -> Answer:
        """Return what is heard of the job within a second."""
        until = time.monotonic() + POLL_SECONDS
        latest: list[bytes] = []
        while (left := until - time.monotonic()) > 0:
            for message in self._messages(left):
                if message.kind != "progress":
                    return self._heard([*latest, message.packed])
                latest = [message.packed]
        return self._heard(latest)

    def close(self) -> None:
        """End the child."""
        self._worker.stop()

    def _heard(self, messages: list[bytes]) -> Answer:
        return self._node, platform.node(), messages

    def _messages(self, seconds: float) -> list[Message]:
        try:
            return [message for _, message in watch([self._worker], seconds)]
        except CannotStart as error:
            return [Message.error(f"its worker {error.how} before its first task, repeatedly")]
