"""Numbers in sentences are told the same way everywhere."""

import re

import pytest
from places import ROOT

from builder.core.messages import count, duration, points, size

pytestmark = pytest.mark.core
# A number that may be 1, straight before a plural, in an f-string.
UNCOUNTED = re.compile(
    r"\{(?!\w*shape)[^{}]*\} (episodes|videos|clips|windows|problems|writers|shards) ?\b"
)


def test_one_thing_is_told_in_the_singular():
    assert [count(number, "episode") for number in (0, 1, 2)] == [
        "0 episodes",
        "1 episode",
        "2 episodes",
    ]


def test_durations_and_sizes_have_the_unit_that_fits():
    assert [duration(s) for s in (4, 59.4, 90, 3600 * 12.5)] == [
        "4 s",
        "59 s",
        "1 min 30 s",
        "12 h 30 min",
    ]
    assert [size(n) for n in (1, 999, 1500, 2.5e15)] == ["1 B", "999 B", "1.5 kB", "2.5 PB"]


def test_points_are_told_by_where_they_are():
    assert points((15, 20), "canvas") == "15 x 20 over the canvas"
    assert points((400, 1), "stored") == "400 as stored"


@pytest.mark.parametrize("folder", ["cli", "doctor", "report", "legacy", "upkeep", "export"])
def test_what_people_read_counts_through_one_helper(folder):
    found = [
        f"{path.name}: {hit.group()}"
        for path in sorted((ROOT / "builder" / folder).rglob("*.py"))
        for hit in UNCOUNTED.finditer(path.read_text())
        if ".count} " not in hit.group()
    ]
    assert not found


def test_what_rounds_up_to_a_minute_is_one():
    assert [duration(s) for s in (59.6, 3599.7, 0.3)] == ["1 min 0 s", "1 h 0 min", "0 s"]
