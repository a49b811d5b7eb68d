"""Tracker processes fed by workers: a tracker like any other, and what becomes of its deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from multiprocessing import active_children
from multiprocessing.connection import Client
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from source_fixtures import write_video
from waiting import wait_until

from builder.build.executors.base import EXECUTORS, Outcome
from builder.build.executors.kinds.processes import Processes
from builder.build.tracker_process import SharedTracker, repeated, shared_tracker, tracker_hosts
from builder.cli import main
from builder.core.errors import ConfigError, TrackingError, WorkerError
from builder.core.worker_slot import worker_slot
from builder.core.working import still_working, working_told_to
from builder.dataset.folder import read_failures, read_index
from builder.testing import trackers as suite
from builder.trackers.kinds.dis import DisTracker
from builder.trackers.kinds.lk import LkTracker
from schemas.config import ExecutorPart

PATIENT = 120.0
SHAPE, QUERIES = suite.SHAPE, suite.QUERIES


def hosts(make_tracker, count=1, ahead=3, stall_seconds=PATIENT, on_notice=lambda text: None):
    own = SimpleNamespace(trackers=count, ahead=ahead)
    return tracker_hosts(make_tracker(), make_tracker, own, stall_seconds, on_notice)


# The same tracker as without


@pytest.fixture(scope="module")
def dis():
    with hosts(DisTracker) as [address]:
        yield address


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_conforms(dis, check):
    check(lambda: SharedTracker(dis))


@pytest.mark.parametrize("ahead", [1, 2, 50])
def test_windows_are_the_same_however_far_ahead(dis, ahead):
    address = dis._replace(ahead=ahead)
    frames = suite.moving_frames(suite.LENGTH)
    found = suite.run_tracker(SharedTracker(address), frames)
    expected = suite.run_tracker(DisTracker(), frames)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.start == theirs.start
        np.testing.assert_array_equal(ours.tracks_xy, theirs.tracks_xy)
        np.testing.assert_array_equal(ours.vis, theirs.vis)


def test_no_more_frames_are_under_way_than_asked_for(dis):
    session = SharedTracker(dis).open(SHAPE, QUERIES, 5, 1)
    for frame in suite.moving_frames(20):
        session.push(frame)
        assert session._pipe.unanswered <= dis.ahead == 3
    session.finish()


def test_it_says_what_the_tracker_says():
    with hosts(LkTracker) as [address]:
        shared, own = SharedTracker(address), LkTracker()
        assert (shared.info, shared.notice) == (own.info, own.notice)
        assert (shared.gives_conf, shared.gives_tracks) == (own.gives_conf, True)
        with pytest.raises(TrackingError, match="outside"):
            shared.open(SHAPE, QUERIES + 1000, 5, 1)


def test_its_socket_is_for_this_user_alone(dis):
    folder = Path(dis.socket).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(OSError, match="refused"):  # nothing listens where anybody may knock
        Client(f"\0{dis.socket}", "AF_UNIX")


def test_connections_that_say_nothing_hold_up_nobody(dis):
    assert SharedTracker(dis).info  # it listens
    silent = [Client(dis.socket, "AF_UNIX") for _ in range(20)]
    half = Client(dis.socket, "AF_UNIX")
    os.write(half.fileno(), b"\0\0")  # the beginning of a length
    frames = suite.moving_frames(suite.LENGTH)
    assert suite.run_tracker(SharedTracker(dis), frames)
    for pipe in (*silent, half):
        pipe.close()


def test_a_long_temporary_folder_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    with hosts(DisTracker) as [address]:
        assert SharedTracker(address).info == DisTracker().info
    assert not Path(address.socket).parent.exists()


def test_no_temporary_folder_is_said(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/no-such-folder")  # short: a socket's name may be
    with pytest.raises(ConfigError, match="set TMPDIR"), hosts(DisTracker):
        pass


# Deaths.  Frames of one gray value say what happens to whoever tracks them.

CRASH, CRASH_ONCE, HANG, REFUSE, SLOW = 66, 67, 77, 88, 99


class Touchy(LkTracker):
    """Does what a frame's gray value says; ``folder`` remembers what was done once."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    def open(self, *args):
        return _TouchySession(super().open(*args), self.folder)


