"""Trackers in processes of their own, fed with frames by all workers.

One process holds one model, on one device, and takes a frame of each worker in turn; workers
decode, letterbox and write meanwhile, so a device waits for none of them alone.  Between them
is one local socket per view, in a folder that only this user can enter; it goes with the last of
them that is not killed.  A worker is at most ``ahead`` frames ahead of its tracker.
"""

from __future__ import annotations

import faulthandler
import math
import os
import pickle
import queue
import select
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from multiprocessing import Pipe
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from builder.build.executors.base import ReportProgress
from builder.build.executors.child import WHEN_ORPHANED, describe, portable, unpacked
from builder.build.executors.supervisor import START_ATTEMPTS, FailedStarts, Worker, stop_all, watch
from builder.core.errors import ConfigError, WorkerError
from builder.core.working import still_working, working_told_to
from builder.trackers.base import Keeps, Session, Tracker, Window
from schemas.dataset import TrackerInfo

CONNECT_SECONDS = 300.0  # a process that is started again may load a model first
BLAMES = 2  # tracker processes that die over one episode, before it is given up

_LONGEST_PLACE = 70  # bytes: the path of a socket has 103 at most (sun_path of macOS)

# A process says that it lives four times in the time that it may be silent over one frame.  When
# it was silent for half as long again, its own alarm did not go off either: it is suspended.
_BEATS, _SILENT_BEATS = 4, 6

T = TypeVar("T")
MakeTracker = Callable[[], Tracker]


# In a worker, which decodes and writes


class TrackerLost(WorkerError):
    """The tracker's process died.  ``blamed``: while it tracked a frame of this very view."""

    def __init__(self, blamed: bool) -> None:
        super().__init__(
            f"the tracker's process died{' over it' if blamed else ''} (a crash, out of memory, or "
            f"one frame took more than half of limits.stall_seconds without a report)"
        )
        self.blamed = blamed

    def __reduce__(self) -> tuple[type, tuple[bool]]:
        return type(self), (self.blamed,)


def repeated(attempt: Callable[[], T]) -> T:
    """Call a function again when the process that tracks for it dies.

    Raises WorkerError when its own frames killed it twice; those of others do not count.
    """
    blames = 0
    while True:
        try:
            return attempt()
        except TrackerLost as lost:
            blames += lost.blamed
            if blames == BLAMES:
                raise WorkerError(f"{lost}; tried twice") from None


class TrackerAddress(NamedTuple):
    """Where a tracker's process listens, and how many frames of a view may be under way to it."""

    socket: str
    ahead: int


class SharedTracker(Tracker):
    """The ``Tracker`` at an address; waits until somebody listens there.

    Raises what making the tracker raised there.
    """

    def __init__(self, address: TrackerAddress) -> None:
        self._address = address
        facts = _Pipe(address.socket).ask("facts")
        self.gives_conf, self.gives_tracks, self.notice, self._info = facts

    @property
    def info(self) -> TrackerInfo:
        """What the dataset records about it."""
        info: TrackerInfo = self._info
        return info

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> SharedSession:
        """Start a session over there; see ``Tracker.open``."""
        pipe = _Pipe(self._address.socket)
        pipe.ask("open", shape, queries_xy, horizon, start_every)
        return SharedSession(pipe, self._address.ahead)


@cache
def shared_tracker(address: TrackerAddress) -> SharedTracker:
    """Return the tracker at an address; asked once."""
    return SharedTracker(address)


class SharedSession:
    """A ``Session`` whose windows come some frames later, in the same order."""

    def __init__(self, pipe: _Pipe, ahead: int) -> None:
        self._pipe, self._ahead = pipe, ahead
        self._keeps: Keeps | None = None

    @property
    def keeps(self) -> Keeps | None:
        """Tells which windows are wanted; it has to be picklable."""
        return self._keeps

    @keeps.setter
    def keeps(self, keeps: Keeps) -> None:
        self._keeps = keeps
        self._pipe.ask("keep", keeps)

    def push(self, frame_rgb: np.ndarray) -> list[Window]:
        """Send the next frame (H, W, 3) uint8 RGB; return the windows that have come since."""
        windows: list[Window] = []
        while self._pipe.unanswered >= self._ahead or self._pipe.poll():
            windows += self._pipe.take() or []
        self._pipe.send("push", frame_rgb)
        return windows

    def finish(self) -> list[Window]:
        """Wait for all that is under way; return it and the windows that were still open."""
        self._pipe.send("finish")
        windows: list[Window] = []
        while self._pipe.unanswered:
            windows += self._pipe.take() or []
        self._pipe.close()
        return windows


