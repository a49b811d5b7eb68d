"""How far the builds of a dataset are; reads only, so it may be asked at any time."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

from builder.build.coverage import undone
from builder.build.run_log import Log, log_paths, read_log
from builder.core.messages import count
from builder.dataset.folder import load_meta, read_failures, read_index, store_at
from builder.dataset.index import read_file, writer_name
from builder.dataset.locks import is_locked
from builder.dataset.validate import Problem
from schemas.dataset import FailureLine

# Where locks are unknown, a run whose log is younger than this counts as running.
FRESH_SECONDS = 60.0


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


def status(path: Path | str, far: bool = False) -> list[WriterStatus]:
    """Tell how each writer of a dataset is doing, by name.

    ``far``: the folder is a copy of the small files at a URL, where nobody holds a lock.  Raises
    DatasetError when the folder is no dataset or is damaged.
    """
    folder = Path(path)
    load_meta(folder)
    built = read_index(folder)
    # Names of logs begin with their time, so the latest of each writer stays.
    logs = {log.start.writer: log for log in map(read_log, log_paths(folder)) if log is not None}
    files: dict[str, dict[str, list[Path]]] = {"index": {}, "failures": {}}
    for kind, own in files.items():
        for path in (folder / kind).glob("*.*"):
            own.setdefault(writer_name(path.stem), []).append(path)
    names = {name for own in files.values() for name in own}
    found = []
    for writer in sorted(names | logs.keys(), key=_natural):
        failed = {
            line.id
            for path in _lines_of(files["failures"], writer)
            for line in read_file(path, FailureLine)
        }
        found.append(
            _writer_status(
                writer,
                None if far else is_locked(folder, writer),
                sum(map(_count_lines, _lines_of(files["index"], writer))),
                sum(episode_id not in built for episode_id in failed),
                logs.get(writer),
            )
        )
    return found


def _lines_of(files: Mapping[str, list[Path]], writer: str) -> list[Path]:
    return [path for path in files.get(writer, ()) if path.suffix == ".jsonl"]


def _writer_status(
    writer: str, locked: bool | None, done: int, failed: int, log: Log | None
) -> WriterStatus:
    if log is None:
        state = "running" if locked else "finished"
        return WriterStatus(writer=writer, state=state, done=done, failed=failed)
    ended = log.last.event == "end"
    running = (not ended and log.age < FRESH_SECONDS) if locked is None else locked
    why = log.last.how if ended and log.last.how != "done" else ""
    frames = log.alive.running if running and log.alive else {}
    finished = log.last.done + log.last.failed
    left, seconds, share = log.start.todo - finished, log.last.seconds, log.last.share
    return WriterStatus(
        writer=writer,
        state="running" if running else "killed" if not ended else "stopped" if why else "finished",
        why=why,
        done=done,
        failed=failed,
        todo=log.start.todo,
        left=left,
        frames_per_second=log.last.frames_done / seconds if seconds else None,
        seconds_left=seconds * (1 / share - 1) if share and running else None,
        running=frames,
    )


def _count_lines(path: Path) -> int:
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
    running = [writer.left for writer in status(folder) if writer.state == "running"]
    if running:
        texts.append(f"a build is at work: {count(sum(running), 'episode')} to do")
    else:
        texts += undone(folder)
    index, store = read_index(folder), store_at(folder)
    aside = copy(store)
    aside.place = "damaged"
    if gone := sum(each not in index for each in aside.ids()):
        texts.append(f"{count(gone, 'episode')} in damaged/: build again")
    found = [Problem(None, "", text, note=True) for text in texts]
    if not index and next(store.ids(), None) is None:
        found.append(Problem(None, "", "0 episodes: nothing to verify"))
    return found