class _TouchySession:
    def __init__(self, session, folder):
        self.session, self.folder = session, folder
        self.finish = session.finish

    def push(self, frame):
        what = int(frame[0, 0, 0]) if np.ptp(frame) == 0 else 0
        once = self.folder / "crashed once"
        if what == CRASH or (what == CRASH_ONCE and not once.exists()):
            if what == CRASH_ONCE:
                once.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == HANG:
            signal.pause()
        over = time.monotonic() + 5.0
        while what == SLOW and time.monotonic() < over:
            still_working()
        if what == REFUSE:
            raise TrackingError("refused", what)
        return self.session.push(frame)


def clip(what, length=12):
    frames = suite.moving_frames(length)
    if what:
        frames[7] = np.full((*SHAPE, 3), what, np.uint8)
    return frames


def track_clip(task, report):
    """What a worker does: track a clip whose eighth frame is special."""
    address, what = task

    def attempt():
        windows = []
        session = shared_tracker(address).open(SHAPE, QUERIES, 3, 1)
        for number, frame in enumerate(clip(what)):
            time.sleep(0.01)  # a pace at which several workers are in the middle of their clips
            windows += session.push(frame)
            report(number, 12)
        return np.stack([w.tracks_xy for w in windows + session.finish()])

    return repeated(attempt)


def outcomes(tasks, workers=2, stall_seconds=PATIENT):
    events = Processes(Processes.Config(), workers, stall_seconds).run(track_clip, tasks)
    return {event.task[1]: event for event in events if isinstance(event, Outcome)}


def test_a_crash_costs_its_own_episode_alone(tmp_path, capfd):
    notices = []
    kinds = [0, 1, CRASH, 2, REFUSE, CRASH_ONCE, 3, 4]
    with hosts(partial(Touchy, str(tmp_path)), on_notice=notices.append) as [address]:
        found = outcomes([(address, what) for what in kinds], workers=3)
    assert sorted(found) == sorted(kinds)
    failed = {what: outcome.error for what, outcome in found.items() if outcome.error}
    assert sorted(failed) == [CRASH, REFUSE]
    assert type(failed[REFUSE]) is TrackingError
    assert failed[REFUSE].args == ("refused", REFUSE)
    assert type(failed[CRASH]) is WorkerError
    assert "died over it" in str(failed[CRASH])
    assert "tried twice" in str(failed[CRASH])
    assert len(notices) == 3
    assert notices[0] == "tracker process 0 was killed by SIGSEGV; it is started again"
    for what in (0, 3, CRASH_ONCE):
        session = LkTracker().open(SHAPE, QUERIES, 3, 1)
        windows = [w for frame in clip(what) for w in session.push(frame)] + session.finish()
        tracks_xy = np.stack([w.tracks_xy for w in windows])
        np.testing.assert_array_equal(found[what].result, tracks_xy)


def test_a_hang_costs_its_own_episode_alone(tmp_path, capfd):
    with hosts(partial(Touchy, str(tmp_path)), stall_seconds=6.0) as [address]:
        found = outcomes([(address, HANG), (address, 0), (address, 1)], stall_seconds=PATIENT)
    assert "died over it" in str(found[HANG].error)
    assert found[0].error is None
    assert found[1].error is None


def test_a_tracker_that_works_is_not_ended_and_all_who_wait_are_told(tmp_path):
    """It may be silent for two seconds, and takes five over one frame."""
    notices, told = [], []
    make_tracker = partial(Touchy, str(tmp_path))
    with hosts(make_tracker, stall_seconds=4.0, on_notice=notices.append) as [address]:
        slow, other = (SharedTracker(address).open(SHAPE, QUERIES, 3, 1) for _ in range(2))
        slow.push(np.full((*SHAPE, 3), SLOW, np.uint8))
        wait_until(slow._pipe.poll)  # its frame has begun, so the other's waits
        other.push(clip(0)[0])
        with working_told_to(lambda: told.append("other")):
            assert len(other.finish()) == 1
        with working_told_to(lambda: told.append("slow")):
            assert len(slow.finish()) == 1
    assert notices == []
    assert {*told} == {"other", "slow"}


