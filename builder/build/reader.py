"""Reading in processes of their own: a crash, a loop or a bomb in a file costs that file.

Recognizing, listing, opening and verifying parse bytes in libraries that crash and loop on some.
``apart`` calls a function in a child process that tells which file it is about to read;
``each_apart`` calls it for many items, in several.  When a child ends over a file, or is silent
for too long, it is started again and that file is refused: whoever lists or opens it meets an
error that names it, as for any other bad file.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

from builder.build.executors.base import ReportProgress
from builder.build.executors.supervisor import START_SECONDS, Message, Worker, watch
from builder.core.cores import available_cores
from builder.core.errors import WorkerError
from builder.inputs.foreign import limited_memory, watched
from builder.sources.base import EpisodeRef, Source
from schemas.config import Limits

A = TypeVar("A")
T = TypeVar("T")

# Chunks are long enough that handing them out costs little, short enough to end together.
_LONGEST_CHUNK, _CHUNKS_PER_WORKER = 32, 8

MAX_REFUSED = 100
"""Files that may end a reader, before reading is given up."""


class _Task(NamedTuple):
    call: Callable[[], Any]
    limits: Limits
    folder: str
    """What relative paths are relative to."""
    note: str
    """A file, in which the child writes what it is about to read; it is unlinked once opened."""
    refused: dict[str, str]


def apart(function: Callable[..., T], *arguments: Any, limits: Limits | None = None) -> T:
    """Call a function that reads files of others in a child process; both must be picklable.

    The child has ``limits.stall_seconds`` from one file to the next, or to a
    ``builder.core.working.still_working()``, and takes no more memory than a few arrays of
    ``limits.max_array_bytes``.  What the function raises is raised here.  Raises WorkerError when
    the child ends over what is no file.
    """
    call = partial(function, *arguments)
    [result] = each_apart(_call, [call], limits=limits, workers=1)
    return result


def each_apart(
    function: Callable[[A], T],
    items: Sequence[A],
    *,
    limits: Limits | None = None,
    workers: int | None = None,
) -> Iterator[T]:
    """Call a function for each item, as ``apart`` does; yields results in the order of items.

    At most ``workers`` children read at a time, by default one for each core that may be used.
    """
    limits, workers = limits or Limits(), workers or available_cores()
    if multiprocessing.current_process().daemon:  # a child already, which may have none
        yield from map(function, items)
        return
    size = max(1, min(_LONGEST_CHUNK, len(items) // (_CHUNKS_PER_WORKER * workers)))
    chunks = [items[at : at + size] for at in range(0, len(items), size)]
    todo, results, following = deque(enumerate(chunks)), dict[int, list[T]](), 0
    with ExitStack() as stack:
        readers = [stack.enter_context(_reader()) for _ in chunks[:workers]]
        busy: dict[_Reader, int] = {}
        while todo or busy:
            for reader in readers:
                if todo and reader not in busy:
                    busy[reader], chunk = todo.popleft()
                    reader.begin(partial(_each, function, chunk), limits)
            for reader, message in watch([*busy]):
                if message.kind == "progress":
                    continue
                if message.kind != "result":
                    reader.begin_again(message.value)
                    continue
                results[busy.pop(reader)] = message.value
            while following in results:
                yield from results.pop(following)
                following += 1


def _call(call: Callable[[], T]) -> T:
    return call()


def _each(function: Callable[[A], T], items: Sequence[A]) -> list[T]:
    return [function(item) for item in items]


@contextmanager
def refused_left_out() -> Iterator[None]:
    """Read in this process meanwhile, except the files over which a child ended before."""
    with watched(lambda path: None, _refused()):
        yield


def listed(source: Source, limits: Limits | None = None) -> list[EpisodeRef]:
    """List the episodes of a source, in a child process.  Raises what ``source.refs`` raises."""
    return apart(_refs, source, limits=limits)


def _refs(source: Source) -> list[EpisodeRef]:
    return list(source.refs())


class _Ended(WorkerError):
    """The child died or stalled; the text says how, as a verb phrase."""


class _Reader(Worker):
    """A child that reads, kept from call to call; its death is an answer, not tried again."""

    def __init__(self) -> None:
        super().__init__(_read, Limits().stall_seconds)
        self._note: int | None = None
        self._call: Callable[[], Any] = int
        self._limits = Limits()

    def begin(self, call: Callable[[], Any], limits: Limits) -> None:
        """Give it something to do."""
        self._call, self._limits = call, limits
        if self.process is not None and not self.process.is_alive():
            self.stop()  # it ended while it had nothing to do
        self.stall_seconds = max(START_SECONDS, limits.stall_seconds)  # with its imports
        self.forget_note()
        self._note, path = tempfile.mkstemp(prefix="letterset-")
        self.assign(pickle.dumps(_Task(call, limits, os.getcwd(), path, _refused())))

    def begin_again(self, error: BaseException) -> None:
        """Do the same without the file over which it ended.  Raises any other error."""
        if not isinstance(error, _Ended):
            raise error
        place = _read_note(self._note)
        refused = _refused()
        if not place or place in refused or len(refused) >= MAX_REFUSED:
            raise WorkerError(f"reading {error}")
        _REFUSED[place] = f"reading it {error}; leave it out, or get it again", _state(place)
        self.begin(self._call, self._limits)

    def receive(self) -> Message | None:
        """Take one message; once it has read something, its imports are over."""
        message = super().receive()
        if message is not None and message.kind == "progress":
            self.stall_seconds = self._limits.stall_seconds
        return message

    def on_death(self, how: str) -> Message:
        return Message("error", _Ended(how), b"")

    def on_silence(self) -> Message | None:
        ready = self.ready
        self.kill()
        message = super().on_silence()
        if not ready:
            return message
        seconds = f"{self.stall_seconds:g} s (limits.stall_seconds)"
        return Message("error", _Ended(f"took more than {seconds} and was stopped"), b"")

    def forget_note(self) -> None:
        """Close the file of what was read last; the child has unlinked it."""
        if self._note is not None:
            os.close(self._note)
        self._note = None

    def kill(self) -> None:
        """End the child at once: it has nothing to clean up, and may be looping in C."""
        if self.process is not None:
            self.process.kill()


_IDLE: list[_Reader] = []
_REFUSED: dict[str, tuple[str, tuple[int, int]]] = {}


@contextmanager
def _reader() -> Iterator[_Reader]:
    """Take a reader that has nothing to do, and keep it for the next call."""
    try:
        reader = _IDLE.pop()
    except IndexError:
        reader = _Reader()
    try:
        yield reader
    except BaseException:
        reader.kill()  # what it says later would be taken for the answer to another call
        reader.stop()
        raise
    finally:
        reader.forget_note()
        _IDLE.append(reader)


def _refused() -> dict[str, str]:
    """Return why which files are not read: those that ended a reader and are what they were."""
    return {path: why for path, (why, state) in [*_REFUSED.items()] if state == _state(path)}


def _state(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _read(task: _Task, report: ReportProgress) -> Any:
    """Do a task, in the child."""
    os.chdir(task.folder)
    with _noting(task.note) as note:

        def announce(path: str) -> None:
            note(path)
            report(0, 1)

        with watched(announce, task.refused), limited_memory(task.limits):
            return task.call()


@contextmanager
def _noting(path: str) -> Iterator[Callable[[str], None]]:
    """Write what is noted over what was noted before: it is there also when the process dies."""
    file = os.open(path, os.O_WRONLY)
    os.unlink(path)  # so that nobody who is killed leaves it behind
    try:
        yield lambda text: _write_note(file, os.fsencode(text))
    finally:
        os.close(file)


def _write_note(file: int, text: bytes) -> None:
    os.pwrite(file, len(text).to_bytes(4, "little") + text, 0)


def _read_note(file: int | None) -> str:
    if file is None:
        return ""
    size = int.from_bytes(os.pread(file, 4, 0), "little")
    return os.fsdecode(os.pread(file, size, 4))
