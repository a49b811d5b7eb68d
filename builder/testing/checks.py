"""What all conformance suites check with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def require(holds: Any, otherwise: str) -> None:
    """Raise AssertionError that says what is wrong, unless it holds."""
    if not holds:
        raise AssertionError(otherwise)


@contextmanager
def refused(kinds: Any, what: str, says: str = "") -> Iterator[None]:
    """Require that the block raises one of ``kinds``, with a message that contains ``says``."""
    try:
        yield
    except kinds as error:
        require(says in str(error), f"the error for {what} does not say {says!r}: {error}")
        return
    raise AssertionError(f"{what} was not refused")
