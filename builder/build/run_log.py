"""What a run of a build records about itself under ``runs/``; never part of any digest.

``<when>-<writer>-<pid>.jsonl`` grows while the run goes on, one JSON object a line with an
``event``: start, episode, failed, alive (now and then) and, unless the run was killed, end.
``<when>-<writer>-<pid>.json`` is the summary of a run that came to its end.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError

from builder.build.executors.base import Outcome, ProgressEvent
from builder.build.tally import Tally
from builder.core.errors import OutputError
from builder.stores.atomic import output_errors, publish_text, write_all
from builder.stores.inside import open_inside
from builder.stores.reading import files_in, is_file
from schemas.config import Limits
from schemas.dataset import Name

if TYPE_CHECKING:
    from typing_extensions import Self

# What can change numbers or speed.
_PACKAGES = (
    "letterset", "numpy", "h5py", "av", "opencv-python-headless", "opencv-python", "torch", "ray"
)  # fmt: skip

ALIVE_SECONDS = 10.0
_LINE_BYTES = 16 << 20
_TAIL_BYTES = 1 << 18

Count = Annotated[int, Field(ge=0, le=2**53)]
# Paths in a log may hold odd bytes, which pydantic takes for no text.
Text = InstanceOf[str]


def run_facts() -> dict[str, Any]:
    """Return versions and host of this run, as JSON data."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "host": platform.node(), "platform": platform.platform()}


class LogLine(BaseModel):
    """What every line of a log has, and a line of ``alive`` or ``end`` besides."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    event: str
    seconds: float = Field(ge=0)
    done: Count
    failed: Count
    frames_done: Count
    how: Text = ""
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    running: dict[Text, Annotated[tuple[Count, Count], Field(strict=False)]] = {}

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Parse a line; raises ValueError for what is no such line."""
        try:
            return cls.model_validate(json.loads(line))
        except RecursionError:
            raise ValueError("it is nested too deeply") from None


class StartLine(LogLine):
    """The first line of a log."""

    writer: Name
    todo: Count
    listed: Count | None = None  # of the whole source; older runs did not say
    config: dict[str, Any] = {}


def log_paths(folder: Path) -> list[Path]:
    """List the logs of a dataset, the oldest first: their names begin with their time."""
    return [path for path in files_in(folder / "runs", ".jsonl") if is_file(path)]


def read_start(path: Path) -> StartLine | None:
    """Read the first line of a log; None when it has not begun, is damaged or cannot be read.

    Nothing in a dataset depends on a log, which may hold anything.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(_LINE_BYTES)
        return StartLine.parse(line) if line.endswith(b"\n") else None
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Log:
    """A log's first line, its last, the last that names what is being built, and its age in s."""

    start: StartLine
    last: LogLine
    alive: LogLine | None
    age: float


def read_log(path: Path) -> Log | None:
    """Read a log's first and last whole lines; None when it has not begun or is damaged."""
    if (start := read_start(path)) is None:
        return None
    try:
        with path.open("rb") as file:
            begin = len(file.readline())
            rest = file.seek(0, os.SEEK_END) - begin
            file.seek(begin + max(0, rest - _TAIL_BYTES))
            if rest > _TAIL_BYTES:
                file.readline()  # it began before
            *tail, _torn = file.read(_TAIL_BYTES).split(b"\n")
            age = time.time() - os.fstat(file.fileno()).st_mtime
        alive = (line for line in reversed(tail) if line.startswith(b'{"event": "alive"'))
        latest = next(alive, None)
        return Log(
            start=start,
            last=LogLine.parse(tail[-1]) if tail else start,
            alive=LogLine.parse(latest) if latest else None,
            age=age,
        )
    except (OSError, ValueError):
        return None  # nothing in a dataset depends on it


def last_config(folder: Path) -> dict[str, Any]:
    """Return the config that the latest run of a build recorded, as JSON data; {} without any."""
    starts = map(read_start, reversed(log_paths(folder)))
    return next((start.config for start in starts if start and start.config), {})


