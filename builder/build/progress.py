"""Showing how a build goes: a bar and what each worker is on, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from builder.build.executors.base import Outcome, ProgressEvent
from builder.build.tally import Tally, label
from builder.core.messages import count, duration, failed
from builder.core.standard_streams import escaped, write_line

LINE_SECONDS = 10.0
SHOWN_WORKERS = 8  # by name; the others are counted


class ProgressDisplay:
    """Shows a build; a context manager.

    Its methods are what ``builder.build.pipeline.build`` calls: ``start``, ``event`` and ``note``.
    ``stream`` (default: standard error) decides between a bar and lines; quiet shows nothing.
    """

    def __init__(
        self,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        task: str = "build",
    ) -> None:
        stream = stream or sys.stderr
        self._task = task
        self._view: _View = _View()
        if not quiet:
            self._view = _Bar(stream) if stream.isatty() else _Lines(stream, clock)
        self._tally = Tally(0)
        self.failed: set[str] = set()
        """Names of the tasks that failed."""

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._view.close()

    def start(self, todo: int, done: int) -> None:
        """Begin: ``todo`` episodes to build (or what ``task`` says), ``done`` already there."""
        self._tally = Tally(todo)
        there = f"; {done} already there" if done else ""
        self._view.line(f"{count(todo, 'episode')} to {self._task}{there}")
        self._view.start(self._tally)

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Say how much work each episode is, by path, in one unit for all."""
        self._tally = Tally(self._tally.todo, weights)

    def event(self, event: Outcome | ProgressEvent) -> None:
        """Show an executor's event."""
        self._tally.count(event)
        if isinstance(event, Outcome) and event.error is not None:
            name = label(event.task)
            self.failed.add(name)
            self._view.line(failed(name, str(event.error), getattr(event.error, "stage", "")))
        self._view.update(self._tally)

    def note(self, sentence: str) -> None:
        """Show a sentence that is worth knowing."""
        self._view.line(sentence)


def worker_lines(running: Mapping[str, tuple[int, int]]) -> list[str]:
    """Say what each worker is on: its stage, with frames, and its episode.

    ``running`` has frames done and to do by episode.  The first ``SHOWN_WORKERS`` are named.
    """
    there = list(running.items())
    lines = []
    for name, (done, total) in there[:SHOWN_WORKERS]:
        at = f"{done}/{count(total, 'frame')}" if done < total else "finishing"
        lines.append(f"{at if total else 'opening':>20}  {name}")
    more = len(there) - SHOWN_WORKERS
    return [*lines, f"{f'and {more} more':>20}"] if more > 0 else lines


class _View:
    """What shows a build; this one, for ``--quiet``, nothing."""

    def line(self, text: str) -> None:
        """Show a sentence."""

    def start(self, tally: Tally) -> None:
        """Begin to show a tally."""

    def update(self, tally: Tally) -> None:
        """Show the tally as it is now."""

    def close(self) -> None:
        """Show nothing more."""


def _done(tally: Tally) -> str:
    return f"{tally.done}/{count(tally.todo, 'episode')}"


class _Lines(_View):
    """For log files: one line at most every LINE_SECONDS, and what is noteworthy."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._began = self._last = clock()

    def line(self, text: str) -> None:
        write_line(self._stream, text)
        self._stream.flush()

    def start(self, tally: Tally) -> None:
        self._began = self._last = self._clock()

    def update(self, tally: Tally) -> None:
        now = self._clock()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        elapsed = now - self._began
        share = tally.share
        left = f"about {duration(elapsed * (1 / share - 1))} left" if share else "just begun"
        self.line(
            f"{_done(tally)}, {count(tally.frames, 'frame')}, "
            f"{tally.frames / elapsed:.0f} frames/s, {left}, {tally.failed} failed"
        )


class _Bar(_View):
    """For terminals: a bar, and below it a line for each worker."""

    def __init__(self, stream: TextIO) -> None:
        from rich import progress
        from rich.console import Console
        from rich.live import Live

        self._began = time.monotonic()
        console = Console(file=stream)
        self._bar = progress.Progress(
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.fields[done]}"),
            progress.TextColumn("{task.fields[speed]:.0f} frames/s"),
            progress.TextColumn("{task.fields[failed]} failed"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
            expand=True,
        )
        self._running: Mapping[str, tuple[int, int]] = {}
        self._task: Any = None
        self._live = Live(console=console, get_renderable=self._picture)

    def line(self, text: str) -> None:
        self._live.console.print(escaped(text), markup=False, highlight=False)

    def start(self, tally: Tally) -> None:
        self._began = time.monotonic()
        self._task = self._bar.add_task("", total=1.0, done=_done(tally), speed=0.0, failed=0)
        self._running = tally.running
        self._live.start()

    def update(self, tally: Tally) -> None:
        self._bar.update(
            self._task,
            completed=tally.share,
            done=_done(tally),
            failed=tally.failed,
            speed=tally.frames / max(1e-3, time.monotonic() - self._began),
        )

    def close(self) -> None:
        self._running = {}
        self._live.stop()

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        lines = (
            Text(escaped(line), no_wrap=True, overflow="ellipsis")
            for line in worker_lines(self._running)
        )
        return Group(self._bar.get_renderable(), *lines)
