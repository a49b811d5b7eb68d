"""What builds left undone: told by validate, and a problem for finalize."""

from __future__ import annotations

import json

import pytest

from builder.build.coverage import lacking, undone


@pytest.fixture
def run(tmp_path):
    """Write the log of a run, later than all before."""
    number = iter(range(1000))

    def write(writer, todo=0, done=0, how="done", listed=20):
        (tmp_path / "runs").mkdir(exist_ok=True)
        base = {"seconds": 1.0, "failed": 0, "frames_done": 0}
        lines = [{"event": "start", "writer": writer, "todo": todo, "done": 0, **base}]
        if listed is not None:
            lines[0]["listed"] = listed
        lines.append({"event": "episode", "done": done, **base})
        if how:
            lines.append({"event": "end", "how": how, "done": done, **base})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        name = f"20260101T000000.{next(number):06d}Z-{writer}-7.jsonl"
        (tmp_path / "runs" / name).write_text(text)

    return write


def shards(run, numbers, count, **how):
    for number in numbers:
        run(f"shard-{number}-of-{count}", todo=5, done=5, **how)


def test_nothing_was_built(tmp_path):
    assert undone(tmp_path) == []
    assert lacking(tmp_path, 0) == 0


def test_a_shard_that_never_came_and_one_that_was_killed(run, tmp_path):
    shards(run, [0, 1, 3, 8], 9)
    run("shard-2-of-9", todo=5, done=2, how="terminated")
    run("shard-3-of-9", todo=5, done=4, how="")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "shard-4-of-9.lock").touch()  # it ended before it began a log
    assert undone(tmp_path) == [
        "shard-2-of-9 stopped (terminated) with 3 episodes to do: run it again",
        "shard-3-of-9 was killed with 1 episode to do: run it again",
        "5 of 9 shards came, without 4 to 7: run them, or the same build without --shard",
    ]
    assert lacking(tmp_path, 9) == 11
    assert lacking(tmp_path, 30) == 0
    # What they are told to do cures it: the killed ones again, and those that never came.
    shards(run, [2, 3, 4, 5, 6], 9)
    assert undone(tmp_path) == [
        "8 of 9 shards came, without 7: run them, or the same build without --shard"
    ]
    shards(run, [7], 9)
    assert undone(tmp_path) == []


def test_a_build_of_all_makes_up_for_shards(run, tmp_path):
    shards(run, [0], 2, how="")
    run("shard-1-of-3", todo=5, done=1, how="OutputError: full")
    assert len(undone(tmp_path)) == 3
    run("main", todo=4, done=1, how="interrupted")
    assert "the last run stopped (interrupted) with 3 episodes to do: run it again" in undone(
        tmp_path
    )
    run("main", todo=3, done=3)
    assert undone(tmp_path) == []


@pytest.mark.parametrize(("listed", "covered"), [(20, True), (21, False), (None, False)])
def test_a_build_of_before_covers_shards_of_as_many_episodes(run, tmp_path, listed, covered):
    shards(run, range(4), 4)
    run("shard-0-of-8", listed=listed)  # nothing to do: it was all there
    assert (undone(tmp_path) == []) is covered


def test_work_that_was_left_after_a_complete_build_is_told(run, tmp_path):
    run("main", todo=9, done=9)
    run("shard-0-of-1", todo=2, done=0, how="")  # such as with --overwrite
    assert undone(tmp_path) == ["shard-0-of-1 was killed with 2 episodes to do: run it again"]


def test_logs_that_are_none_are_passed_over(run, tmp_path):
    shards(run, [0, 1], 2, listed=None)
    (tmp_path / "runs" / "20270101T000000.000000Z-main-7.jsonl").write_text("{}\n")
    assert undone(tmp_path) == []
    assert lacking(tmp_path, 0) == 0