def last_limits(folder: Path) -> Limits:
    """Return the limits that the latest run of a build recorded, else the default ones."""
    try:
        return Limits.model_validate(last_config(folder).get("limits", {}))
    except ValidationError:  # of another version, or edited
        return Limits()


def worker_name() -> str:
    """Name this process among the workers of all machines."""
    return f"{platform.node()}:{os.getpid()}"


class RunLog:
    """The record of one run, written as it goes; a context manager."""

    def __init__(self, folder: Path, writer: str) -> None:
        when = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        self._folder = folder
        self._path = folder / "runs" / f"{when}-{writer}-{os.getpid()}.jsonl"
        self._writer, self._begun = writer, time.monotonic()
        self._alive = self._begun
        self._at = 0
        self._running: dict[str, tuple[int, int]] = {}
        self._done = self._failed = self._frames = 0
        self._tally = Tally(0)
        self._stages: Counter[str] = Counter()
        self._cpu_seconds = 0.0
        self._workers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        with output_errors(self._path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            self._file = open_inside(self._path, folder, flags)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        # A full disk has no room for the last line either; its own error goes on.
        try:
            with suppress(OutputError) if kind else nullcontext():
                self.write("end", how=_how(kind, error) if kind else "done")
        finally:
            os.close(self._file)

    def write(self, event: str, **facts: Any) -> None:
        """Append one line.  Raises OutputError."""
        seconds = round(time.monotonic() - self._begun, 3)
        counts = {
            "done": self._done,
            "failed": self._failed,
            "frames_done": self._frames,
            "share": round(self._tally.share, 6),
        }
        line = json.dumps({"event": event, "seconds": seconds, **counts, **facts}) + "\n"
        with output_errors(self._path):
            write_all(self._file, line.encode(), self._at)
        self._at += len(line)

    def start(self, todo: int, weights: Mapping[str, float] | None = None, **facts: Any) -> None:
        """Say what is about to be done; ``weights`` are as in ``Tally``."""
        self._tally = Tally(todo, weights)
        facts["todo"] = todo
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.write("start", writer=self._writer, when=now, pid=os.getpid(), **run_facts(), **facts)

    def event(self, event: Outcome | ProgressEvent) -> None:
        """Take an executor's event down."""
        ref = event.task.ref
        self._tally.count(event)
        if isinstance(event, ProgressEvent):
            self._running[ref.path] = (event.frames_done, event.frames_total)
        else:
            self._running.pop(ref.path, None)
            self._outcome(event)
        if time.monotonic() - self._alive >= ALIVE_SECONDS:
            self._alive = time.monotonic()
            self.write("alive", running=self._running)

    def _outcome(self, outcome: Outcome) -> None:
        ref, built = outcome.task.ref, outcome.result
        if outcome.error is not None:
            self._failed += 1
            error = f"{type(outcome.error).__name__}: {outcome.error}"
            self.write("failed", id=ref.id, path=ref.path, error=error)
            return
        self._done += 1
        if not built.new:
            return
        stages = {stage: round(seconds, 4) for stage, seconds in built.seconds.items()}
        self._frames += built.frames
        self._stages.update(stages)
        self._cpu_seconds += built.cpu_seconds
        own = {"episodes": 1, "frames": built.frames, "seconds": sum(stages.values())}
        self._workers[built.worker].update(own)
        self.write(
            "episode", id=ref.id, frames=built.frames, worker=built.worker, stage_seconds=stages
        )

    def summarize(self, summary: dict[str, Any]) -> None:
        """Keep the summary (JSON data) of a run that came to its end.  Raises OutputError."""
        seconds = time.monotonic() - self._begun
        facts = {
            **run_facts(),
            **summary,
            "stage_seconds": dict(self._stages),
            "cpu_seconds": self._cpu_seconds,
            "frames_per_second": self._frames / seconds if seconds else 0.0,
            "workers": {name: dict(own) for name, own in self._workers.items()},
        }
        text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
        publish_text(self._folder, self._path.with_suffix(".json"), text)


def _how(kind: type, error: BaseException | None) -> str:
    """Say how a run ended early."""
    if isinstance(error, Exception):
        return f"{kind.__name__}: {error}"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "terminated"
