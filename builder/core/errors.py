"""Every error a user can cause, each with the exit code the command gives it.

Messages name the file, episode or view, what was got, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.core.paths import printable_path, without_passwords

if TYPE_CHECKING:
    from typing_extensions import Self


class LettersetError(Exception):
    """Base of all errors that are not our own bugs; no password of a URL is ever in their text."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_passwords(a) if isinstance(a, str) else a for a in args))


@contextmanager
def shown_as(folder: Path, place: str) -> Iterator[None]:
    """Put ``place`` for ``folder`` in the texts of our errors: where something really is."""
    try:
        yield
    except LettersetError as error:
        error.args = tuple(
            each.replace(str(folder), place) if isinstance(each, str) else each
            for each in error.args
        )
        raise


class SourceError(LettersetError):
    """One source cannot be built; it is listed as a failure and the others go on."""

    # Of a whole command: there was nothing that could be built.
    exit_code = 3
    stage = "open"

    def __init__(self, message: str, *more: object) -> None:
        super().__init__(message, *more)
        self.reason = message
        """The message without the path of the file, for records that outlive its place."""

    @classmethod
    def at(cls, path: Path, message: str) -> Self:
        """Return the error of one file or folder, which begins with its printable path."""
        error = cls(f"{printable_path(path)}: {message}")
        error.reason = message
        return error


class DecodeError(SourceError):
    """A video is damaged, truncated or of a kind that is refused."""

    stage = "decode"


class AbsentError(SourceError):
    """A file or folder that a source should have is not there."""


class FetchError(SourceError):
    """What lies at a URL does not come now, which says nothing of it: the next run tries again."""

    stage = "fetch"


class DepthError(SourceError):
    """A stream is no camera's picture but depth, or another single channel beyond 8 bits."""


class TrackingError(SourceError):
    """A tracker could not track one episode."""

    stage = "track"


class StoreError(SourceError):
    """What was built of one source cannot be stored the way it was asked for."""

    stage = "store"


class WorkerError(SourceError):
    """A worker process died or stalled, or a task or its result could not be passed on."""

    stage = "worker"


class ConfigError(LettersetError):
    """A config or a command line that cannot be followed; raised before any work."""

    exit_code = 2


class MissingExtraError(ConfigError):
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {module!r}, which is not installed; "
            f"install it with: pip install 'letterset[{extra}]'"
        )
        self.module, self.extra = module, extra

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # Errors travel from worker processes; the default would replay the message alone.
        return type(self), (self.module, self.extra)


class DatasetError(LettersetError):
    """A dataset, or one of its episodes, is not what it should be."""


class UnreadableError(DatasetError):
    """A part of a dataset cannot be read now, which says nothing about what is in it.

    Somebody has it locked, its permissions forbid it, the disk or the network fails.  What is not
    read is not damaged: it is neither moved nor built again.
    """


class NewerFormatError(LettersetError):
    """A later letterset wrote this: nothing is wrong with it, but this one cannot read it."""

    exit_code = 4

    def __init__(self, where: str, what: str) -> None:
        super().__init__(
            f"{where} was made by a newer letterset ({what}): upgrade with pip install -U letterset"
        )
        self.where, self.what = where, what

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.where, self.what)


class OutputError(LettersetError):
    """The output folder cannot be used: read-only, full or locked."""

    exit_code = 4


class HostError(OutputError):
    """One host lacks what a build needs, so that no task can be done there; others may have it."""
