"""How far the builds of a dataset are; reads only, so it may be asked at any time."""

import json
import os
import time
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.core.messages import count
from builder.dataset.folder import is_locked, load_meta, read_failures, read_index, store_at
from builder.dataset.index import read_file
from builder.dataset.validate import Problem
from schemas.dataset import FailureLine

# Where locks are unknown, a run whose log is younger than this counts as running.
FRESH_SECONDS = 60.0
_TAIL_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class WriterStatus:
    """One writer: what it has listed altogether, and how its latest run goes.

    ``state`` is running, finished, stopped or killed; ``why`` says what stopped it.  ``todo``
    counts the episodes of the latest run; rates are None before anything was done.
    ``running`` are the episodes being built, by path, one per worker: frames done and to do
    (0 while it is being opened), as the run last wrote them down.
    """

    writer: str
    state: str
    why: str = ""
    done: int
    failed: int
    todo: int = 0
    left: int = 0
    frames_per_second: float | None = None
    seconds_left: float | None = None
    running: dict[str, tuple[int, int]] = field(default_factory=dict)


def status(path: Path | str) -> list[WriterStatus]:
    """Tell how each writer of a dataset is doing, by name.

    Raises DatasetError when the folder is no dataset or is damaged.
    """
    folder = Path(path)
    load_meta(folder)
    built = read_index(folder)
    # Names of logs begin with their time, so the latest of each writer stays.
    paths = sorted((folder / "runs").glob("*.jsonl"))
    logs = {log.start["writer"]: log for log in map(_read_log, paths) if log is not None}
    names = {path.stem for kind in ("index", "failures") for path in (folder / kind).glob("*.*")}
    found = []
    for writer in sorted(names | logs.keys(), key=_natural):
        failures = folder / "failures" / f"{writer}.jsonl"
        failed = {line.id for line in read_file(failures, FailureLine)} if failures.exists() else ()
        found.append(
            _writer_status(
                writer,
                is_locked(folder, writer),
                _count_lines(folder / "index" / f"{writer}.jsonl"),
                sum(episode_id not in built for episode_id in failed),
                logs.get(writer),
            )
        )
    return found


_LINE_KEYS = {"event", "seconds", "done", "failed", "frames_done"}
_START_KEYS = {*_LINE_KEYS, "writer", "todo"}


@dataclass(frozen=True)
class _Log:
    start: dict[str, Any]
    last: dict[str, Any]
    alive: dict[str, Any]
    age: float


def _writer_status(
    writer: str, locked: bool | None, done: int, failed: int, log: _Log | None
) -> WriterStatus:
    if log is None:
        state = "running" if locked else "finished"
        return WriterStatus(writer=writer, state=state, done=done, failed=failed)
    ended = log.last["event"] == "end"
    running = (not ended and log.age < FRESH_SECONDS) if locked is None else locked
    why = log.last.get("how", "") if ended and log.last.get("how") != "done" else ""
    there = log.alive.get("running", {}) if running else {}
    frames = {path: (int(at), int(total)) for path, (at, total) in there.items()}
    begun = sum(at / max(1, total) for at, total in frames.values())
    finished = log.last["done"] + log.last["failed"]
    left, seconds = log.start["todo"] - finished, log.last["seconds"]
    pace = (finished + begun) / seconds if seconds else 0.0
    return WriterStatus(
        writer=writer,
        state="running" if running else "killed" if not ended else "stopped" if why else "finished",
        why=why,
        done=done,
        failed=failed,
        todo=log.start["todo"],
        left=left,
        frames_per_second=log.last["frames_done"] / seconds if seconds else None,
        seconds_left=max(0.0, left - begun) / pace if pace and running else None,
        running=frames,
    )


def _read_log(path: Path) -> _Log | None:
    """Read a log's first and last whole lines; None when it has not begun or is damaged."""
    with path.open("rb") as file:
        first = file.readline()
        rest = file.seek(0, os.SEEK_END) - len(first)
        file.seek(len(first) + max(0, rest - _TAIL_BYTES))
        if rest > _TAIL_BYTES:
            file.readline()  # it began before
        *tail, _torn = file.read().split(b"\n")
    if not first.endswith(b"\n"):
        return None
    alive = next((line for line in reversed(tail) if line.startswith(b'{"event": "alive"')), b"{}")
    age = time.time() - path.stat().st_mtime
    try:
        start = json.loads(first)
        log = _Log(start, json.loads(tail[-1]) if tail else start, json.loads(alive), age)
        whole = _START_KEYS <= log.start.keys() and _LINE_KEYS <= log.last.keys()
    except (ValueError, AttributeError):
        return None  # nothing in a dataset depends on it
    return log if whole else None


def _count_lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _natural(writer: str) -> tuple[list[int], str]:
    numbers = "".join(char if char.isdigit() else " " for char in writer).split()
    return [int(number) for number in reversed(numbers)], writer


def unfinished(path: Path | str) -> list[Problem]:
    """Note what a dataset lacks although its episodes may all be valid; with none it is wrong.

    Sources that failed, runs that did not come to their end and episodes in ``damaged/``.  Raises
    DatasetError when the dataset's own files are damaged, which ``validate`` lists.
    """
    folder, texts = Path(path), []
    if failed := len(read_failures(folder)):
        texts.append(f"{count(failed, 'source')} failed: letterset inspect lists them")
    writers = [writer for writer in status(folder) if writer.left > 0]
    at_work = sum(writer.left for writer in writers if writer.state == "running")
    left = sum(writer.left for writer in writers if writer.state in ("stopped", "killed"))
    if at_work:
        texts.append(f"a build is at work: {count(at_work, 'episode')} to do")
    if left:
        texts.append(f"the last run did not finish: {count(left, 'episode')} to do, build again")
    index, store = read_index(folder), store_at(folder)
    aside = copy(store)
    aside.place = "damaged"
    if gone := sum(each not in index for each in aside.ids()):
        texts.append(f"{count(gone, 'episode')} in damaged/: build again")
    found = [Problem(None, "", text, note=True) for text in texts]
    if not index and next(store.ids(), None) is None:
        found.append(Problem(None, "", "0 episodes: nothing to verify"))
    return found
