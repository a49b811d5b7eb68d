"""The ray executor: the same conformance suite, and what only a cluster promises."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra [ray] is not installed")

import ray
from source_fixtures import write_video
from waiting import wait_until

from builder.build.executors.base import Outcome
from builder.build.executors.kinds import ray_cluster
from builder.build.executors.kinds.ray_cluster import RayCluster, RayClusterConfig
from builder.build.executors.kinds.ray_pool import Pool
from builder.cli import main
from builder.core.errors import ConfigError, WorkerError
from builder.dataset.folder import read_failures, read_index
from builder.stores.atomic import leftovers
from builder.testing import executors as conformance

pytestmark = pytest.mark.ray


def make(workers, stall_seconds, **settings):
    return RayCluster(RayClusterConfig(**settings), workers, stall_seconds)


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # tasks are functions of this file
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_conformance(cluster, check):
    check(make)


def work_a_little(task, report):
    for step in range(5):
        report(step, 5)
        time.sleep(0.02)  # a pace, so that processes are killed in the middle of a task
    return -task, os.getpid()


def outcomes(executor, function, tasks):
    return [event for event in executor.run(function, tasks) if isinstance(event, Outcome)]


def pool(workers, num_cpus=1.0):
    resources = {"num_cpus": num_cpus, "num_gpus": 0.0}
    return Pool(work_a_little, resources, workers, 60, lambda sentence: None)


def test_no_room_is_refused(cluster):
    with pytest.raises(ConfigError, match=r"num_gpus=1: it has 4 CPUs and 0 GPUs"):
        outcomes(make(None, 60, num_gpus=1.0), work_a_little, [1])


def test_workers_are_as_many_as_there_is_room(cluster):
    assert pool(None, num_cpus=2.0).size == 2
    assert pool(3, num_cpus=2.0).size == 3


def test_a_cluster_that_was_joined_before_is_kept(cluster):
    assert len(outcomes(make(1, 60, address="10.255.255.1:6379"), work_a_little, [1, 2])) == 2
    assert ray.is_initialized()


def ray_processes():
    """Processes of actors and of their children, by who they are."""
    found = {"actor": [], "child": []}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            above = Path(f"/proc/{parent}/cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if line.startswith(b"ray::Host"):
            found["actor"].append(int(path.name))
        elif b"multiprocessing.spawn" in line and above.startswith(b"ray::Host"):
            found["child"].append(int(path.name))
    return found


def test_killing_actors_and_children_at_random_loses_no_task(cluster):
    rng, killed, stop = random.Random(3), [], threading.Event()

    def kill_now_and_then():
        while not stop.wait(rng.uniform(0.5, 1.0)):
            kind = ("actor", "child")[len(killed) % 2]
            pids = ray_processes()[kind]
            if pids and len(killed) < 6:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(pids), signal.SIGKILL)
                    killed.append(kind)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        found = outcomes(make(2, 60), work_a_little, range(60))
    finally:
        stop.set()
        killer.join()
    assert sorted(outcome.task for outcome in found) == list(range(60))
    assert {"actor", "child"} == set(killed)
    lost = [outcome for outcome in found if outcome.error is not None]
    assert all(isinstance(outcome.error, WorkerError) for outcome in lost)
    assert all(outcome.result[0] == -outcome.task for outcome in found if outcome.error is None)
    # A task is given up only after it was hit twice.
    assert len(lost) <= len(killed) // 2


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no Ray cluster answers"),
        ("ray://127.0.0.1:1", "no Ray cluster answers"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
        ("there.invalid:6379", "no Ray cluster answers"),
        ("cluster", "host:port"),
        ("host:", "host:port"),
    ],
)
def test_an_address_where_nobody_answers_is_refused(address, words, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=words):
        make(1, 60, address=address)


def test_a_host_that_swallows_everything_is_refused_in_time(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster, "REACH_SECONDS", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with contextlib.ExitStack() as fillers:
            for _ in range(4):  # a full queue: further calls are not answered
                filler = fillers.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(address)
            with pytest.raises(ConfigError, match="timed out"):
                make(1, 60, address=f"127.0.0.1:{address[1]}")


# Builds


def build_argv(out, *more):
    videos = out.parent / "videos"
    if not videos.exists():
        for index in range(3):
            write_video(videos / f"clip {index}.mp4", count=6 + index, shape=(48, 90))
        (videos / "broken.mp4").touch()
    settings = ["queries.grid=[3, 4]", "tracker.horizon=4", *more]
    where = ["--source", str(videos), "--out", str(out), "--quiet", "--img-shape", "48", "100"]
    return ["build", *settings, *where]


def test_a_build_gives_the_same_bytes_and_failures(cluster, tmp_path):
    assert main(build_argv(tmp_path / "ray", "executor.kind=ray", "executor.workers=2")) == 1
    assert main(build_argv(tmp_path / "serial", "executor.kind=serial")) == 1
    ours, theirs = tmp_path / "ray", tmp_path / "serial"
    assert read_index(ours) == read_index(theirs)
    assert len(read_index(ours)) == 3
    assert read_failures(ours) == read_failures(theirs)
    for path in (theirs / "episodes").iterdir():
        assert (ours / "episodes" / path.name).read_bytes() == path.read_bytes()


def test_a_cluster_of_its_own_ends_with_the_build(tmp_path):
    """Told to end in the middle, as by SLURM: nothing is left running, nothing half done."""
    argv = build_argv(tmp_path / "out", "executor.kind=ray", "executor.workers=1")
    write_video(tmp_path / "videos" / "a long one.mp4", count=3000, shape=(48, 90))
    command = [sys.executable, "-m", "builder.cli", *argv]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    drafts = tmp_path / "out" / "tmp"
    wait_until(lambda: any(drafts.glob("*.h5")), 120)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    # A child that was killed leaves its draft behind; it is known for what it is and cleared.
    wait_until(lambda: not (leftovers(drafts, remove=True) or any(drafts.glob("*.h5"))))
    assert list((tmp_path / "out").rglob("*.hdf5")) == []


LISTENING = """
import os, ray
from pathlib import Path
from builder.build.executors.kinds.ray_cluster import RayCluster, RayClusterConfig
from builder.build.executors.kinds.ray_pool import Pool

def parent(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return "0"

def is_ours(pid):
    # Other clusters on this machine may listen anywhere.
    while pid not in ("0", str(os.getpid())):
        pid = parent(pid)
    return pid != "0"

def sockets(path):
    try:
        return {os.readlink(each)[8:-1] for each in (path / "fd").iterdir()}
    except OSError:
        return set()

if __name__ == "__main__":
    with RayCluster(RayClusterConfig(), 1, 60.0)._connected():
        ours = [path for path in Path("/proc").glob("[0-9]*") if is_ours(path.name)]
        assert len(ours) > 3  # the cluster's head and node are our children
        own = set().union(*map(sockets, ours))
        for table in ("tcp", "tcp6"):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in own:
                    print(fields[1].rpartition(":")[0])
"""


def test_a_cluster_of_its_own_is_reached_from_this_machine_alone(tmp_path):
    (tmp_path / "listening.py").write_text(LISTENING)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "listening.py")], stdout=subprocess.PIPE, check=True
    )
    addresses = set(done.stdout.decode().split())
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F", "0" * 31 + "1"}


def test_the_command_says_that_nobody_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    argv = build_argv(tmp_path / "out", "executor.kind=ray", "executor.address=127.0.0.1:1")
    assert main(argv) == 2
    assert "no Ray cluster answers there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
