"""Standard streams: readers that leave never stop the work, and text never commands a terminal."""

import errno
import io
import os
import re
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

from builder.core.paths import without_passwords

# What terminals obey and people do not see: control characters except line ends and tabs, marks
# that turn the direction of text, and invisible ones.  Joiners, which some scripts need, stay.
_UNSAFE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)


def escaped(text: str) -> str:
    r"""Return text with control and other invisible characters as Python escapes, ``\x1b``."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def write_line(stream: TextIO, text: str) -> None:
    """Write text as a line of its own, escaped and without passwords.

    What the stream cannot encode is escaped too.
    """
    encoding = stream.encoding or "utf-8"
    line = escaped(without_passwords(text)).encode(encoding, "backslashreplace").decode(encoding)
    stream.write(line if line.endswith("\n") else line + "\n")


def outlast_readers() -> None:
    """Let writing to this process's standard output and error never raise.

    What cannot be written is lost: the reader left, the disk is full, the stream was closed.
    Streams that something else stands in for already (a test, a notebook) are left alone.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        _open_if_closed(number)
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        if number:
            stream = _lossy(number, name, stream)
        else:
            stream = stream or open(number, closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _open_if_closed(number: int) -> None:
    """Open the null device where a stream was closed, or a file of ours would get its number."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)  # the lowest free number
        os.dup2(null, number)  # that children inherit
        if null != number:
            os.close(null)
        else:
            os.set_inheritable(number, True)


def _lossy(number: int, name: str, stream: TextIO | None) -> TextIO:
    """Return a text stream that writes as ``stream`` does; ``stream`` was closed if it is None."""
    with suppress(OSError, AttributeError):
        stream.flush()  # type: ignore[union-attr]
    raw = _LossyFile(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None),
        errors="backslashreplace",
        line_buffering=number == 2 or raw.isatty(),
        write_through=getattr(stream, "write_through", False),
    )


class _LossyFile(io.FileIO):
    """A file that takes whatever is written and loses what cannot be."""

    _told = False

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # set not to block, and full
                select.select([], [self], [])
            return written
        except OSError as error:
            self._tell(error)
            return memoryview(data).nbytes

    def _tell(self, error: OSError) -> None:
        """Say once, on standard error, why output is lost; a reader that left knows."""
        if self._told or error.errno == errno.EPIPE:
            return
        self._told = True
        if self.fileno() == 1 and sys.stderr is not None:
            reason = os.strerror(error.errno) if error.errno else str(error)
            write_line(sys.stderr, f"letterset: output is lost: standard output: {reason}")
