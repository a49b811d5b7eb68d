"""The cores that a process may use: what a scheduler or a container leaves it."""

from __future__ import annotations

import os

import pytest

from builder.core.cores import available_cores

pytestmark = pytest.mark.core


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that lets us use 12 cores; returns a way to put files of control groups on it."""
    affinity = set(range(3, 15))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: affinity, raising=False)

    def write(files=()):
        for name, text in dict(files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(root=tmp_path))
        return tmp_path

    return write


def test_the_affinity_counts_where_nothing_else_does(machine):
    assert available_cores({}, machine() / "nowhere") == 12


@pytest.mark.parametrize(
    ("said", "cores"), [("4", 4), ("64", 12), ("", 12), ("0", 1), ("all", 12), ("²", 12)]
)
def test_what_slurm_gave_the_task(machine, said, cores):
    assert available_cores({"SLURM_CPUS_PER_TASK": said}, machine()) == cores


@pytest.mark.parametrize(
    ("inner", "outer", "cores"),
    [
        ("350000 100000", "max 100000", 4),
        ("max 100000", "150000 50000", 3),
        ("800000 100000", "50000 100000", 1),
        ("max 100000", "max 100000", 12),
        ("nonsense", "1 0", 12),
    ],
)
def test_quotas_of_version_2_also_of_groups_above(machine, inner, outer, cores):
    files = {
        "cgroup": "0::/slice/job\n",
        "mounts": "cgroup2 {root}/unified cgroup2 rw,nosuid 0 0\nnone / ext4 rw 0 0\nodd\n",
        "unified/slice/job/cpu.max": inner,
        "unified/slice/cpu.max": outer,
    }
    assert available_cores({}, machine(files)) == cores


@pytest.mark.parametrize(("quota", "cores"), [("250000", 3), ("-1", 12)])
def test_a_quota_of_version_1(machine, quota, cores):
    """In a container: the path is the host's, and only its own group is mounted."""
    files = {
        "cgroup": "4:memory:/docker/1f\n2:cpu,cpuacct:/docker/1f\n0::/\n",
        "mounts": "cgroup {root}/cpu cgroup ro,cpu,cpuacct 0 0\n",
        "cpu/cpu.cfs_quota_us": quota + "\n",
        "cpu/cpu.cfs_period_us": "100000\n",
    }
    assert available_cores({}, machine(files)) == cores
