"""Child processes: how one is started and ended, and what it does.

A child is spawned, single-threaded, ignores Ctrl-C, leaves through its ``with`` blocks on
SIGTERM and dies with its parent.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from typing import Any

from builder.build.executors.base import Function, ReportProgress
from builder.core.errors import WorkerError
from builder.core.standard_streams import outlast_readers
from builder.core.worker_slot import SLOT
from builder.core.working import working_told_to
from letterset.own_packages import InOwnPackages

UNGUARDED = 78
"""Exit code of a child that ran the user's script again, which starts children itself."""
GRACE_SECONDS = 10.0  # to clean up after SIGTERM, before SIGKILL
REPORT_SECONDS = 0.1  # progress is sent no more often

WHEN_ORPHANED: list[Callable[[], None]] = []
"""What a child does last when its parent was killed."""

_STARTING = threading.Lock()  # for the environment, which all threads share

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "OPENCV_FOR_THREADS_NUM",
    ),
    "1",
)


def start_child(function: Function, slot: int) -> tuple[BaseProcess, Connection]:
    """Start a child that does tasks; returns it and the parent's end of its pipe.

    ``slot`` is its number among the children that run at a time: see ``builder.core.worker_slot``.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # Without its guard a script is run by every child; what it did so far is all it may do.
        os._exit(UNGUARDED)
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=InOwnPackages(_work), args=(theirs, function), daemon=True)
    with _STARTING, _environment({**ONE_THREAD, SLOT: str(slot)}), _interrupts_blocked():
        process.start()
    theirs.close()  # the child's alone now: its death shows as the end of the pipe
    return process, pipe


def cause_of_death(process: BaseProcess) -> str:
    """Say how a child whose pipe has ended died, as a verb phrase."""
    process.join(GRACE_SECONDS)
    code = process.exitcode
    if code is None:
        return "closed its pipe"
    if code >= 0:
        return f"ended with exit code {code}"
    name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def end_all(processes: Collection[BaseProcess]) -> None:
    """End children, alive or dead, within GRACE_SECONDS altogether; at once if interrupted."""
    try:
        until = time.monotonic() + GRACE_SECONDS
        for process in processes:
            process.terminate()  # SIGTERM: the child leaves through its ``with`` blocks
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
    except BaseException:  # a second Ctrl-C
        for process in processes:
            with suppress(ValueError):  # it ended and is released
                process.kill()
        raise


def unpack(packed: bytes) -> tuple[str, Any]:
    """Read a child's message: its kind and value; errors bring their traceback as cause."""
    try:
        kind, value = pickle.loads(packed)
    except Exception as error:
        return "error", WorkerError(f"the result cannot be read: {describe(error)}")
    return kind, unpacked(value) if kind == "error" else value


def unpacked(error: tuple[Exception, str]) -> Exception:
    """Undo :func:`portable`: the error with its traceback as cause."""
    error[0].__cause__ = RemoteTraceback(error[1])
    return error[0]


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a child about to be started."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start a child that never sees Ctrl-C, not even before its first line of Python."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, function: Function) -> None:
    """Take tasks and send progress and results, until the parent ends it."""
    outlast_readers()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    for name in ("SIGUSR1", "SIGUSR2"):  # which schedulers send to every process of a job
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    with suppress(EOFError, OSError):  # which mean that the parent is gone
        pipe.send(("ready", None))
        while True:
            packed_task, reporter = pipe.recv_bytes(), _Reporter(pipe)
            with working_told_to(reporter.again):
                answer = _answer(packed_task, function, reporter)
            pipe.send_bytes(answer)


def _answer(packed_task: bytes, function: Function, report: ReportProgress) -> bytes:
    """Do a task; return the pickled message with its result or error."""
    try:
        message: tuple[str, Any] = ("result", function(pickle.loads(packed_task), report))
    except Exception as error:
        message = ("error", portable(error))
    try:
        return pickle.dumps(message)
    except Exception as error:
        reason = f"the result cannot be sent from the worker: {describe(error)}"
        return pickle.dumps(("error", (WorkerError(reason), "")))


def _leave(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + signal.SIGTERM)


def _follow_parent() -> None:
    """Die with the parent, whatever the main thread is doing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        for last in WHEN_ORPHANED:
            last()
        os._exit(1)


class _Reporter:
    """Sends a task's progress, no more often than is of use."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._sent = pipe, 0.0
        self._progress = (0, 0)

    def __call__(self, frames_done: int, frames_total: int) -> None:
        self._progress = (int(frames_done), int(frames_total))
        if self._due() or frames_done == frames_total:
            self._send()

    def again(self) -> None:
        """Say that the task goes on, though no more frames are done."""
        if self._due():
            self._send()

    def _due(self) -> bool:
        return time.monotonic() - self._sent >= REPORT_SECONDS

    def _send(self) -> None:
        self._sent = time.monotonic()
        self._pipe.send(("progress", self._progress))


def portable(error: Exception) -> tuple[Exception, str]:
    """Return the error, or its text where it does not survive pickling, and its traceback."""
    trace = traceback.format_exc()
    try:
        whole = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        whole = False
    return (error if whole else WorkerError(describe(error))), trace


def describe(error: BaseException) -> str:
    """Put an error into one line: its type and text."""
    return f"{type(error).__name__}: {error}"
