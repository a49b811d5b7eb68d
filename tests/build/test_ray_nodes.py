"""A Ray cluster of several nodes, as processes of this machine: nodes that fail, join and go."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager

import pytest

pytest.importorskip("ray", reason="the extra [ray] is not installed")

import ray
from ray.cluster_utils import Cluster
from source_fixtures import write_video
from waiting import wait_until

from builder.build.executors.base import Outcome
from builder.build.executors.kinds.ray_cluster import RayCluster, RayClusterConfig
from builder.core.errors import AbsentError, HostError, LettersetError, SourceError

pytestmark = pytest.mark.ray

PLACE = "LETTERSET_TEST_PLACE"  # set for all processes of a node
PATIENCE = 300.0


@pytest.fixture(scope="module")
def head():
    """A cluster of a head alone, which has no room for workers; this process has joined it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # tasks are functions of this file
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@contextmanager
def nodes(head, *places, **more):
    """Nodes with room for one worker each."""
    added = [join(head, place, **more) for place in places]
    try:
        yield added
    finally:
        for node in added:
            if node in head.worker_nodes:
                head.remove_node(node)
        wait_until(lambda: not alive() & {node.node_id for node in added}, PATIENCE)


def join(head, place, **more):
    node = head.add_node(wait=False, num_cpus=1, env_vars={PLACE: place, **more})
    wait_until(lambda: node.node_id in alive(), PATIENCE)
    return node


def alive():
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def start(notices=None, workers=None):
    executor = RayCluster(RayClusterConfig(), workers, 60.0)
    executor.on_notice = (notices if notices is not None else []).append
    return executor


def outcomes(executor, function, tasks):
    return [event for event in executor.run(function, tasks) if isinstance(event, Outcome)]


def here():
    return os.environ[PLACE]


def lacks_the_source(task, report):
    if here() == "bad":
        raise HostError("cpu-7 does not have the source: /data is empty there")
    time.sleep(0.05)  # a pace, so that tasks are left for the other
    return here()


def lacks_a_file(task, report):
    if here() == "bad" and task % 2:
        raise AbsentError(f"{task}.mp4: it cannot be opened: No such file or directory")
    return here()


def fails_everything(task, report):
    if here() == "bad":
        raise SourceError(f"{task}.mp4: no codec")
    time.sleep(0.05)  # a pace, so that tasks are left for the other
    return here()


def fails_anywhere(task, report):
    if task == 3:
        raise SourceError(f"3.mp4: damaged ({here()})")
    return here()


def refused_everywhere(task, report):
    raise HostError(f"{here()} does not have the source")


def takes_a_moment(task, report):
    time.sleep(0.05)  # a pace, so that nodes come and go in the middle
    return here()


@pytest.mark.parametrize("function", [lacks_the_source, fails_everything])
def test_a_node_that_fails_everything_is_used_no_longer(head, function):
    notices, until = [], time.monotonic() + PATIENCE
    numbers = itertools.takewhile(
        lambda number: not notices and time.monotonic() < until, itertools.count()
    )
    with nodes(head, "bad", "good") as (bad, _):
        found = outcomes(start(notices), function, numbers)
    tasks = sorted(outcome.task for outcome in found)
    assert tasks == list(range(len(tasks)))
    assert [outcome.result for outcome in found] == ["good"] * len(tasks)
    (notice,) = notices
    assert f"(Ray node {bad.node_id[:12]}) is no longer used: " in notice


def test_a_file_that_one_node_lacks_is_read_on_another(head):
    with nodes(head, "bad", "good"):
        found = outcomes(start(), lacks_a_file, range(10))
    assert sorted(outcome.task for outcome in found) == list(range(10))
    assert all(outcome.result == "good" for outcome in found if outcome.task % 2)
    assert all(outcome.error is None for outcome in found)


@pytest.mark.parametrize("workers", [None, 1])
def test_what_fails_on_two_nodes_is_a_failure_that_names_them(head, workers):
    notices = []
    with nodes(head, "one", "two"):
        found = outcomes(start(notices, workers), fails_anywhere, range(6))
    (failure,) = [outcome for outcome in found if outcome.error is not None]
    assert len(found) == 6
    assert failure.task == 3
    stage, reason = failure.failure()
    assert stage == "open"
    assert "3.mp4: damaged" in reason
    assert "(on " in reason
    assert "Ray node" in reason
    assert notices == []


def test_the_run_ends_where_no_node_has_what_it_needs(head):
    with nodes(head, "one", "two"):
        with closing(start().run(refused_everywhere, range(6))) as events:
            first = next(event for event in events if isinstance(event, Outcome))
        with pytest.raises(HostError, match="does not have the source"):
            first.failure()  # as a build asks, which ends then
        with pytest.raises(LettersetError, match=r"no node of the Ray cluster is left: .*one"):
            outcomes(start(), refused_everywhere, range(6))


def test_a_node_that_joins_is_used_and_one_that_goes_loses_no_task(head):
    pulled, seen, done, later = [], set(), [], []
    until = time.monotonic() + PATIENCE

    def pull():
        pulled.append(len(pulled))
        return pulled[-1]

    def tasks():
        while "second" not in seen and time.monotonic() < until:
            yield pull()
        head.remove_node(first)
        for _ in range(5):
            yield pull()

    with ExitStack() as stack:
        (first,) = stack.enter_context(nodes(head, "first"))
        for event in start().run(takes_a_moment, tasks()):
            if isinstance(event, Outcome):
                done.append(event)
                seen.add(event.result)
                if not later:
                    later += stack.enter_context(nodes(head, "second"))
    assert seen == {"first", "second"}
    assert sorted(outcome.task for outcome in done) == pulled
    assert all(outcome.error is None for outcome in done)


HELD = """
import pathlib
import time
import numpy as np

def track(video, queries_xy):
    pathlib.Path("{held}").touch()
    while True:
        time.sleep(0.1)
"""


def test_a_head_that_dies_ends_the_build_with_a_sentence(tmp_path, monkeypatch):
    """In processes of their own: Ray ends every process that had joined the cluster."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    write_video(tmp_path / "videos" / "one.mp4", count=8, shape=(48, 90))
    (tmp_path / "held_tracker.py").write_text(HELD.format(held=tmp_path / "held"))
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    tracker = ["kind=callable", "call=held_tracker:track", "coordinates=pixel_edge", "horizon=4"]
    where = [str(tmp_path / "videos"), str(tmp_path / "out")]
    argv = ["build", *(f"tracker.{each}" for each in tracker), *where, "--quiet"]
    argv += ["executor.kind=ray", f"executor.address={cluster.address}", "--img-shape", "48", "100"]
    command = [sys.executable, "-m", "builder.cli", *argv]
    build = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: build.poll() is not None or (tmp_path / "held").exists(), PATIENCE)
        cluster.head_node.kill_gcs_server(check_alive=False)
        _, errors = build.communicate(timeout=PATIENCE)
        assert build.returncode == 1, errors
        assert "the head of the Ray cluster" in errors
        assert "run the same command again to go on" in errors
    finally:
        if build.poll() is None:
            os.killpg(build.pid, signal.SIGKILL)
            build.wait()
        cluster.shutdown()
