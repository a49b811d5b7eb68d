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
from contextlib import nullcontext, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from builder.build.executors.base import Outcome, ProgressEvent
from builder.core.errors import OutputError
from builder.stores.atomic import make_folders, output_errors, publish_text, write_all
from schemas.config import Limits

# What can change numbers or speed.
_PACKAGES = (
    "letterset", "numpy", "h5py", "av", "opencv-python-headless", "opencv-python", "torch", "ray"
)  # fmt: skip

ALIVE_SECONDS = 10.0


def run_facts() -> dict[str, Any]:
    """Return versions and host of this run, as JSON data."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "host": platform.node(), "platform": platform.platform()}


def last_config(folder: Path) -> dict[str, Any]:
    """Return the config that the latest run of a build recorded, as JSON data; {} without any."""
    for log in sorted((folder / "runs").glob("*.jsonl"), reverse=True):
        with log.open(encoding="utf-8", errors="replace") as file:
            try:
                config = json.loads(file.readline())["config"]
            except (ValueError, KeyError, TypeError):
                continue  # nothing in a dataset depends on it
        if isinstance(config, dict):
            return config
    return {}


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
        self._stages: Counter[str] = Counter()
        self._cpu_seconds = 0.0
        self._workers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        with output_errors(self._path):
            make_folders(self._path.parent)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

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
        counts = {"done": self._done, "failed": self._failed, "frames_done": self._frames}
        line = json.dumps({"event": event, "seconds": seconds, **counts, **facts}) + "\n"
        with output_errors(self._path):
            write_all(self._file, line.encode(), self._at)
        self._at += len(line)

    def start(self, **facts: Any) -> None:
        """Say what is about to be done."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.write("start", writer=self._writer, when=now, pid=os.getpid(), **run_facts(), **facts)

    def event(self, event: Outcome | ProgressEvent) -> None:
        """Take an executor's event down."""
        ref = event.task.ref
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
