"""The guard around reading what others made: whatever goes wrong there is told of their file.

Libraries raise what their damaged input leads to, and more than any list of exceptions names;
some loop or crash in C.  ``foreign`` makes one kind of error of the first; ``announce`` tells
whoever watches the process which file it is about to read, for the second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from builder.core.errors import DecodeError, LettersetError, SourceError
from builder.core.paths import printable_path
from builder.core.unreadable import UNREADABLE_NOW, errno_of, unreadable_now
from schemas.config import Limits

MEMORY_RATIO = 4
"""Memory that reading may take, in multiples of ``limits.max_array_bytes``."""

_DAMAGED = "it cannot be read, the file is damaged or of an unknown kind"


@contextmanager
def foreign(
    path: Path | str,
    place: str = "",
    what: str = _DAMAGED,
    kind: type[SourceError] = DecodeError,
) -> Iterator[None]:
    """Turn every exception but our own errors into an error of a file.

    ``place`` is where in the file; ``what`` is said before the exception, which stays the cause.
    The error is a DecodeError where damage is likely, and of another ``kind`` where it is not; of a
    file that is locked, forbidden or on a failing disk it says so, and not that it is damaged.
    """
    try:
        yield
    except LettersetError:
        raise
    except MemoryError as error:
        message = "reading it takes more memory than is allowed (limits.max_array_bytes)"
        raise DecodeError.at(Path(path), f"{_inside(place)}{message}") from error
    except Exception as error:
        number = errno_of(error)
        # Other libraries have numbers of their own in errors of their own.
        ours = type(error).__module__ == "builtins"
        if ours and number in UNREADABLE_NOW:
            message = f"it {unreadable_now(number)}"
        else:
            message = f"{what} ({said(error)})"
        raise kind.at(Path(path), f"{_inside(place)}{message}") from error


def said(error: Exception) -> str:
    """Put what a library raised into a line: its type, and its text if it has one."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(text.split())[:300]
    if isinstance(error, OSError) and line:
        return printable_path(line)
    return printable_path(f"{type(error).__name__}: {line}" if line else type(error).__name__)


def _inside(place: str) -> str:
    return f"{printable_path(place)}: " if place else ""


Announce = Callable[[str], None]

_announce: Announce | None = None
_refused: Mapping[str, str] = {}
_last = ""


def announce(path: Path) -> None:
    """Tell that a file or folder is going to be read.

    Raises SourceError when reading it has ended a process before.
    """
    global _last
    if _announce is None:
        return
    if reason := _refused.get(str(path)):
        raise SourceError.at(path, reason)
    _last = str(path)
    _announce(_last)


def still_reading() -> None:
    """Tell that the file that was announced last is still read, where that takes long."""
    if _announce is not None and _last:
        _announce(_last)


@contextmanager
def watched(to: Announce, refused: Mapping[str, str]) -> Iterator[None]:
    """Hand every announced path to ``to``; those in ``refused`` are not read, for the reason."""
    global _announce, _refused
    _announce, _refused = to, refused
    try:
        yield
    finally:
        _announce, _refused = None, {}


@contextmanager
def limited_memory(limits: Limits) -> Iterator[None]:
    """Let this process take ``MEMORY_RATIO`` arrays more than it has; then MemoryError is raised.

    For processes that are our own; without effect where the system cannot do it.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    more = min(MEMORY_RATIO * limits.max_array_bytes, 3 * physical // 4)
    wanted = _data_bytes() + more
    known = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """Bytes that count for RLIMIT_DATA now."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
