"""The actors of a build on a Ray cluster: which tasks they have, and on which nodes they are.

Ray chooses the nodes, as only it knows what else runs there and what its autoscaler may add.  A
task that failed where the node may be to blame is tried on another, for which an actor is aimed at
one; once a node is left out, or an actor cannot start, all later ones are aimed.
"""

import itertools
import pickle
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from builder.build.executors.base import Events, Function, Outcome, ProgressEvent
from builder.build.executors.child import unpack
from builder.build.executors.kinds.ray_host import Host
from builder.build.executors.kinds.ray_nodes import Nodes
from builder.build.executors.supervisor import event_of, next_sendable
from builder.core.errors import AbsentError, HostError, LettersetError, OutputError, WorkerError

REACH_SECONDS = 5.0
END_SECONDS = 6.0  # for actors to end their children, before they are killed
LOOK_SECONDS = 5.0  # between looks at the cluster
GONE_SECONDS = 20.0  # without its head, before the cluster counts as lost; Ray itself ends us at 60
ELSEWHERE_SECONDS = 120.0  # to wait for room on another node, before a failure is believed
NODES = 3  # on so many a task is tried, at most
DEATHS = 2  # of actors with one task, before the task is given up
LOSSES = 10  # of actors for good, with nothing heard between, before the cluster counts as lost


@dataclass(eq=False)
class _Task:
    """A task to do, and where it failed; ``deaths`` are of the actors that had it."""

    task: Any
    packed: bytes
    number: int = -1
    """A new one each time it is given to an actor: for each of them numbers only rise."""
    deaths: int = 0
    failed: dict[str, BaseException] = field(default_factory=dict)
    """By node: the last is the latest."""
    since: float = 0.0
    """When it failed last, on the monotonic clock."""


@dataclass(eq=False)
class _Worker:
    """An actor and the task it has; ``life`` tells one incarnation of the actor from the next."""

    actor: Any
    aimed: str | None = None
    """The node it has to be on; None: Ray chooses."""
    node: str | None = None
    life: str | None = None
    task: _Task | None = None

    @property
    def place(self) -> str | None:
        """The node it is on, or will be; None: not known yet."""
        return self.node or self.aimed


