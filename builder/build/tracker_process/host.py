"""Trackers in processes of their own, fed with frames by all workers.

One process holds one model, on one device, and takes a frame of each worker in turn; workers
decode, letterbox and write meanwhile, so a device waits for none of them alone.  Between them
is one local socket per view: nothing is shared, so nothing is left behind by a kill.  A worker
is at most ``ahead`` frames ahead of its tracker.
"""

from __future__ import annotations

import faulthandler
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import Pipe, current_process
from multiprocessing.connection import (  # type: ignore[attr-defined]
    Connection,
    Listener,
    arbitrary_address,
    wait,
)
from typing import Any

from builder.build.executors.base import Report
from builder.build.executors.child import START_ATTEMPTS, Child, describe, end_all, portable
from builder.build.tracker_process.client import TrackerAddress
from builder.core.errors import ConfigError
from builder.trackers.base import Session, Tracker

MakeTracker = Callable[[], Tracker]

# A process says that it lives four times in the time that it may take over one frame.  When it was
# silent for half as long again, its own alarm did not go off either: it is suspended.
_BEATS, _SILENT_BEATS = 4, 6


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
    in each of them.  A process that dies, takes more than half of ``stall_seconds`` over one frame
    or was suspended for longer is replaced; ``on_notice`` is told.  Raises ConfigError for a
    tracker that has to know which view it tracks.
    """
    count = getattr(own, "trackers", 0)
    if count and hasattr(tracker, "for_view"):
        raise ConfigError(
            "executor.trackers: this tracker is told which view it tracks, which only a worker's "
            "own can be; leave executor.trackers at 0"
        )
    if not count:
        yield []
        return
    addresses = [TrackerAddress(_new_socket(), own.ahead) for _ in range(count)]
    tasks = [(make_tracker, address.socket, stall_seconds / 2) for address in addresses]
    crew = [_hire(task, slot) for slot, task in enumerate(tasks)]
    bell, rope = Pipe()
    watch = threading.Thread(target=_watch, args=(crew, tasks, bell, on_notice), daemon=True)
    watch.start()
    try:
        yield addresses
    finally:
        rope.close()
        watch.join()
        bell.close()
        end_all(crew)


def _new_socket() -> str:
    """Name a local socket; on Linux one that is in no folder and ends with its process."""
    if sys.platform == "linux":
        return f"\0letterset-{secrets.token_hex(16)}"
    return str(arbitrary_address("AF_UNIX"))


def _hire(task: tuple[MakeTracker, str, float], slot: int) -> Child:
    child = Child(_serve, slot)
    child.send(task)
    return child


def _watch(
    crew: list[Child],
    tasks: list[tuple[MakeTracker, str, float]],
    bell: Connection,
    on_notice: Callable[[str], None],
) -> None:
    """Replace children that end, or fall silent, until the bell rings."""
    failed_starts, listening, beat = 0, set[Child](), tasks[0][-1] / _BEATS
    while True:
        begun = time.monotonic()
        spoke = wait([bell, *(child.pipe for child in crew)], beat)
        if bell in spoke:
            return
        now = time.monotonic()
        asleep = now - begun > 2 * beat  # this process, so that the others may have been as well
        for number, child in enumerate(crew):
            child.heard = now if asleep else child.heard
            if child.pipe in spoke:
                kind, how = _news_of(child)
            elif child in listening and now - child.heard > _SILENT_BEATS * beat:
                child.kill()
                kind, how = "end", "fell silent and was ended"
            else:
                continue
            if kind == "progress":
                failed_starts = 0
                listening.add(child)
            if kind != "end":
                continue
            end_all([child])
            failed_starts += 1
            if failed_starts >= START_ATTEMPTS:
                # A process that says so to whoever asks, instead of one that dies.
                tasks[number] = (partial(_refuse, how), *tasks[number][1:])
            else:
                on_notice(f"tracker process {number} {how}; it is started again")
            crew[number] = _hire(tasks[number], number)


def _news_of(child: Child) -> tuple[str, str]:
    """Take a child's message: ready, progress (it listens), or end, and how it ended."""
    try:
        kind, value = child.receive()
    except (EOFError, OSError):
        return "end", child.cause_of_death()
    return ("end", f"failed: {describe(value)}") if kind == "error" else (kind, "")


def _refuse(how: str) -> Tracker:
    raise ConfigError(
        f"tracker processes cannot start: the last one {how}; its own message, if any, is above. "
        f"executor.trackers=0 gives every worker a tracker of its own"
    )


# In the process that holds the tracker


class _Guest:
    """One view of one worker: its pipe and its session."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.session: Session | None = None

    def do(self, tracker: Tracker, what: str, *args: Any) -> Any:
        if what == "facts":
            gives_tracks = getattr(tracker, "gives_tracks", True)
            return tracker.gives_conf, gives_tracks, tracker.notice, tracker.info
        if what == "open":
            self.session = tracker.open(*args)
            return None
        return getattr(self.session, what)(*args)


Requests = queue.SimpleQueue[tuple[_Guest, tuple[Any, ...]]]


def _serve(task: tuple[MakeTracker, str, float], report: Report) -> None:
    """Make a tracker and answer what comes, in the order it comes, for ever."""
    make_tracker, socket, patience = task
    tracker: Tracker | Exception
    try:
        tracker = make_tracker()
    except Exception as error:
        tracker = error
    requests: Requests = queue.SimpleQueue()
    with Listener(socket, "AF_UNIX", backlog=64, authkey=current_process().authkey) as listener:
        threading.Thread(target=_receive, args=(listener, requests), daemon=True).start()
        threading.Thread(target=_beat, args=(report, patience / _BEATS), daemon=True).start()
        while True:
            guest, request = requests.get()
            with suppress(OSError):  # the guest is gone; so is its pipe, once its thread ends
                _answer(guest, tracker, request, patience)


def _beat(report: Report, seconds: float) -> None:
    """Say again and again that this process listens."""
    with suppress(OSError):  # the parent is gone
        while True:
            report(1, 1)
            time.sleep(seconds)


def _answer(
    guest: _Guest, tracker: Tracker | Exception, request: tuple[Any, ...], patience: float
) -> None:
    """Do what a guest asks.  Should it end this process, the guest knows that it was its own."""
    guest.pipe.send(("begun", None))
    # A thread of C, which ends the process also when Python hangs.
    faulthandler.dump_traceback_later(patience, exit=True)
    try:
        if isinstance(tracker, Exception):
            raise tracker
        message = ("result", guest.do(tracker, *request))
    except Exception as error:
        message = ("error", portable(error))
    finally:
        faulthandler.cancel_dump_traceback_later()
    guest.pipe.send(message)


def _receive(listener: Listener, requests: Requests) -> None:
    """Let guests in; a thread for each reads what it sends, which is never much at a time."""
    while True:
        with suppress(Exception):  # one that leaves in the middle of saying who it is
            pipe = listener.accept()
            threading.Thread(target=_listen, args=(_Guest(pipe), requests), daemon=True).start()


def _listen(guest: _Guest, requests: Requests) -> None:
    with suppress(EOFError, OSError):
        while True:
            requests.put((guest, guest.pipe.recv()))
