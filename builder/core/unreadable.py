"""What keeps a file from being read now, and says nothing of what is in it."""

import errno
import os
import re

UNREADABLE_NOW = {
    errno.EAGAIN: "a program has it open for writing, close it there first",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EIO: "check the disk, or the network it is on",
    errno.ESTALE: "mount its network disk again",
}
"""What to do, by the number of the system's error; of others, to try again."""

# HDF5 names the system's error somewhere in its own message, in exceptions of several types.
_ERRNO = re.compile(r"\berrno = (\d+)")


def errno_of(error: BaseException) -> int | None:
    """Return the number of the system's error that an exception is, or names in its text."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (named := _ERRNO.search(str(error))):
        return int(named[1])
    return number


def unreadable_now(number: int) -> str:
    """Say that a file cannot be read now, and what to do; goes behind its path."""
    return (
        f"cannot be read now ({os.strerror(number)}); nothing is known to be wrong with it: "
        f"{UNREADABLE_NOW.get(number, 'try again')}"
    )