def crash_in(task, report):
    address, _ = task
    session = shared_tracker(address).open(SHAPE, QUERIES, 3, 1)
    session.push(clip(0)[0])
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_worker_leaves_the_tracker_to_the_others(dis):
    events = Processes(Processes.Config(), 1, PATIENT).run(crash_in, [(dis, 0)])
    [outcome] = [event for event in events if isinstance(event, Outcome)]
    assert "SIGKILL" in str(outcome.error)
    assert outcomes([(dis, 0)])[0].error is None


def test_a_tracker_process_that_is_killed_between_episodes_costs_nothing():
    others = {child.pid for child in active_children()}
    with hosts(DisTracker) as [address]:
        assert outcomes([(address, 0)])[0].error is None
        (host,) = {child.pid for child in active_children()} - others
        os.kill(host, signal.SIGKILL)
        assert outcomes([(address, 0)])[0].error is None


class SaysItsSlot(DisTracker):
    """Its notice is what it would choose its device by."""

    notice = property(lambda self: str(worker_slot()))


def test_a_tracker_process_that_is_suspended_is_replaced():
    said, others = threading.Event(), {child.pid for child in active_children()}
    frames = suite.moving_frames(suite.LENGTH)
    expected = suite.run_tracker(LkTracker(), frames)
    with hosts(LkTracker, stall_seconds=4.0, on_notice=lambda text: said.set()) as [address]:
        before = SharedTracker(address)
        (host,) = {child.pid for child in active_children()} - others
        os.kill(host, signal.SIGSTOP)
        found = repeated(lambda: suite.run_tracker(before, frames))
        assert said.is_set()
        assert host not in [child.pid for child in active_children()]
    assert [window.start for window in found] == [window.start for window in expected]


def test_each_tracker_process_keeps_its_device():
    before = {child.pid for child in active_children()}
    with hosts(SaysItsSlot, count=2) as addresses:
        assert [SharedTracker(address).notice for address in addresses] == ["0", "1"]
        for child in active_children():
            if child.pid not in before:
                os.kill(child.pid, signal.SIGKILL)
        assert [SharedTracker(address).notice for address in addresses] == ["0", "1"]


class Only:
    """Makes a tracker in one process; ``elsewhere`` says what happens in others."""

    def __init__(self, elsewhere):
        self.elsewhere, self.here = elsewhere, os.getpid()

    def __call__(self):
        if os.getpid() == self.here:
            return DisTracker()
        if self.elsewhere == "error":
            raise ConfigError("the weights are missing")
        os._exit(9)


@pytest.mark.parametrize(
    ("elsewhere", "words"),
    [("error", "the weights are missing"), ("exit", "cannot start: the last one ended with exit")],
)
def test_a_tracker_that_cannot_be_made_is_said(elsewhere, words):
    with hosts(Only(elsewhere)) as [address], pytest.raises(ConfigError, match=words):
        SharedTracker(address)


class ForView(DisTracker):
    def for_view(self, *which):
        return self


def test_a_tracker_that_must_know_its_view_is_refused():
    with pytest.raises(ConfigError, match="leave executor"), hosts(ForView):
        pass


def test_none_asked_for_is_none_started():
    before = {child.pid for child in active_children()}
    with hosts(DisTracker, count=0) as addresses:
        assert addresses == []
        assert {child.pid for child in active_children()} == before
    with tracker_hosts(DisTracker(), DisTracker, object(), PATIENT) as addresses:
        assert addresses == []


def test_nothing_is_left_behind():
    before = {child.pid for child in active_children()}
    with hosts(DisTracker, count=2) as [first, second]:
        SharedTracker(first).open(SHAPE, QUERIES, 3, 1).push(suite.moving_frames(1)[0])
        SharedTracker(second)
        assert len({child.pid for child in active_children()} - before) == 2
    assert not Path(first.socket).parent.exists()
    assert {child.pid for child in active_children()} == before