class _Pipe:
    """A conversation with a tracker's process."""

    def __init__(self, address: str) -> None:
        self._pipe = _connect(address)
        self.poll, self.close = self._pipe.poll, self._pipe.close
        self.unanswered = 0
        self._begun = False

    def ask(self, *request: Any) -> Any:
        """Send one request and return its answer."""
        self.send(*request)
        while self.unanswered:
            answer = self.take()
        return answer

    def send(self, *request: Any) -> None:
        """Send a request.  Raises TrackerLost."""
        try:
            self._pipe.send(request)
        except OSError:
            raise self._lost() from None
        self.unanswered += 1

    def take(self) -> Any:
        """Wait for a message; return the answer it brings, if any, or raise the error."""
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if kind == "working":  # on this request, or on one before it
            still_working()
            return None
        self._begun = kind == "begun"
        if self._begun:
            return None
        self.unanswered -= 1
        if kind == "error":
            raise unpacked(value)
        return value

    def _lost(self) -> TrackerLost:
        """Tell from the messages that still came whose frame was being tracked."""
        try:
            while True:
                kind, _ = self._pipe.recv()
                if kind != "working":
                    self._begun = kind == "begun"
        except (EOFError, OSError):
            self.close()
        return TrackerLost(self._begun)


def _connect(address: str) -> Connection:
    """Connect to a process that may be starting yet.  Raises WorkerError."""
    until = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            pipe = Client(address, "AF_UNIX")
            pipe.recv_bytes()  # the greeting: one that is ending accepts, but greets nobody
            return pipe
        except (EOFError, OSError):
            if time.monotonic() > until:
                raise WorkerError(f"no tracker process in {CONNECT_SECONDS:g} s") from None
            still_working()  # within these seconds: it may be loading a model
            time.sleep(0.05)


# In the parent of all


@contextmanager
def tracker_hosts(
    tracker: Tracker,
    make_tracker: MakeTracker,
    own: Any,
    stall_seconds: float,
    on_notice: Callable[[str], None] = lambda sentence: None,
) -> Iterator[list[TrackerAddress]]:
    """Run as many tracker processes as an executor's settings ask for; yields their addresses.

    None where they ask for none.  ``tracker`` is what ``make_tracker``, which is picklable, makes
    in each of them.  A process that dies, is silent for half of ``stall_seconds`` over one frame
    (a tracker that takes longer calls ``still_working``) or was suspended for longer is replaced;
    ``on_notice`` is told.  Raises ConfigError for a tracker that has to know which view it tracks.
    """
    count = getattr(own, "trackers", 0)
    if count and tracker.needs_view:
        raise ConfigError(
            "executor.trackers: this tracker is told which view it tracks, which only a worker's "
            "own can be; leave executor.trackers at 0"
        )
    if not count:
        yield []
        return
    folder = _private_folder()
    addresses = [TrackerAddress(str(folder / str(slot)), own.ahead) for slot in range(count)]
    failed_starts = FailedStarts()
    processes = [
        _TrackerProcess(
            slot, (make_tracker, at.socket, stall_seconds / 2), failed_starts, on_notice
        )
        for slot, at in enumerate(addresses)
    ]
    stopped, stop = Pipe()
    thread = threading.Thread(target=_keep_running, args=(processes, stopped), daemon=True)
    thread.start()
    try:
        yield addresses
    finally:
        stop.close()
        thread.join()
        stopped.close()
        stop_all(processes)
        _remove(folder)


def _private_folder() -> Path:
    """Make a folder for sockets that only this user can enter.  Raises ConfigError."""
    try:
        place = tempfile.gettempdir()
        if len(os.fsencode(place)) > _LONGEST_PLACE:
            place = "/tmp"
        return Path(tempfile.mkdtemp(prefix="letterset-", dir=place))  # of mode 0700
    except OSError as error:
        raise ConfigError(
            f"executor.trackers needs a temporary folder for its sockets: {error}; set TMPDIR to "
            f"one that can be written"
        ) from None


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


class _TrackerProcess(Worker):
    """A child that serves a tracker for ever: started again whenever it ends or falls silent.

    Also when it is suspended: all workers wait for it.
    """

    waits_out_suspension = False

    def __init__(
        self,
        slot: int,
        task: tuple[MakeTracker, str, float],
        failed_starts: FailedStarts,
        on_notice: Callable[[str], None],
    ) -> None:
        self.beat_seconds = task[-1] / _BEATS
        super().__init__(_serve, _SILENT_BEATS * self.beat_seconds, slot, failed_starts)
        self._number, self._task, self._on_notice = slot, task, on_notice
        self._listening = False
        self.assign(pickle.dumps(task))

    @property
    def deadline(self) -> float:
        """Until it listens, making its tracker may take any time."""
        return super().deadline if self._listening else math.inf

    def receive(self) -> None:
        """Take one message: that it listens, or why it ended."""
        message = super().receive()
        if message is None:
            return
        if message.kind == "progress":
            self._listening, self.failed_starts.count = True, 0
        else:
            self.stop()
            self.on_death(f"failed: {describe(message.value)}")

    def on_ready(self) -> None:
        """Count a start as failed until it listens."""

    def on_silence(self) -> None:
        """Kill it: it may be suspended."""
        if self.process is not None:
            self.process.kill()
        self.stop()
        self.on_death("fell silent and was ended")

    def on_death(self, how: str) -> None:
        """Start it again; after START_ATTEMPTS failures, as one that tells its clients so."""
        self._listening = False
        self.failed_starts.count += 1
        if self.failed_starts.count >= START_ATTEMPTS:
            self._task = (partial(_refuse, how), *self._task[1:])
        else:
            self._on_notice(f"tracker process {self._number} {how}; it is started again")
        self.assign(pickle.dumps(self._task))

    on_failed_start = on_death


