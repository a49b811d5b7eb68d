"""Worker slots: what workers share devices by."""

from __future__ import annotations

import os
import signal
from functools import partial

from waiting import wait_until

from builder.build.executors.base import Outcome
from builder.build.executors.kinds.processes import Processes
from builder.core.worker_slot import worker_slot


def slot_or_death(task, report):
    if task in (1, 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return worker_slot()


def test_a_worker_that_replaces_another_takes_its_slot():
    # So that workers stay spread evenly over devices: three deaths would make slots 2 to 5.
    events = Processes(Processes.Config(), 2, 60.0).run(slot_or_death, range(12))
    outcomes = [event for event in events if isinstance(event, Outcome)]
    slots = {outcome.task: outcome.result for outcome in outcomes if outcome.error is None}
    assert sorted(slots) == [0, 2, *range(4, 12)]
    assert set(slots.values()) <= {0, 1}
    assert worker_slot() == 0  # here, where nothing is told


def test_slots_are_different_at_any_time(tmp_path):
    slots = list(
        Processes(Processes.Config(), 3, 60.0).run(
            partial(slot_while_others_work, tmp_path), range(3)
        )
    )
    assert sorted(outcome.result for outcome in slots) == [0, 1, 2]


def slot_while_others_work(folder, task, report):
    """Wait for the others, so that no worker does two tasks."""
    (folder / str(task)).touch()
    wait_until(lambda: len(os.listdir(folder)) == 3)
    return worker_slot()
