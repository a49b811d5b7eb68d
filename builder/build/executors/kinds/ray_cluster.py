"""A Ray cluster: one actor per worker, wherever Ray finds room for it.

An actor has a child process of its own that does the tasks and keeps the backends between
them; so a crash costs one task alone and is told by its cause, as on one machine.  The actor
itself, or its whole node, may die too: Ray restarts it and repeats the call, which carries the
task and so begins it anew.
"""

import itertools
import logging
import math
import os
import pickle
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from pydantic import Field
from ray.exceptions import RayError

from builder.build.executors.base import Events, Executor, Function, Outcome, ProgressEvent
from builder.build.executors.child import available_cores, unpack
from builder.build.executors.kinds.ray_host import Host
from builder.build.executors.supervisor import event_of, next_sendable
from builder.core.errors import ConfigError, LettersetError, WorkerError
from schemas.base import Record

REACH_SECONDS = 5.0
END_SECONDS = 6.0  # for actors to end their children, before they are killed
DEATHS = 2  # of actors with one task, before the task is given up


class RayClusterConfig(Record):
    """Settings of the ``ray`` executor."""

    address: str = Field(
        default="local",
        description="host:port or ray://host:port of a cluster, auto for the one that runs on "
        "this machine, local to start one here for the time of the build",
    )
    num_cpus: float = Field(default=1.0, ge=0, description="that Ray sets aside per worker")
    num_gpus: float = Field(
        default=0.0, ge=0, description="per worker; 1 gives each tracker a device of its own"
    )


