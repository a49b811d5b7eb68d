"""Conformance of executors: what every one of them must do, whatever it runs on.

Call :func:`check_executor` in a backend's tests, or run the single ``CHECKS`` as cases.
"""

import itertools
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from builder.build.executors.base import Executor, Outcome, ProgressEvent, ReportProgress
from builder.core.errors import WorkerError
from builder.testing.checks import require

MakeExecutor = Callable[[int, float], Executor]
"""``make_executor(workers, stall_seconds)`` gives a fresh executor."""

PATIENT = 60.0  # stall_seconds where nothing is meant to stall
GONE_SECONDS = 10.0  # until a child that was ended must have ended


def check_executor(make_executor: MakeExecutor) -> None:
    """Run all checks.  Raises AssertionError that says what is wrong."""
    for check in CHECKS:
        check(make_executor)


def every_task_has_one_outcome(make_executor: MakeExecutor) -> None:
    """Check that each task's own result comes back, once, from another process."""
    outcomes = _outcomes(make_executor(2, PATIENT), _square, range(7))
    require(len(outcomes) == 7, f"7 tasks gave {len(outcomes)} outcomes")
    results = {outcome.task: outcome.result for outcome in outcomes}
    require(sorted(results) == list(range(7)), f"outcomes are of the tasks {sorted(results)}")
    for task, result in results.items():
        require(result is not None, f"task {task} has no result")
        square, pid = result
        require(square == task * task, f"task {task} got the result {square}")
        require(pid != os.getpid(), "a task ran in the calling process")
    empty = list(make_executor(2, PATIENT).run(_square, []))
    require(not empty, f"no tasks gave {empty}")


def progress_names_its_task(make_executor: MakeExecutor) -> None:
    """Check that what a task reports comes through, before its outcome."""
    events = list(make_executor(2, PATIENT).run(_report_three, [10, 20]))
    for task in (10, 20):
        mine = [event for event in events if event.task == task]
        require(isinstance(mine[-1], Outcome), f"task {task} ends with {mine[-1]}")
        last = [event for event in mine if isinstance(event, ProgressEvent)][-1:]
        require(last == [ProgressEvent(task, 3, 3)], f"task {task}'s last progress is {last}")


def errors_come_back(make_executor: MakeExecutor) -> None:
    """Check that an exception comes back as itself, or as its text, and is not tried again."""
    with tempfile.TemporaryDirectory() as folder:
        tasks: list[Any] = [(folder, kind) for kind in ("plain", "unpicklable", "result", "good")]
        tasks.append((folder, _local_function()))
        outcomes = _outcomes(make_executor(1, PATIENT), _fail, tasks)
        require(len(outcomes) == 5, f"5 tasks gave {len(outcomes)} outcomes")
        error = {outcome.task[1]: outcome.error for outcome in outcomes}
        plain, unpicklable = error["plain"], error["unpicklable"]
        require(
            type(plain) is ValueError and plain.args == ("seven", 7),
            f"ValueError('seven', 7) came back as {plain!r}",
        )
        require("the lock is stuck" in str(unpicklable), f"the text was lost: {unpicklable!r}")
        require(error["result"] is not None, "a result that cannot be pickled is no error")
        require(error["good"] is None, f"a good task after bad ones failed: {error['good']!r}")
        unsent = next(value for key, value in error.items() if callable(key))
        require(unsent is not None, "a task that cannot be pickled is no error")
        require(_tries(folder, "plain") == 1, "a task that raised was tried again")


def a_dead_worker_costs_its_task_alone(make_executor: MakeExecutor) -> None:
    """Check that a crash is tried once more, then listed with its cause; the others go on."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = ["good", "exit", "good too", "segfault", "crash once", "good again"]
        outcomes = _outcomes(make_executor(2, PATIENT), _die, [(folder, kind) for kind in kinds])
        found = sorted(outcome.task[1] for outcome in outcomes)
        require(found == sorted(kinds), f"the tasks {kinds} gave outcomes for {found}")
        error = {outcome.task[1]: outcome.error for outcome in outcomes}
        for kind, cause in (("exit", "7"), ("segfault", "SIGSEGV")):
            _require_worker_error(error[kind], cause)
            tries = _tries(folder, kind)
            require(tries == 2, f"a task that ends its worker ({kind}) was tried {tries} times")
        for kind in ("good", "good too", "crash once", "good again"):
            require(error[kind] is None, f"the task {kind!r} failed: {error[kind]!r}")


def a_silent_worker_is_stopped(make_executor: MakeExecutor) -> None:
    """Check that a task without progress is ended; one that is slow but reports is not."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = [(folder, "hang"), (folder, "slow")]
        outcomes = _outcomes(make_executor(2, 1.0), _hang, tasks)
        error = {outcome.task[1]: outcome.error for outcome in outcomes}
        require(sorted(error) == ["hang", "slow"], f"outcomes are of {sorted(error)}")
        _require_worker_error(error["hang"], "1 s")
        require(error["slow"] is None, f"a slow task that reported failed: {error['slow']!r}")
        _require_gone(folder)