def _keep_running(processes: list[_TrackerProcess], stopped: Connection) -> None:
    """Start processes again that end or fall silent, until the other end of ``stopped`` closes."""
    while not stopped.poll():
        list(watch(processes, processes[0].beat_seconds, wake=[stopped]))


def _refuse(how: str) -> Tracker:
    raise ConfigError(
        f"tracker processes cannot start: the last one {how}; its own message, if any, is above. "
        f"executor.trackers=0 gives every worker a tracker of its own"
    )


# In the process that holds the tracker


class _Client:
    """One view of one worker: its pipe and its session."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.session: Session | None = None
        self.asked = self.answered = 0

    def do(self, tracker: Tracker, what: str, *args: Any) -> Any:
        if what == "facts":
            return tracker.gives_conf, tracker.gives_tracks, tracker.notice, tracker.info
        if what == "open":
            self.session = tracker.open(*args)
            return None
        if what == "keep":
            if self.session is not None and hasattr(self.session, "keeps"):
                self.session.keeps = args[0]
            return None
        return getattr(self.session, what)(*args)


Requests = queue.SimpleQueue[tuple[_Client, tuple[Any, ...]]]


class _Alarm:
    """Ends this process when it is silent for ``patience`` seconds over one request.

    ``again`` sets it anew, and tells all clients that wait that their turn is going to come.
    """

    def __init__(self, clients: Collection[_Client], patience: float) -> None:
        self._clients, self._patience = clients, patience
        self._told = time.monotonic()

    def set(self) -> None:
        # A thread of C, which ends the process also when Python hangs.
        faulthandler.dump_traceback_later(self._patience, exit=True)

    def again(self) -> None:
        now = time.monotonic()
        if now - self._told < self._patience / _BEATS:
            return
        self._told = now
        self.set()
        for client in [*self._clients]:
            with suppress(OSError, ValueError):  # it is gone
                if client.asked > client.answered and _takes_more(client.pipe):
                    client.pipe.send(("working", None))


def _takes_more(pipe: Connection) -> bool:
    """Tell whether something short can be sent at once: a worker may be suspended."""
    poll = select.poll()
    poll.register(pipe.fileno(), select.POLLOUT)
    return bool(poll.poll(0))


def _serve(task: tuple[MakeTracker, str, float], report: ReportProgress) -> None:
    """Make a tracker and answer what comes, in the order it comes, for ever."""
    make_tracker, socket, patience = task
    tracker: Tracker | Exception
    try:
        tracker = make_tracker()
    except Exception as error:
        tracker = error
    requests: Requests = queue.SimpleQueue()
    clients: set[_Client] = set()
    alarm = _Alarm(clients, patience)
    WHEN_ORPHANED.append(partial(_remove, Path(socket).parent))
    Path(socket).unlink(missing_ok=True)  # of the process before this one, which was killed
    # Whoever can enter the folder is this user: there is nobody to prove, and nothing to wait for.
    with Listener(socket, "AF_UNIX", backlog=64) as listener:
        threading.Thread(target=_receive, args=(listener, requests, clients), daemon=True).start()
        threading.Thread(target=_beat, args=(report, patience / _BEATS), daemon=True).start()
        with working_told_to(alarm.again):
            while True:
                client, request = requests.get()
                with suppress(OSError):  # the client is gone; so is its pipe, once its thread ends
                    _answer(client, tracker, request, alarm)
                client.answered += 1
                alarm.again()
                faulthandler.cancel_dump_traceback_later()


def _beat(report: ReportProgress, seconds: float) -> None:
    """Say again and again that this process listens."""
    with suppress(OSError):  # the parent is gone
        while True:
            report(1, 1)
            time.sleep(seconds)


def _answer(
    client: _Client, tracker: Tracker | Exception, request: tuple[Any, ...], alarm: _Alarm
) -> None:
    """Do what a client asks.  Should it end this process, the client knows that it was its own."""
    client.pipe.send(("begun", None))
    alarm.set()
    try:
        if isinstance(tracker, Exception):
            raise tracker
        message = ("result", client.do(tracker, *request))
    except Exception as error:
        message = ("error", portable(error))
    finally:
        faulthandler.cancel_dump_traceback_later()
    client.pipe.send(message)


def _receive(listener: Listener, requests: Requests, clients: set[_Client]) -> None:
    """Accept clients; a thread for each reads what it sends, which is never much at a time."""
    while True:
        with suppress(OSError):  # one that left again
            client = _Client(listener.accept())
            threading.Thread(target=_listen, args=(client, requests, clients), daemon=True).start()


def _listen(client: _Client, requests: Requests, clients: set[_Client]) -> None:
    clients.add(client)
    with suppress(EOFError, OSError):
        client.pipe.send_bytes(b"")
        while True:
            request = client.pipe.recv()
            client.asked += 1
            requests.put((client, request))
    clients.discard(client)
