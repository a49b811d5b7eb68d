"""How a command over many episodes ended: one text, one JSON and one rule for exit codes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from builder.core.messages import failed
from schemas.dataset import FailureLine


class Result(ABC):
    """Base of the dataclasses that say how a command ended."""

    failures: Mapping[str, str] | Sequence[FailureLine]
    """Reasons by the name of what failed, or lines as the dataset stores them."""

    @abstractmethod
    def summary(self) -> str:
        """Count what was done, what was there already and what failed, in one line."""

    def lines(self) -> list[str]:
        """Return the lines above the summary: one for each failure, and what else is to be told."""
        if isinstance(self.failures, Mapping):
            return [failed(name, reason) for name, reason in self.failures.items()]
        return [failed(line.path, line.reason, line.stage) for line in self.failures]

    def text(self, place: str = "") -> str:
        """Return all of it for people; the summary is the last line, after ``place: ``."""
        return "\n".join([*self.lines(), f"{place}: {self.summary()}" if place else self.summary()])

    def as_json(self) -> dict[str, Any]:
        """Return all fields as JSON data."""
        return asdict(cast(Any, self))

    @property
    def wrong(self) -> bool:
        """Whether something failed, so that the exit code is not 0."""
        return bool(self.failures)

    @property
    def any_done(self) -> bool:
        """Whether any episode is there in the end."""
        return True

    @property
    def exit_code(self) -> int:
        """0 all good; 1 something failed, and is listed; 3 nothing could be done."""
        return 0 if not self.wrong else 1 if self.any_done else 3
