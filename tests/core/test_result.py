"""How a command ended: what is told of it, and its exit code."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from builder.core.result import Result
from schemas.dataset import FailureLine

pytestmark = pytest.mark.core


@dataclass
class Counted(Result):
    done: int = 0
    failures: dict[str, str] | list[FailureLine] = field(default_factory=dict)

    @property
    def any_done(self):
        return self.done > 0

    def summary(self):
        return f"{self.done} done"


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (Counted(), 0),
        (Counted(2), 0),
        (Counted(2, {"a": "cut"}), 1),
        (Counted(0, {"a": "cut"}), 3),
    ],
)
def test_one_rule_for_exit_codes(result, code):
    assert result.exit_code == code


def test_failures_come_before_the_summary():
    line = FailureLine(id="b", path="b.mp4", stage="decode", reason="in/b.mp4: cut")
    by_name, stored = Counted(1, {"a": "a: cut"}), Counted(1, [line])
    assert by_name.text("out") == "FAILED a: cut\nout: 1 done"
    assert stored.text() == "FAILED b.mp4 (decode): cut\n1 done"
    assert by_name.as_json() == {"done": 1, "failures": {"a": "a: cut"}}