def tasks_are_pulled_as_needed(make_executor: MakeExecutor) -> None:
    """Check that an endless list of tasks works and is not read far ahead."""
    pulled = itertools.count()
    tasks = (next(pulled) for _ in itertools.count())
    executor: Any = make_executor(2, PATIENT)
    with closing(executor.run(_square, tasks)) as events:
        outcomes = (event for event in events if isinstance(event, Outcome))
        done = len(list(itertools.islice(outcomes, 20)))
    ahead = next(pulled) - done
    require(ahead <= 16, f"{ahead} tasks more than finished were pulled by 2 workers")


def closing_ends_the_children(make_executor: MakeExecutor) -> None:
    """Check that closing the iterator in the middle leaves no child behind."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = [(folder, "quick"), (folder, "hang"), (folder, "hang")]
        executor: Any = make_executor(2, PATIENT)
        with closing(executor.run(_hang, tasks)) as events:
            next(event for event in events if event.task[1] == "hang")
        _require_gone(folder)


CHECKS = (
    every_task_has_one_outcome,
    progress_names_its_task,
    errors_come_back,
    a_dead_worker_costs_its_task_alone,
    a_silent_worker_is_stopped,
    tasks_are_pulled_as_needed,
    closing_ends_the_children,
)


# The tasks: run in the executor's children.


def _square(task: int, report: ReportProgress) -> tuple[int, int]:
    return task * task, os.getpid()


def _report_three(task: int, report: ReportProgress) -> None:
    for done in (1, 2, 3):
        report(done, 3)


class _Unpicklable(Exception):
    def __init__(self, part: str, trouble: str) -> None:
        super().__init__(f"the {part} is {trouble}")


def _local_function() -> Callable[[], None]:
    return lambda: None


def _fail(task: tuple[str, str], report: ReportProgress) -> Any:
    folder, kind = task
    _leave_trace(folder, kind)
    if kind == "plain":
        raise ValueError("seven", 7)
    if kind == "unpicklable":
        raise _Unpicklable("lock", "stuck")
    return _local_function() if kind == "result" else None


def _die(task: tuple[str, str], report: ReportProgress) -> None:
    folder, kind = task
    _leave_trace(folder, kind)
    if kind == "exit":
        os._exit(7)
    if kind == "segfault" or (kind == "crash once" and _tries(folder, kind) == 1):
        os.kill(os.getpid(), signal.SIGSEGV)


def _hang(task: tuple[str, str], report: ReportProgress) -> None:
    folder, kind = task
    _leave_trace(folder, kind)
    report(0, 8)
    if kind == "hang":
        time.sleep(600)
    if kind == "slow":
        for step in range(8):
            time.sleep(0.25)
            report(step, 8)


# What the checks share.


def _outcomes(executor: Executor, function: Any, tasks: Any) -> list[Outcome]:
    return [event for event in executor.run(function, tasks) if isinstance(event, Outcome)]


def _leave_trace(folder: str, kind: str) -> None:
    with (Path(folder) / "trace").open("a") as file:
        file.write(f"{kind}:{os.getpid()}\n")


def _traces(folder: str) -> Iterator[tuple[str, int]]:
    for line in (Path(folder) / "trace").read_text().splitlines():
        kind, _, pid = line.partition(":")
        yield kind, int(pid)


def _tries(folder: str, kind: str) -> int:
    return sum(found == kind for found, _ in _traces(folder))


def _require_gone(folder: str) -> None:
    until = time.monotonic() + GONE_SECONDS
    pids = {pid for kind, pid in _traces(folder) if kind == "hang"}
    require(pids, "the hanging task was never started")
    while any(_alive(pid) for pid in pids):
        require(time.monotonic() < until, f"a child still runs after {GONE_SECONDS:g} s")
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _require_worker_error(error: BaseException | None, cause: str) -> None:
    require(
        isinstance(error, WorkerError) and cause in str(error),
        f"expected a WorkerError that names {cause!r}, got {error!r}",
    )
