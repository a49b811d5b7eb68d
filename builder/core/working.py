"""How a long computation tells that it goes on: a stall is silence, not slowness."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

A = TypeVar("A")
T = TypeVar("T")


class Each(Protocol):
    """Calls a function for each item and yields what it returns, in the order of the items.

    ``one_by_one`` does, and in processes of their own ``builder.build.reader.each_apart``.
    """

    def __call__(self, function: Callable[[A], T], items: Sequence[A], /) -> Iterable[T]:
        """Call it; function, items and results must be picklable."""


def one_by_one(function: Callable[[A], T], items: Sequence[A], /) -> Iterable[T]:
    """Call a function for each item, here."""
    return map(function, items)


_tell: ContextVar[Callable[[], None] | None] = ContextVar("tell", default=None)


def still_working() -> None:
    """Tell whoever supervises this task that it goes on; nothing happens where nobody does.

    For what may take long over one frame: call it between its parts, as often as you like, in the
    thread that was called.
    """
    tell = _tell.get()
    if tell is not None:
        tell()


@contextmanager
def working_told_to(tell: Callable[[], None]) -> Iterator[None]:
    """Have :func:`still_working` call ``tell`` meanwhile, in this thread."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)
