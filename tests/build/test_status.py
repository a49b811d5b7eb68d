"""Status: what is told of writers that run, ended, were stopped or killed; the run log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from source_fixtures import write_video

from builder.build.episode import Built
from builder.build.executors.base import Executor, Outcome, ProgressEvent
from builder.build.run_log import RunLog, last_config
from builder.build.status import status
from builder.cli import main
from builder.core.errors import DecodeError, WorkerError
from builder.core.registry import BUILTIN
from builder.core.stopwatch import Stopwatch
from builder.dataset.folder import DatasetWriter
from builder.dataset.locks import is_locked
from builder.stores import atomic
from builder.testing.samples import sample_meta
from schemas.base import Record
from schemas.dataset import FailureLine, IndexLine

SETTINGS = ["queries.grid=[3, 4]", "tracker.horizon=4", "executor.kind=serial"]


def line(name):
    return IndexLine(id=name, length=7, views=("front", "wrist"), digest="0" * 64)


def job(name):
    return SimpleNamespace(ref=SimpleNamespace(id=name, path=f"{name}.mp4"))


def built(name, new=True):
    return Outcome(job(name), Built(line(name), new, {"decode": 0.25, "track": 0.5}, 0.7, "host:7"))


START = {
    "event": "start",
    "seconds": 0,
    "writer": "main",
    "todo": 5,
    "config": {"source": {"path": 1}},
}


def log_line(**facts):
    return json.dumps({"done": 0, "failed": 0, "frames_done": 0, **facts}) + "\n"


@pytest.fixture
def catalog(tmp_path):
    with DatasetWriter.create(tmp_path, sample_meta(), "shard-1-of-2") as catalog:
        yield catalog


def test_a_running_writer(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr("builder.build.run_log.ALIVE_SECONDS", 0.0)
    catalog.add(line("a"))
    catalog.fail(FailureLine(id="b", path="b.mp4", stage="decode", reason="cut"))
    with RunLog(tmp_path, "shard-1-of-2") as log:
        log.start(todo=5, there=3)
        log.event(built("a"))
        log.event(Outcome(job("b"), error=DecodeError("cut")))
        log.event(ProgressEvent(job("odd \udcff"), 5, 20))
        log._begun -= 0.5  # as if it had taken that long
        before = snapshot(tmp_path)
        (found,) = status(tmp_path)
        assert snapshot(tmp_path) == before
    assert (found.writer, found.state, found.why) == ("shard-1-of-2", "running", "")
    assert (found.done, found.failed, found.todo, found.left) == (1, 1, 5, 3)
    assert found.running == {"odd \udcff.mp4": (5, 20)}
    assert found.frames_per_second > 0
    # Two and a quarter episodes took so long, two and three quarters are left.
    assert found.seconds_left == pytest.approx(14 / found.frames_per_second * 2.75 / 2.25)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_writers_that_ended(tmp_path):
    for writer, error in (("a", None), ("b", KeyboardInterrupt())):
        with DatasetWriter.create(tmp_path, sample_meta(), writer) as catalog:
            try:
                with RunLog(tmp_path, writer) as log:
                    log.start(todo=1, there=0)
                    catalog.add(line(f"episode {writer}"))
                    log.event(built(f"episode {writer}"))
                    if error:
                        raise error
            except KeyboardInterrupt:
                pass
    with DatasetWriter.create(tmp_path, sample_meta(), "c"):
        log = RunLog(tmp_path, "c")
        log.start(todo=1, there=0)
        log.event(ProgressEvent(job("x"), 1, 2))
        os.close(log._file)  # as a kill does
    states = {writer.writer: (writer.state, writer.why) for writer in status(tmp_path)}
    assert states == {
        "a": ("finished", ""),
        "b": ("stopped", "interrupted"),
        "c": ("killed", ""),
    }
    assert all(not writer.running and writer.seconds_left is None for writer in status(tmp_path))


def test_a_torn_log_and_a_log_that_has_not_begun(catalog, tmp_path):
    with RunLog(tmp_path, "shard-1-of-2") as log:
        (found,) = status(tmp_path)
        assert (found.state, found.todo) == ("running", 0)
        log.start(todo=5, there=3)
        with log._path.open("ab") as file:
            file.write(b'{"event": "al')
        (found,) = status(tmp_path)
        assert found.todo == 5


@pytest.mark.parametrize(
    "text",
    [
        "garbage\n",
        '{"event": "end", "how": "done"}\n',
        "[]\n",
        "\x00\n",
        '{"event"\n',
        "[" * 100_000 + "\n",
        '{"a":' * 100_000 + "\n",
        "x" * 17_000_000 + "\n",
        *(
            log_line(**{**START, key: value})
            for key, value in [
                ("writer", []),
                ("writer", "../x"),
                ("todo", "five"),
                ("todo", -1),
                ("todo", 10**400),
                ("done", None),
                ("seconds", -1),
                ("seconds", float("nan")),
            ]
        ),
        *(
            log_line(**START) + log_line(**{"seconds": 1.0, "event": "alive", **facts})
            for facts in [
                {"event": 7},
                {"running": []},
                {"running": {"x": [1]}},
                {"running": {"x": ["one", {}]}},
                {"event": "end", "how": {"why": 1}},
                {"seconds": "long"},
                {"frames_done": float("inf")},
            ]
        ),
    ],
    ids=lambda text: text[:40],
)
def test_a_damaged_log_is_no_log(catalog, tmp_path, text):
    with RunLog(tmp_path, "main") as log:
        log.start(todo=5)
        log._path.write_text(text)
        assert all(each.todo == 0 for each in status(tmp_path))
        assert main(["validate", str(tmp_path), "--deep"]) == 1  # it holds no episode
    assert main(["status", str(tmp_path)]) == 0


def test_what_is_no_file_is_no_log(catalog, tmp_path):
    (tmp_path / "runs" / "a.jsonl").mkdir(parents=True)
    os.mkfifo(tmp_path / "runs" / "b.jsonl")
    (tmp_path / "runs" / "c.jsonl").symlink_to("nothing")
    assert main(["status", str(tmp_path)]) == 0
    assert last_config(tmp_path) == {}


def test_where_locks_are_unknown_a_fresh_log_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    with DatasetWriter.create(tmp_path, sample_meta(), "main"), RunLog(tmp_path, "main") as log:
        log.start(todo=1, there=0)
        assert is_locked(tmp_path, "main") is None
        assert status(tmp_path)[0].state == "running"
        os.utime(log._path, (0, 0))
        assert status(tmp_path)[0].state == "killed"


def test_a_lock_is_seen_and_left_alone(catalog, tmp_path):
    assert is_locked(tmp_path, "shard-1-of-2")
    assert not is_locked(tmp_path, "nobody")
    assert not (tmp_path / "index" / "nobody.lock").exists()
    catalog.close()
    assert is_locked(tmp_path, "shard-1-of-2") is False


def test_writers_are_in_the_order_of_their_numbers(tmp_path):
    for index in (10, 9, 0):
        DatasetWriter.create(tmp_path, sample_meta(), f"shard-{index}-of-12").close()
    names = [writer.writer for writer in status(tmp_path)]
    assert names == ["shard-0-of-12", "shard-9-of-12", "shard-10-of-12"]


def test_stopwatch_adds_up(monkeypatch):
    clock, now = Stopwatch(), 5.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert list(clock.each("decode", [1, None, 3])) == [1, None, 3]
    with clock("track"):
        now += 0.25
    with pytest.raises(ValueError, match="no"), clock("track"):
        raise ValueError("no")
    assert clock.seconds == {"decode": 0.0, "track": 0.25}


# Through the command


def test_each_worker_is_shown_but_never_a_screenful(catalog, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("builder.build.run_log.ALIVE_SECONDS", 0.0)
    with RunLog(tmp_path, "shard-1-of-2") as log:
        log.start(todo=30, there=0)
        for number in range(20):
            log.event(
                ProgressEvent(job(f"clip {number:02d}"), (0, 5, 20)[number % 3], 20 * (number > 0))
            )
        assert main(["status", str(tmp_path)]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("shard-1-of-2: ")]
    assert lines[:3] == [
        "shard-1-of-2: opening  clip 00.mp4",
        "shard-1-of-2: 5/20 frames  clip 01.mp4",
        "shard-1-of-2: finishing  clip 02.mp4",
    ]
    assert len(lines) == 9
    assert lines[-1] == "shard-1-of-2: and 12 more"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("status")
    for index in range(2):
        write_video(folder / "videos" / f"clip {index}.mp4", count=8 + index, shape=(48, 90))
    (folder / "videos" / "broken.mp4").touch()
    where = ["--source", str(folder / "videos"), "--out", str(folder / "out")]
    argv = ["build", *SETTINGS, *where, "--quiet", "--img-shape", "48", "100"]
    assert main(argv) == 1
    return folder / "out"


def test_the_command(out, capsys):
    assert main(["status", str(out)]) == 0
    text = capsys.readouterr().out
    assert "finished" in text
    assert "2 episodes done, 1 failed; 0 of 1 writer at work" in text
    assert main(["status", str(out), "--json"]) == 0
    (writer,) = json.loads(capsys.readouterr().out)
    assert (writer["done"], writer["failed"], writer["left"]) == (2, 1, 0)
    assert main(["status", str(out.parent)]) == 1
    assert "no letterset dataset" in capsys.readouterr().err


def test_a_run_keeps_a_log_and_a_summary(out):
    (log,) = (out / "runs").glob("*.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events][::5] == ["start"]
    kinds = sorted(event["event"] for event in events)
    assert kinds == ["end", "episode", "episode", "failed", "start"]
    assert events[0]["todo"] == 3
    assert "numpy" in events[0]["versions"]
    assert events[-1]["how"] == "done"
    (kept,) = (out / "runs").glob("*.json")
    summary = json.loads(kept.read_text())
    assert kept.stem == log.stem
    assert (summary["built"], summary["frames"], len(summary["failures"])) == (2, 17, 1)
    stages = {"decode", "letterbox", "track", "write", "stats", "other"}
    assert stages == set(summary["stage_seconds"])
    (own,) = summary["workers"].values()
    assert (own["episodes"], own["frames"]) == (2, 17)
    assert own["seconds"] == pytest.approx(sum(summary["stage_seconds"].values()))
    assert summary["seconds"] >= own["seconds"]
    assert summary["frames_per_second"] > 0


def test_what_was_there_already_is_not_counted_as_work(tmp_path):
    with RunLog(tmp_path, "main") as log:
        log.start(todo=2, there=0)
        log.event(built("a", new=False))
        log.event(built("b"))
        log.summarize({})
    (kept,) = Path(tmp_path / "runs").glob("*.json")
    assert json.loads(kept.read_text())["workers"] == {
        "host:7": {"episodes": 1, "frames": 14, "seconds": 0.75}
    }


def test_a_line_longer_than_what_is_read_of_a_log(catalog, tmp_path):
    with RunLog(tmp_path, "shard-1-of-2") as log:
        log.start(todo=5, there=3, config={"episodes": ["x" * 80] * 10_000})
        assert status(tmp_path)[0].todo == 5
        log.event(built("a"))
        (found,) = status(tmp_path)
        assert (found.todo, found.left) == (5, 4)
        log.write("alive", running={"y" * 400_000: (1, 2)})
        assert status(tmp_path)[0].left in (4, 5)


class Dying(Executor):
    """Its first worker dies while it writes; the parent lives on."""

    class Config(Record):
        pass

    def __init__(self, *settings):
        pass

    def run(self, function, tasks):
        first, second = tasks
        folder = Path(first.config.store.path) / "tmp"
        mine, live = (atomic.stage(folder, ".h5") for _ in range(2))
        os.close(mine.descriptor)  # as the kernel does for a process that died
        yield Outcome(first, error=WorkerError("killed"))
        assert (mine.path.exists(), live.path.exists()) == (False, True)
        yield Outcome(second, error=WorkerError("killed"))
        os.close(live.descriptor)


def test_what_a_worker_that_died_was_writing_is_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(BUILTIN["executors"], "dying", f"{__name__}:Dying")
    for name in "ab":
        write_video(tmp_path / "videos" / f"{name}.mp4", count=3, shape=(30, 50))
    out = tmp_path / "out"
    argv = ["--source", str(tmp_path / "videos"), "--out", str(out), "--img-shape", "24", "40"]
    assert main(["build", "executor.kind=dying", *argv, "--quiet"]) == 3
    capsys.readouterr()
    for left in (1, 0):
        before = snapshot(out)
        assert main(["status", str(out)]) == 0
        assert snapshot(out) == before
        says = "note: tmp/ holds 1 file of runs that died; the next build, or finalize, clears it"
        assert (says in capsys.readouterr().out) == left
        main(["finalize", str(out)])
        capsys.readouterr()
