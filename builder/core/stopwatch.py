"""Wall seconds by stage."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Wall seconds spent in each stage of one episode."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time spent inside."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begun

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Pass items on, counting the time it takes to get each."""
        source = iter(items)
        while True:
            with self(stage):
                item = next(source, self)
            if item is self:
                return
            yield item  # type: ignore[misc]