class Pool:
    """The actors; each has one call under way, which is all that is ever queued.

    ``resources`` are what Ray sets aside for each.  ``workers`` of them; None: for as many as there
    is room, also on nodes that join.
    """

    def __init__(
        self,
        function: Function,
        resources: dict[str, float],
        workers: int | None,
        stall_seconds: float,
        on_notice: Callable[[str], None],
    ) -> None:
        self._workers = workers
        self._nodes = Nodes({"CPU": resources["num_cpus"], "GPU": resources["num_gpus"]}, on_notice)
        options = {**resources, "max_restarts": -1, "max_task_retries": -1}
        self._host = ray.remote(Host).options(**options)
        self._arguments = (pickle.dumps(function), stall_seconds)
        self._options = options
        self._calls: dict[Any, _Worker] = {}
        self._idle: list[_Worker] = []
        self._queue = deque[_Task]()
        self._numbers = itertools.count()
        self._events: list[Outcome | ProgressEvent] = []
        self._drained = self._aiming = False
        self._losses = 0
        self._looked = self._head_seen = time.monotonic()

    @property
    def size(self) -> int:
        """How many workers there are to be."""
        return self._workers or sum(self._nodes.usable().values())

    def run(self, tasks: Iterator[Any]) -> Events:
        """Give each task to an actor that is idle; yield what is heard of them."""
        while True:
            self._pull(tasks)
            self._believe_failures()
            self._assign()
            self._start_missing()
            if not self._queue:
                self._end_surplus()
            # Only now, with every actor at work again: the consumer may take its time.
            events, self._events = self._events, []
            yield from events
            if self._drained and not (self._calls or self._queue):
                return
            for call in self._answered():
                self._take(call)

    def end(self) -> None:
        """End all actors and their children within seconds."""
        _end_actors([*self._calls.values(), *self._idle])
        self._calls.clear()
        self._idle.clear()

    def _end_surplus(self) -> None:
        """End the workers that will get no task, also those that wait for room."""
        _end_actors(self._idle)
        self._idle.clear()
        for call, worker in list(self._calls.items()):
            if worker.task is None:
                ray.kill(worker.actor)
                del self._calls[call]

    # Giving tasks

    def _pull(self, tasks: Iterator[Any]) -> None:
        """Take as many tasks as there are workers to be."""
        busy = sum(worker.task is not None for worker in self._calls.values())
        while not self._drained and busy + len(self._queue) < self.size:
            task, packed, unsendable = next_sendable(tasks)
            self._events += unsendable
            if packed is None:
                self._drained = True
                return
            self._queue.append(_Task(task, packed))

    def _believe_failures(self) -> None:
        """Give up what failed and finds no other node.  Raises LettersetError: none is left."""
        for task in [each for each in self._queue if each.failed]:
            others = self._nodes.usable(task.failed)
            late = time.monotonic() - task.since >= ELSEWHERE_SECONDS
            if not others or (late and not any(w.node in others for w in self._calls.values())):
                self._queue.remove(task)
                self._fail(task)
        out = self._nodes.left_out
        if (self._queue or not self._drained) and out and not self._nodes.usable():
            if not (self._calls or self._events):
                raise LettersetError(
                    "no node of the Ray cluster is left: "
                    + "; ".join(f"{self._nodes.name(node)}: {why}" for node, why in out.items())
                )

    def _assign(self) -> None:
        """Give idle workers what they may do, and end those whose node is no longer used."""
        out = [worker for worker in self._idle if worker.node in self._nodes.left_out]
        self._idle = [worker for worker in self._idle if worker not in out]
        _end_actors(out)
        for worker in list(self._idle):
            task = next((each for each in self._queue if worker.node not in each.failed), None)
            if task is not None:
                self._queue.remove(task)
                self._idle.remove(worker)
                worker.task, task.number = task, next(self._numbers)
                self._call(worker)

    def _start_missing(self) -> None:
        """Start a worker for every task that waits for none of those there are."""
        coming = [worker for worker in self._calls.values() if worker.task is None]
        for task in self._queue:
            serving = next((each for each in coming if each.place not in task.failed), None)
            if serving is not None:
                coming.remove(serving)
                continue
            others = self._nodes.usable(task.failed)
            if task.failed and any(worker.place in others for worker in self._calls.values()):
                continue  # it will be given to that one
            if len(self._calls) + len(self._idle) >= self.size:
                if not self._idle:
                    return
                _end_actors([self._idle.pop()])  # which may not do it
            if not self._start(task):
                return

    def _start(self, task: _Task) -> bool:
        """Start a worker that may do a task; False: there is no room now."""
        how, aimed = self._host, None
        if task.failed or self._aiming or self._nodes.left_out:
            there = Counter(worker.place for worker in [*self._calls.values(), *self._idle])
            free = {n: room - there[n] for n, room in self._nodes.usable(task.failed).items()}
            aimed = max(free, key=lambda node: free[node], default=None)
            if aimed is None or (free[aimed] < 1 and self._calls):
                return False
            strategy = NodeAffinitySchedulingStrategy(aimed, soft=False)
            how = ray.remote(Host).options(**self._options, scheduling_strategy=strategy)
        worker = _Worker(how.remote(*self._arguments), aimed)
        self._calls[worker.actor.hello.remote()] = worker
        return True

    def _call(self, worker: _Worker) -> None:
        assert worker.task is not None
        call = worker.actor.advance.remote(worker.task.number, worker.task.packed)
        self._calls[call] = worker

    # Hearing of them

    def _answered(self) -> list[Any]:
        """Wait a while for the answer to a call.

        Raises LettersetError when the cluster's head is gone.
        """
        with signals_pass():
            calls = list(self._calls)
            if not calls:
                time.sleep(min(1.0, LOOK_SECONDS))  # for a node with room
            answered, _ = ray.wait(calls, timeout=LOOK_SECONDS) if calls else ([], [])
        self._look()
        return list(answered)

    def _look(self) -> None:
        """Now and then, see whether the cluster's head is there: workers may answer without it."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if _head_answers():
            self._head_seen = now
            self._nodes.look()
        elif now - self._head_seen >= GONE_SECONDS:
            raise LettersetError(
                f"the head of the Ray cluster, {_head()}, has not answered for "
                f"{GONE_SECONDS:.0f} s: start the cluster again, then run the same command "
                "again to go on; finished episodes are kept"
            )

    def _take(self, call: Any) -> None:
        """Take the answer to a call: where an actor is, or what was heard of its task."""
        worker = self._calls.pop(call)
        try:
            with signals_pass():
                life, node, host, messages = ray.get(call)
        except RayError as error:
            self._lost(worker, error)
            return
        self._losses = 0
        worker.node = node
        self._nodes.name(node, host)
        task = worker.task
        if task is not None:
            task.deaths += worker.life not in (None, life)
        worker.life = life
        if task is None:
            self._idle.append(worker)
            return
        events = [event_of(task.task, *unpack(message)) for message in messages]
        ended = next((event for event in events if isinstance(event, Outcome)), None)
        if ended is None and task.deaths >= DEATHS:
            ended = Outcome(task.task, error=_lost_twice())
        self._events += [event for event in events if not isinstance(event, Outcome)]
        if ended is None:
            self._call(worker)
            return
        worker.task = None
        self._idle.append(worker)
        self._settle(task, node, ended)

    def _settle(self, task: _Task, node: str, outcome: Outcome) -> None:
        """Believe an outcome, or have the task done elsewhere."""
        error = outcome.error
        if error is None:
            self._nodes.did(node, task.failed)
            self._events.append(outcome)
            return
        task.failed.pop(node, None)  # the latest is the last
        task.failed[node], task.since = error, time.monotonic()
        final = isinstance(error, OutputError) and not isinstance(error, HostError)
        suspect = self._nodes.is_suspect(node, error) or isinstance(error, AbsentError)
        if suspect and not final and len(task.failed) < NODES and self._nodes.usable(task.failed):
            self._queue.append(task)
        else:
            self._fail(task)

    def _fail(self, task: _Task) -> None:
        """Give up a task; where there are several nodes its error says on which it was tried."""
        error = list(task.failed.values())[-1]
        if self._nodes.several and not isinstance(error, HostError):
            names = " and on ".join(map(self._nodes.name, task.failed))
            error.args = (f"{error} (on {names})",)
        self._events.append(Outcome(task.task, error=error))

    def _lost(self, worker: _Worker, error: RayError) -> None:
        """Do without an actor that ended for good.  Raises LettersetError: no other will start."""
        self._losses += 1
        self._aiming = True  # which tells from now on where actors cannot start
        with suppress(RayError):
            ray.kill(worker.actor)  # one whose class cannot be loaded lives on, and takes the room
        if _head_answers():
            self._nodes.look()
        if worker.node is None and worker.aimed in self._nodes.usable():
            self._nodes.leave_out(str(worker.aimed), f"a worker cannot start there: {gist(error)}")
        if not self._nodes.usable() or self._losses >= LOSSES:
            raise LettersetError(
                f"a worker cannot start on the Ray cluster, or the cluster was lost: "
                f"{gist(error)}. letterset must be installed on every node, "
                f"and the source and the output must be at the same path; run the same command "
                f"again to go on"
            ) from None
        if (task := worker.task) is not None:
            task.deaths += 1
            if task.deaths < DEATHS:
                self._queue.appendleft(task)
            else:
                self._events.append(Outcome(task.task, error=_lost_twice()))


def _lost_twice() -> WorkerError:
    return WorkerError(f"its worker on the Ray cluster was lost {DEATHS} times (out of memory?)")


def _head() -> str:
    """Return host:port of the cluster's head; empty when it is not known, as through ray://."""
    try:
        return str(ray.get_runtime_context().gcs_address)
    except (AttributeError, RuntimeError, RayError):
        return ""


def _head_answers() -> bool:
    """Tell whether the head of the cluster takes connections; True when it is not known."""
    host, _, port = _head().rpartition(":")
    if not port.isdecimal():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError:
        return False
    return True


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


def gist(error: Exception) -> str:
    """Return the last line of an error's text; Ray's are long and end with the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:500]


@contextmanager
def signals_pass() -> Iterator[None]:
    """Raise what a signal handler raised, which Ray's compiled code wraps up."""
    try:
        yield
    except SystemError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None