class RayCluster(Executor):
    """Runs tasks in Ray actors; without ``workers``, in as many as the cluster has room for."""

    Config = RayClusterConfig

    def __init__(self, config: RayClusterConfig, workers: int | None, stall_seconds: float) -> None:
        self.config, self.workers, self.stall_seconds = config, workers, stall_seconds
        if not ray.is_initialized():
            _check_reachable(config.address)

    def run(self, function: Function, tasks: Iterable[Any]) -> Events:
        """Yield progress and one Outcome per task; see ``builder.build.executors.base``.

        Raises ConfigError when the cluster cannot be used or has no room for a worker, and
        LettersetError when workers cannot start on it.
        """
        tasks = iter(tasks)
        first = list(itertools.islice(tasks, 1))
        if not first:
            return
        with self._connected():
            pool = _Pool(function, self.config, self.stall_seconds)
            try:
                yield from pool.run(itertools.chain(first, tasks), self._size())
            finally:
                pool.end()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Join the cluster, or the one this program has joined already, which is then kept."""
        if ray.is_initialized():
            yield
            return
        how: dict[str, Any] = {"address": self.config.address}
        if self.config.address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            workers = self.workers or available_cores()
            # As asked for, also when it is more than there are cores.
            how["num_cpus"] = max(available_cores(), math.ceil(workers * self.config.num_cpus))
            how["include_dashboard"] = False
        try:
            with _own_signals():
                ray.init(**how, log_to_driver=False, logging_level=logging.WARNING)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"executor.address {self.config.address!r}: Ray cannot be used there: "
                f"{_gist(error)}"
            ) from None
        try:
            yield
        finally:
            with _own_signals():
                ray.shutdown()

    def _size(self) -> int:
        """Return how many workers to start at most."""
        wanted = {"CPU": self.config.num_cpus, "GPU": self.config.num_gpus}
        there = ray.cluster_resources()
        rooms = {kind: there.get(kind, 0) // each for kind, each in wanted.items() if each}
        room = int(min(rooms.values(), default=available_cores()))
        if self.workers is None and room < 1:
            raise ConfigError(
                f"the Ray cluster has no room for a worker of executor.num_cpus="
                f"{wanted['CPU']:g} and executor.num_gpus={wanted['GPU']:g}: it has "
                f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
            )
        return self.workers or room


@dataclass
class _Worker:
    """An actor and the task it has; ``life`` tells one incarnation of the actor from the next."""

    actor: Any
    life: str | None = None
    number: int = -1
    task: Any = None
    packed: bytes = b""
    deaths: int = 0  # of the actor, with this task


class _Pool:
    """The actors; each has one call under way, which is all that is ever queued."""

    def __init__(self, function: Function, config: RayClusterConfig, stall_seconds: float) -> None:
        host = ray.remote(Host).options(
            num_cpus=config.num_cpus, num_gpus=config.num_gpus, max_restarts=-1, max_task_retries=-1
        )
        self._start = lambda: host.remote(pickle.dumps(function), stall_seconds)
        self._calls: dict[Any, _Worker] = {}

    def run(self, tasks: Iterator[Any], workers: int) -> Iterator[Outcome | ProgressEvent]:
        """Give each task to an actor that is idle; yield what is heard of them."""
        numbers, idle = itertools.count(), list[_Worker]()
        events: list[Outcome | ProgressEvent] = []
        while True:
            while len(self._calls) < workers:
                task, packed, unsendable = next_sendable(tasks)
                events += unsendable
                if packed is None:
                    break
                worker = idle.pop() if idle else _Worker(self._start())
                worker.number, worker.task, worker.packed = next(numbers), task, packed
                worker.deaths = 0
                self._call(worker)
            _end_actors(idle)
            idle.clear()
            # Only now, with every actor at work again: the consumer may take its time.
            yield from events
            if not self._calls:
                return
            events = []
            with _signals_pass():
                answered, _ = ray.wait(list(self._calls), num_returns=1)
            for call in answered:
                worker = self._calls[call]
                heard = self._receive(call)
                events += heard
                if heard and isinstance(heard[-1], Outcome):
                    idle.append(worker)
                else:
                    self._call(worker)

    def _call(self, worker: _Worker) -> None:
        self._calls[worker.actor.advance.remote(worker.number, worker.packed)] = worker

    def _receive(self, call: Any) -> list[Outcome | ProgressEvent]:
        """Take the answer to a call: what was heard of the task that the actor has."""
        try:
            with _signals_pass():
                life, messages = ray.get(call)
        except RayError as error:
            raise LettersetError(
                f"a worker cannot start on the Ray cluster, or the cluster was lost: "
                f"{_gist(error)}. letterset must be installed on every node, "
                f"and the source and the output must be at the same path; run the same command "
                f"again to go on"
            ) from None
        worker = self._calls.pop(call)
        worker.deaths += worker.life not in (None, life)
        worker.life = life
        events = [event_of(worker.task, *unpack(message)) for message in messages]
        ended = any(isinstance(event, Outcome) for event in events)
        if not ended and worker.deaths >= DEATHS:
            reason = f"its worker on the Ray cluster was lost {DEATHS} times (out of memory?)"
            events.append(Outcome(worker.task, error=WorkerError(reason)))
        return events

    def end(self) -> None:
        """End all actors and their children within seconds."""
        _end_actors(self._calls.values())
        self._calls.clear()


def _end_actors(workers: Iterable[_Worker]) -> None:
    """Let actors end their children, which clean up, then end the actors."""
    actors = [worker.actor for worker in workers]
    with suppress(RayError):
        closing = [actor.close.remote() for actor in actors]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=END_SECONDS)
    for actor in actors:
        with suppress(RayError):
            ray.kill(actor)


def _gist(error: Exception) -> str:
    """Return the last line of an error's text; Ray's are long and end with the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:500]


def _check_reachable(address: str) -> None:
    """Raise ConfigError within seconds when nobody listens; Ray itself would try for long."""
    if address in ("local", "auto"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        raise ConfigError(
            f"executor.address is host:port, ray://host:port, auto or local, got {address!r}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"executor.address {address!r}: no Ray cluster answers there ({error}); start one with "
            f"ray start --head, correct the address, or use executor.kind=processes"
        ) from None


@contextmanager
def _signals_pass() -> Iterator[None]:
    """Raise what a signal handler raised, which Ray's compiled code wraps up."""
    try:
        yield
    except SystemError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our reaction to signals, which Ray replaces."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            with suppress(ValueError):  # raised outside of the main thread, where none was set
                signal.signal(number, handler)
