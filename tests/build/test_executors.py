"""Executors: the conformance suite, proof that it can fail, and what only processes promise."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from multiprocessing import active_children
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from places import FIXTURES
from waiting import wait_until

from builder.build.executors import child, supervisor
from builder.build.executors.base import EXECUTORS, Outcome, ProgressEvent
from builder.build.executors.child import unpack
from builder.build.executors.kinds.processes import Processes, Serial
from builder.core.cores import available_cores
from builder.core.errors import LettersetError, WorkerError
from builder.core.working import still_working
from builder.testing import executors as conformance
from schemas.config import ExecutorPart


def make(workers: int, stall_seconds: float) -> Processes:
    return Processes(Processes.Config(), workers, stall_seconds)


def serial(workers: int, stall_seconds: float) -> Serial:
    return Serial(Serial.Config(), workers, stall_seconds)


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make_executor", [make, serial])
def test_conformance(make_executor, check):
    check(make_executor)


# Every check must be able to fail: fakes that get one thing wrong each.


class InProcess:
    """Runs everything here; fails where a child is needed."""

    def run(self, function, tasks):
        for task in tasks:
            events = []
            try:
                result = function(
                    task, lambda *at, t=task, e=events: e.append(ProgressEvent(t, *at))
                )
                yield from events
                yield Outcome(task, result)
            except Exception as error:
                yield Outcome(task, error=error)


class Wrapped:
    """A right executor whose tasks or events are spoiled."""

    def __init__(self, workers, stall_seconds):
        self.inner = make(workers, stall_seconds)

    def run(self, function, tasks):
        return self.inner.run(function, tasks)


class LosesOne(Wrapped):
    def run(self, function, tasks):
        yield from list(self.inner.run(function, tasks))[1:]


class SwapsResults(Wrapped):
    def run(self, function, tasks):
        for event in self.inner.run(function, tasks):
            yield Outcome(event.task, (event.task + 1, event.result[1]))


class LosesProgress(Wrapped):
    def run(self, function, tasks):
        return (e for e in self.inner.run(function, tasks) if isinstance(e, Outcome))


class TriesErrorsAgain(Wrapped):
    def run(self, function, tasks):
        for event in self.inner.run(function, tasks):
            if isinstance(event.error, ValueError):
                list(self.inner.run(function, [event.task]))
            yield event


class FlattensErrors(Wrapped):
    def run(self, function, tasks):
        for event in self.inner.run(function, tasks):
            yield event if event.error is None else Outcome(event.task, error=Exception("no"))


class StopsAtTheFirstDeath(Wrapped):
    def run(self, function, tasks):
        for event in self.inner.run(function, tasks):
            yield event
            if isinstance(event.error, WorkerError):
                return


class StopsTheSlowToo(Wrapped):
    def run(self, function, tasks):
        for event in self.inner.run(function, tasks):
            if isinstance(event, Outcome):
                yield Outcome(event.task, error=WorkerError("silent for 1 s"))


class PullsAll(Wrapped):
    def run(self, function, tasks):
        return self.inner.run(function, [next(tasks) for _ in range(200)])


class NeverEnds(Wrapped):
    """Its iterator ignores being closed; the children live on."""

    def run(self, function, tasks):
        self.events = self.inner.run(function, tasks)
        leaked.append(self.events)
        return _Unclosable(self.events)


class _Unclosable:
    def __init__(self, events):
        self.events = events

    def __iter__(self) -> Iterator:
        return self.events

    def __next__(self):
        return next(self.events)

    def close(self):
        return None


leaked: list = []


@pytest.mark.parametrize(
    ("check", "fake", "says"),
    [
        (conformance.every_task_has_one_outcome, LosesOne, "6 outcomes"),
        (conformance.every_task_has_one_outcome, SwapsResults, "got the result"),
        (conformance.every_task_has_one_outcome, lambda *_: InProcess(), "calling process"),
        (conformance.progress_names_its_task, LosesProgress, "last progress"),
        (conformance.errors_come_back, TriesErrorsAgain, "tried again"),
        (conformance.errors_come_back, FlattensErrors, "came back as"),
        (conformance.a_dead_worker_costs_its_task_alone, StopsAtTheFirstDeath, "outcomes for"),
        (conformance.a_dead_worker_costs_its_task_alone, FlattensErrors, "WorkerError"),
        (conformance.a_silent_worker_is_stopped, StopsTheSlowToo, "slow task"),
        (conformance.tasks_are_pulled_as_needed, PullsAll, "were pulled"),
        (conformance.closing_ends_the_children, NeverEnds, "still runs"),
    ],
)
def test_each_check_finds_a_broken_executor(check, fake, says, monkeypatch):
    monkeypatch.setattr(conformance, "GONE_SECONDS", 0.5)
    with pytest.raises(AssertionError, match=says):
        check(fake)
    while leaked:
        leaked.pop().close()


def test_check_executor_runs_every_check(monkeypatch):
    ran = []
    monkeypatch.setattr(conformance, "CHECKS", [ran.append, ran.append])
    conformance.check_executor(make)
    assert ran == [make, make]


# What only this backend promises.


def threads(task, report):
    import cv2

    return os.environ["OMP_NUM_THREADS"], cv2.getNumThreads(), os.getpid()


def work_a_little(task, report):
    report(0, 1)
    time.sleep(0.01)  # a pace, so that every worker gets some of the tasks
    return -task, os.getpid()


def sleep_long(task, report):
    report(os.getpid(), 0)
    signal.pause()


def tidy(folder, report):
    """Works inside a ``with``, as a store does, and tidies up on the way out."""
    path = Path(folder) / "half-done"
    try:
        path.touch()
        report(1, 2)
        signal.pause()
    finally:
        path.unlink()


class Unloadable:
    """Pickles, but no child can load it: as in a script without a main guard."""

    def __call__(self, task, report):
        return task

    def __reduce__(self):
        return os._exit, (9,)


def test_children_are_single_threaded_and_the_parent_is_left_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    [outcome] = make(1, 60).run(threads, [0])
    assert outcome.result[:2] == ("1", 1)
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


def test_workers_are_reused_and_then_replaced(monkeypatch):
    monkeypatch.setattr(supervisor, "TASKS_PER_WORKER", 10)
    outcomes = [e for e in make(2, 60).run(work_a_little, range(40)) if isinstance(e, Outcome)]
    pids = [outcome.result[1] for outcome in outcomes]
    assert len(pids) == 40
    assert 4 <= len(set(pids)) <= 5
    assert max(pids.count(pid) for pid in pids) == 10


def test_serial_has_one_child():
    assert serial(8, 60).workers == 1
    pids = {
        e.result[1] for e in serial(8, 60).run(work_a_little, range(5)) if isinstance(e, Outcome)
    }
    assert len(pids) == 1


def test_killing_workers_at_random_moments_loses_no_task(monkeypatch):
    """SIGKILL wherever a child happens to be: booting, idle, working, in the middle of a send."""
    monkeypatch.setattr(supervisor, "START_ATTEMPTS", 100)
    rng, killed, stop = random.Random(7), [], threading.Event()

    def kill_now_and_then():
        while not stop.wait(rng.uniform(0.05, 0.3)):
            children = [child.pid for child in active_children() if child.pid]
            if children and len(killed) < 8:
                killed.append(rng.choice(children))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        events = list(make(2, 60).run(work_a_little, range(200)))
    finally:
        stop.set()
        killer.join()
    outcomes = {e.task: e for e in events if isinstance(e, Outcome)}
    assert sum(isinstance(e, Outcome) for e in events) == len(outcomes) == 200
    assert len(killed) >= 3
    for task, outcome in outcomes.items():
        lost = isinstance(outcome.error, WorkerError) and "SIGKILL" in str(outcome.error)
        assert lost or outcome.result[0] == -task
    assert sum(outcome.error is not None for outcome in outcomes.values()) <= len(killed) // 2


def test_a_child_leaves_through_its_with_blocks(tmp_path):
    with closing(make(1, 60).run(tidy, [str(tmp_path)])) as events:
        next(events)
        assert (tmp_path / "half-done").exists()
    assert not (tmp_path / "half-done").exists()


def stay(task, report):
    """Refuse to end; once all are asked to, the first answers with the user's second Ctrl-C."""
    number, folder = task

    def refuse(*_):
        (folder / str(number)).touch()
        if number == 0:
            wait_until(lambda: (folder / "1").exists())  # the parent has none left to ask
            os.kill(os.getppid(), signal.SIGINT)

    signal.signal(signal.SIGTERM, refuse)
    report(1, 2)
    while True:
        signal.pause()


