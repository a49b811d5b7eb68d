"""Kills and errors at chosen system calls: nothing bad is left, and the next run finishes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import FIXTURES

from builder.dataset.folder import DatasetWriter, index_line
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_meta

# Every so many calls here; run tests/fixtures/store_faults.py with a step of 1 for all of them.
STEPS = {"hdf5": 13, "zarr": 43}
STEPS_OF_REPLACEMENTS = {("hdf5", "replace"): 7, ("zarr", "replace"): 29}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("store", STEPS)
@pytest.mark.parametrize("mode", ["KILL", "TORN", "EIO", "ENOSPC", "EMFILE"])
def test_faults_at_system_calls(tmp_path, mode, store):
    first = 1 + len(mode)  # other calls for each mode
    assert faults(tmp_path, mode, first, STEPS[store], store) >= 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("store", "job"), STEPS_OF_REPLACEMENTS)
@pytest.mark.parametrize("mode", ["KILL", "ENOSPC"])
def test_faults_while_replacing(tmp_path, mode, store, job):
    step = STEPS_OF_REPLACEMENTS[store, job]
    assert faults(tmp_path, mode, len(mode), step, store, job) >= 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("mode", ["KILL", "EIO"])
def test_faults_around_the_two_steps_of_a_replacement(tmp_path, mode):
    # Where no two folders can be exchanged; the rest is deleting what was replaced.
    assert faults(tmp_path, mode, 1, 3, "zarr", "replace-in-steps") >= 9


def faults(folder, mode, first, step, *rest):
    """Inject faults; returns how many, when nothing bad came of them."""
    script = FIXTURES / "store_faults.py"
    done = subprocess.run(
        [sys.executable, str(script), str(folder), mode, str(first), str(step), *rest],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bad"] == [], done.stderr
    return result["faults"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to name open files")
def test_commits_sync_in_order(tmp_path, monkeypatch):
    """fsync(file) < rename < fsync(folder) < index line."""
    seen = []

    def wrap(name, describe):
        function = getattr(os, name)

        def call(*args, **kwargs):
            seen.append((name, *describe(*args, **kwargs)))
            return function(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    def opened(descriptor):
        return os.readlink(f"/proc/self/fd/{descriptor}")

    store = Hdf5Store(tmp_path)
    with DatasetWriter.create(tmp_path, sample_meta()) as catalog:
        wrap("fsync", lambda fd: [opened(fd)])
        wrap(
            "rename",
            lambda a, b, src_dir_fd, dst_dir_fd: [
                os.path.join(opened(src_dir_fd), a),
                os.path.join(opened(dst_dir_fd), b),
            ],
        )
        catalog.add(index_line(Sample("a/b").build(store)))
    final = str(store.path("a/b"))
    (rename,) = [event for event in seen if event[0] == "rename"]
    temporary = rename[1]
    assert rename[2] == final
    at = seen.index(rename)
    assert ("fsync", temporary) in seen[:at]
    assert seen[at + 1] == ("fsync", os.path.dirname(final))
    line = ("fsync", str(tmp_path / "index" / "main.jsonl"))
    assert seen.index(line) > at + 1
    # The folders of the id are new: they are made durable before anything is in them.
    assert ("fsync", str(tmp_path / "episodes")) in seen[:at]
