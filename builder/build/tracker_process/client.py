"""A tracker that lives in another process, as a worker sees it; ``host`` is the other side."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from multiprocessing import current_process
from multiprocessing.connection import Client, Connection
from typing import Any, NamedTuple, TypeVar

import numpy as np

from builder.build.executors.child import unpacked
from builder.core.errors import WorkerError
from builder.trackers.base import Tracker, Window
from schemas.dataset import TrackerInfo

CONNECT_SECONDS = 300.0  # a process that is started again may load a model first
BLAMES = 2  # tracker processes that die over one episode, before it is given up

T = TypeVar("T")


class TrackerLost(WorkerError):
    """The tracker's process died.  ``blamed``: while it tracked a frame of this very view."""

    def __init__(self, blamed: bool) -> None:
        super().__init__(
            f"the tracker's process died{' over it' if blamed else ''} (a crash, out of memory, or "
            f"one frame took more than half of limits.stall_seconds)"
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
                self._begun = self._pipe.recv()[0] == "begun"
        except (EOFError, OSError):
            self.close()
        return TrackerLost(self._begun)


def _connect(address: str) -> Connection:
    """Connect to a process that may be starting yet.  Raises WorkerError."""
    until = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            return Client(address, "AF_UNIX", authkey=current_process().authkey)
        except (EOFError, OSError):
            if time.monotonic() > until:
                raise WorkerError(f"no tracker process in {CONNECT_SECONDS:g} s") from None
            time.sleep(0.05)