def test_a_second_ctrl_c_waits_for_no_child(monkeypatch, tmp_path):
    monkeypatch.setattr("builder.build.executors.child.GRACE_SECONDS", 100.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    others = {child.pid for child in active_children()}  # a reader may be kept
    events = make(2, 600).run(stay, [(0, tmp_path), (1, tmp_path)])
    try:
        assert {next(events).task[0] for _ in range(2)} == {0, 1}
        with pytest.raises(KeyboardInterrupt):
            events.close()
        # Released or killed: a child that was not would live on for ever.
        for child in active_children():
            if child.pid not in others:
                child.join(60)
                assert child.exitcode == -signal.SIGKILL
    finally:
        signal.signal(signal.SIGINT, before)
        for child in active_children():
            if child.pid not in others:
                child.kill()


@pytest.fixture
def pass_time(monkeypatch):
    """Let so many seconds pass, for executors alone."""
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(passed))
    for module in (supervisor, child):
        monkeypatch.setattr(module, "time", clock)
    return passed.append


def test_stalled_children_tidy_up_too(tmp_path, pass_time):
    events = make(1, 60).run(tidy, [str(tmp_path)])
    assert isinstance(next(events), ProgressEvent)
    assert (tmp_path / "half-done").exists()
    pass_time(100)
    [outcome] = events
    assert "stalled" in str(outcome.error)
    assert outcome.error.stage == "worker"
    assert not any(tmp_path.iterdir())


