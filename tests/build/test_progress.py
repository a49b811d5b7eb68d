"""Progress: what is counted, what is written where, and that nothing odd stops it."""

import io
import os
import pty
from types import SimpleNamespace

import pytest

from builder.build.executors.base import Outcome, ProgressEvent
from builder.build.progress import ProgressDisplay
from builder.build.tally import Tally
from builder.core.errors import WorkerError
from builder.core.messages import failed, without_path


def job(name):
    return SimpleNamespace(ref=SimpleNamespace(path=name))


def test_tally_counts_shares_and_frames():
    tally = Tally(4)
    tally.count(ProgressEvent(job("a"), 5, 20))
    tally.count(ProgressEvent(job("b"), 9, 10))
    assert (tally.done, tally.frames, tally.share) == (0, 14, (0.25 + 0.9) / 4)
    tally.count(ProgressEvent(job("b"), 1, 10))  # its worker died and it is tried again
    assert tally.frames == 6
    tally.count(ProgressEvent(job("a"), 20, 20))
    tally.count(Outcome(job("a")))
    tally.count(Outcome(job("b"), error=WorkerError("no")))
    tally.count(Outcome(job("never reported")))
    assert (tally.done, tally.failed, tally.frames, tally.share) == (3, 1, 21, 0.75)


def test_what_is_left_is_told_by_frames_not_by_episodes():
    tally = Tally(3)
    tally.weights = {"long": 900, "short": 50, "other": 50}
    tally.count(Outcome(job("short")))
    tally.count(Outcome(job("other")))
    assert tally.share == pytest.approx(0.1)
    tally.count(ProgressEvent(job("long"), 450, 900))
    assert tally.share == pytest.approx(0.55)


def run(progress):
    with progress:
        progress.note("a [sentence] with brackets")
        progress.start(3, 2)
        for name in ("a.mp4", "b.mp4", "odd-\udcff.mp4"):
            for done in range(1, 25):
                progress.event(ProgressEvent(job(name), done, 24))
            error = None if name == "a.mp4" else WorkerError("cut [bold]short")
            progress.event(Outcome(job(name), error=error))


def test_lines_come_now_and_then_and_for_each_failure():
    seconds = iter(range(10_000))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    run(ProgressDisplay(stream=stream, clock=lambda: next(seconds)))
    stream.seek(0)
    lines = stream.read().splitlines()
    assert lines[:2] == ["a [sentence] with brackets", "3 episodes to build; 2 already there"]
    assert "FAILED b.mp4 (worker): cut [bold]short" in lines
    assert "FAILED odd-\\udcff.mp4 (worker): cut [bold]short" in lines
    # 75 events, one second each, a line every ten.
    regular = [line for line in lines if "frames/s" in line]
    assert len(regular) == 7
    assert regular[0] == "0/3 episodes, 10 frames, 1 frames/s, about 1 min 2 s left, 0 failed"


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8", errors="backslashreplace") as terminal:
        run(ProgressDisplay(stream=terminal))
        shown = ""
        while "2 failed" not in shown:  # what was written arrives piece by piece
            shown += os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert "3/3 episodes" in shown
    assert "2 failed" in shown
    assert "FAILED b.mp4 (worker): cut [bold]short" in shown
    assert "a [sentence] with brackets" in shown


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("a/b.mp4: cut: short", "cut: short"),
        ("/data/x/a/b.mp4: cut", "cut"),
        ("cut", "cut"),
        ("/data/a/b.mp4, view front: cut", "view front: cut"),
        ("a/b.mp4, which is cut", "a/b.mp4, which is cut"),
        ("ba/b.mp4: cut", "ba/b.mp4: cut"),
        ("frame 3: /data/a/b.mp4: cut", "frame 3: /data/a/b.mp4: cut"),
    ],
)
def test_a_path_is_told_once(reason, text):
    assert without_path(reason, "a/b.mp4") == text
    assert failed("a/b.mp4", reason) == f"FAILED a/b.mp4: {text}"
    assert failed("a/b.mp4", reason, "open") == f"FAILED a/b.mp4 (open): {text}"


def test_quiet_writes_nothing(capfd):
    run(ProgressDisplay(quiet=True))
    assert capfd.readouterr() == ("", "")


def test_the_task_is_named(capfd):
    with ProgressDisplay(task="track") as progress:
        progress.start(2, 0)
    assert "2 episodes to track\n" in capfd.readouterr().err


@pytest.mark.parametrize(("todo", "text"), [(1, "1 episode to build\n"), (0, "0 episodes")])
def test_first_line(todo, text):
    stream = io.StringIO()
    with ProgressDisplay(stream=stream) as progress:
        progress.start(todo, 0)
    assert stream.getvalue().startswith(text)


def test_a_terminal_shows_what_each_worker_is_on(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8", errors="backslashreplace") as terminal:
        with ProgressDisplay(stream=terminal) as progress:
            progress.start(30, 0)
            progress.event(ProgressEvent(job("a [long] name " * 9), 0, 0))
            progress.event(ProgressEvent(job("b.mp4"), 7, 20))
            progress.event(ProgressEvent(job("c.mp4"), 20, 20))
            for number in range(10):
                progress.event(ProgressEvent(job(f"more {number}"), 1, 2))
            shown = read_until(reader, "and 5 more")
        rest = read_until(reader, "\x1b[?25h")  # the cursor is shown again: it is over
    os.close(reader)
    picture = shown[shown.rindex("opening") :]
    assert "opening  a [long] name" in picture
    assert "7/20 frames  b.mp4" in picture
    assert "finishing  c.mp4" in picture
    assert "more 4" in picture
    assert "more 5" not in picture
    # The last picture is the bar alone.
    assert "b.mp4" not in rest[rest.rindex("0/30 episodes") :]


def read_until(reader, words):
    shown = ""
    while words not in shown:  # what was written arrives piece by piece
        shown += os.read(reader, 1 << 16).decode()
    return shown
