"""A line on a terminal while a verb works and prints nothing: how far it is, and for how long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

AFTER_SECONDS = 1.0
"""Of silence; then there is a line."""
_STEP_SECONDS = 0.25
_WIPE = "\r\033[K"


class _Line:
    """The line; on what is no terminal there is none."""

    def __init__(self, verb: str) -> None:
        self.verb, self.count = verb, ""
        self._begun = self._heard = time.monotonic()
        self._shown = False
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        if sys.stderr.isatty():
            self._thread.start()

    def wipe(self) -> None:
        """Make room for what is printed."""
        with self._lock:
            self._heard = time.monotonic()
            if self._shown:
                sys.stderr.write(_WIPE)
                sys.stderr.flush()
                self._shown = False

    def end(self) -> None:
        """Show nothing more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.wipe()

    def _tick(self) -> None:
        while not self._ended.wait(_STEP_SECONDS):
            with self._lock:
                now = time.monotonic()
                if now - self._heard >= AFTER_SECONDS:
                    sys.stderr.write(f"{_WIPE}{self.verb}: {self.count}{now - self._begun:.0f} s")
                    sys.stderr.flush()
                    self._shown = True


_line: _Line | None = None


@contextmanager
def waiting(verb: str) -> Iterator[None]:
    """Show on a terminal that a verb is at work, whenever it has been silent for a second."""
    global _line
    _line = _Line(verb)
    try:
        yield
    finally:
        stop_waiting()


def stop_waiting() -> None:
    """Leave the terminal to what shows progress by itself."""
    global _line
    if _line is not None:
        _line.end()
    _line = None


def wipe_line() -> None:
    """Make room for what is printed."""
    if _line is not None:
        _line.wipe()


def show_count(done: int, total: int) -> None:
    """Tell how many are done."""
    if _line is not None:
        _line.count = f"{done}/{total}, " if done < total else ""