def stop_oneself(task, report):
    report(1, 2)
    os.kill(os.getpid(), signal.SIGSTOP)
    return task


def test_a_suspended_child_is_no_stalled_one(pass_time, monkeypatch):
    looks = []

    def look(process):
        looks.append(is_suspended(process))
        if looks.count(True) == 3:
            os.kill(process.pid, signal.SIGCONT)
        return looks[-1]

    is_suspended = supervisor.is_suspended
    monkeypatch.setattr(supervisor, "is_suspended", look)
    events = make(1, 4.0).run(stop_oneself, ["done"])
    assert isinstance(next(events), ProgressEvent)
    [process] = active_children()
    wait_until(lambda: is_suspended(process))
    pass_time(100)
    [outcome] = events
    assert (outcome.error, outcome.result) == (None, "done")


def go_on_until(path, report):
    report(3, 9)
    while not Path(path).exists():
        still_working()


def test_what_goes_on_is_no_stall(tmp_path, pass_time):
    """A stall is silence, not slowness: no frame is done for minutes, but the task says so."""
    over, seen = tmp_path / "over", []
    for event in make(1, 60).run(go_on_until, [str(over)]):
        seen.append(event)
        pass_time(50)
        if len(seen) == 5:
            over.touch()
    *progress, outcome = seen
    assert outcome.error is None
    assert len(progress) >= 5
    assert {(event.frames_done, event.frames_total) for event in progress} == {(3, 9)}


def test_a_slow_consumer_is_no_stall(pass_time, monkeypatch):
    """The clock of silence must not run while nobody listens."""
    # So long a time is enough for every worker to say what it has to say.
    monkeypatch.setattr(supervisor, "wait", lambda pipes, seconds: wait(pipes, 60))
    events = make(1, 60).run(work_a_little, range(3))
    outcomes = []
    for event in events:
        pass_time(100)
        outcomes += [event] if isinstance(event, Outcome) else []
    assert [outcome.error for outcome in outcomes] == [None] * 3


def test_workers_that_cannot_start_end_the_run(capfd):
    with pytest.raises(LettersetError, match=r"cannot start.*exit code 9"):
        list(make(2, 60).run(Unloadable(), count()))