# Builds

SETTINGS = ["queries.grid=[3, 4]", "tracker.horizon=4", "tracker.input={short_side: 40}"]


def build(videos, out, *more):
    where = ["--source", str(videos), "--out", str(out), "--quiet", "--img-shape", "48", "100"]
    return main(["build", *SETTINGS, *where, "source.kind=episodes", *more])


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fed") / "videos"
    for index in range(3):
        for view, shape in (("front", (48, 90)), ("wrist", (90, 48))):
            write_video(folder / str(index) / f"{view}.mp4", count=9 + index, shape=shape)
    cut = write_video(folder / "cut" / "front.mp4", count=30, shape=(48, 90))
    cut.write_bytes(cut.read_bytes()[:-400])
    return folder


@pytest.fixture(scope="module")
def unfed(videos):
    out = videos.parent / "unfed"
    assert build(videos, out, "executor.kind=serial") == 1
    return out


@pytest.mark.parametrize("how", ["kind=serial", "workers=2"])
@pytest.mark.parametrize("trackers", [1, 2])
def test_a_fed_build_gives_the_same_bytes_and_failures(videos, unfed, tmp_path, how, trackers):
    out = tmp_path / "out"
    fed = [f"executor.{how}", f"executor.trackers={trackers}", "executor.ahead=3"]
    assert build(videos, out, *fed) == 1
    assert read_index(out) == read_index(unfed)
    assert len(read_index(out)) == 3
    assert read_failures(out) == read_failures(unfed)
    assert (out / "dataset.json").read_bytes() == (unfed / "dataset.json").read_bytes()
    for path in (unfed / "episodes").iterdir():
        assert (out / "episodes" / path.name).read_bytes() == path.read_bytes()


def test_a_layer_of_tracks_is_the_same_too(videos, unfed, tmp_path):
    digests = []
    for name, trackers in (("own", 0), ("fed", 1)):
        argv = ["track", str(unfed), "--name", name, "tracker.kind=lk", "tracker.horizon=3"]
        assert main([*argv, f"executor.trackers={trackers}", "executor.workers=2"]) == 0
        files = sorted((unfed / "layers" / name).rglob("*.hdf5"))
        digests.append([path.stat().st_size for path in files])
        assert len(files) == 3
    assert digests[0] == digests[1]


def test_only_executors_of_one_machine_have_it():
    _, own = EXECUTORS.configure(ExecutorPart(kind="serial", trackers=2, ahead=4))
    assert (own.trackers, own.ahead) == (2, 4)
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    with pytest.raises(ConfigError, match="trackers"):
        EXECUTORS.configure(ExecutorPart(kind="ray", trackers=1))


def test_a_killed_build_leaves_no_process_and_no_socket(videos, tmp_path, monkeypatch):
    """SIGKILL to the build alone, in the middle: workers and trackers end by themselves."""
    monkeypatch.setenv("TMPDIR", place := tempfile.mkdtemp())
    long = tmp_path / "videos"
    write_video(long / "a" / "front.mp4", count=3000, shape=(48, 90))
    out, fed = tmp_path / "out", ["executor.workers=1", "executor.trackers=1"]
    where = ["--source", str(long), "--out", str(out), "--quiet", "--img-shape", "48", "100"]
    command = [sys.executable, "-m", "builder.cli", "build", *SETTINGS, *where, *fed]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any((out / "tmp").glob("*.h5")))
    assert len(members(process.pid)) >= 3
    assert len(list(Path(place).glob("letterset-*/0"))) == 1
    process.kill()
    process.communicate(timeout=30)  # ends when nobody holds its standard error any more
    wait_until(lambda: not members(process.pid))
    Path(place).rmdir()  # which is empty


def members(session):
    """Processes of a session, by id."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, own = (path / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(own) == session and state != "Z":
            found.append(int(path.name))
    return found