def test_a_script_without_a_guard_is_told_so_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from builder.build.reader import apart\nprint(apart(len, 'abc'))\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    last = done.stderr.splitlines()[-1]
    assert "this script starts runs the script again: put what it does under 'if __name" in last
    script.write_text(script.read_text().replace("print", "if __name__ == '__main__':\n    print"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_errors_bring_their_traceback():
    [outcome] = make(1, 60).run(threads_missing, [0])
    assert type(outcome.error) is KeyError
    assert "in threads_missing" in str(outcome.error.__cause__)


def threads_missing(task, report):
    return {}["missing"]


def test_a_failing_task_list_ends_the_run():
    def tasks():
        yield 1
        raise LettersetError("the disk went away")

    with pytest.raises(LettersetError, match="disk went away"):
        list(make(2, 60).run(work_a_little, tasks()))
    assert not active_children()


def test_more_workers_than_cores_is_said():
    assert make(available_cores(), 60).notice is None
    assert "more workers will not make it faster" in make(available_cores() + 1, 60).notice


def test_registry_knows_both():
    for kind, expected in (("serial", Serial), ("processes", Processes)):
        found, own = EXECUTORS.configure(ExecutorPart(kind=kind))
        assert found is expected
        assert found(own, None, 1.0).workers >= 1


class FailsToStart:
    """Ends its first ``times`` children before they can begin; then its tasks end them."""

    def __init__(self, folder, times):
        self.folder, self.times, self.here = folder, times, os.getpid()

    def __reduce__(self):
        return _start, (self.folder, self.times, self.here)

    def __call__(self, task, report):
        with (Path(self.folder) / "tried").open("a") as file:
            file.write("x")
        os._exit(7)


def _start(folder, times, parent):
    if os.getpid() != parent:
        with (Path(folder) / "started").open("a") as file:
            file.write("x")
        if (Path(folder) / "started").stat().st_size <= times:
            os._exit(9)
    return FailsToStart(folder, times)


@pytest.fixture
def host_of():
    """Make the host of a child that an actor of Ray has, used here by itself."""
    pytest.importorskip("ray")
    from builder.build.executors.kinds.ray_host import Host

    return Host


@pytest.mark.parametrize(
    ("times", "tries", "says"), [(2, 2, "7; tried twice"), (99, 0, "9 before")]
)
def test_a_child_that_never_started_is_no_try_of_the_task(
    host_of, tmp_path, monkeypatch, times, tries, says
):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    host = host_of(pickle.dumps(FailsToStart(str(tmp_path), times)), 60.0)
    heard = []
    while not heard:
        *_, heard = host.advance(0, pickle.dumps(None))
    kind, error = unpack(heard[0])
    host.close()
    assert kind == "error"
    assert says in str(error)
    assert (tmp_path / "tried").exists() == bool(tries)
    assert not tries or (tmp_path / "tried").stat().st_size == tries


def test_calls_that_ray_repeats_or_brings_late_mix_up_no_results(host_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    host = host_of(pickle.dumps(work_a_little), 60.0)

    def result_of(number):
        heard = []
        while not heard or unpack(heard[-1])[0] == "progress":
            *_, heard = host.advance(number, pickle.dumps(number))
        assert unpack(heard[-1])[0] == "result"
        return unpack(heard[-1])[1][0]

    assert result_of(4) == -4
    assert result_of(4) == -4  # the answer was lost on its way
    host.advance(5, pickle.dumps(5))
    assert host.advance(4, pickle.dumps(4))[-1] == []
    assert result_of(5) == -5
    host.advance(6, pickle.dumps(6))  # a late call, on an actor that was started again
    assert result_of(7) == -7
    host.close()


SCRIPT = """
import signal
from tests.build.test_executors import make, sleep_long

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    for event in make(2, 600).run(sleep_long, range(100)):
        print(event.frames_done, flush=True)
"""


@pytest.fixture
def parent(root, tmp_path):
    """Run a parent of two busy children in a process group of its own, as a terminal does."""
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{FIXTURES}"},
        start_new_session=True,
    )
    children = [int(process.stdout.readline()) for _ in range(2)]
    yield process, children
    process.kill()
    process.communicate()


def wait_until_gone(pids):
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_children_die_with_a_killed_parent(parent):
    process, children = parent
    process.kill()
    wait_until_gone(children)
    _, errors = process.communicate()
    assert "Traceback" not in errors


def test_ctrl_c_ends_all_quietly(parent):
    process, children = parent
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    wait_until_gone(children)
    assert errors.count("Traceback") == 1, errors  # the parent's own KeyboardInterrupt
    assert errors.rstrip().endswith("KeyboardInterrupt")
