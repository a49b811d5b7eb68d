"""The locks of writers: waiting for one, hosts that died, and workers that see another folder."""

from __future__ import annotations

import os
import platform
import threading

import pytest
from waiting import wait_until

from builder.core.errors import HostError, OutputError
from builder.dataset import locks
from builder.dataset.folder import DatasetWriter
from builder.dataset.locks import Mark, holder, require_shared, take_lock
from builder.testing.samples import sample_meta
from schemas.dataset import IndexLine

LINE = IndexLine(id="a", length=7, views=("front",), digest="0" * 64)


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    """A writer at work, on another host as everybody will think."""
    monkeypatch.setattr(platform, "node", lambda: "node7")
    with DatasetWriter.create(tmp_path, sample_meta(), "shard-0-of-2") as catalog:
        monkeypatch.setattr(platform, "node", lambda: "node8")
        yield catalog


def silent(catalog, seconds):
    path = catalog.folder / "index" / "shard-0-of-2.lock"
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))
    return path


def test_a_writer_at_work_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    with DatasetWriter.create(tmp_path, sample_meta(), "main"):
        path = tmp_path / "index" / "main.lock"
        os.utime(path, (0, 0))
        wait_until(lambda: path.stat().st_mtime > 1e9)
    os.utime(path, (0, 0))
    assert path.stat().st_mtime == 0  # nobody touches it any more


def test_a_lock_is_waited_for(at_work, tmp_path):
    said = []

    def notice(sentence):
        said.append(sentence)
        at_work.close()

    os.close(take_lock(tmp_path, "shard-0-of-2", patience=60.0, on_notice=notice))
    assert said == [
        f"{tmp_path} is still being written by process {os.getpid()} on node7: waiting 60 s"
    ]


def test_a_holder_that_goes_on_is_left_alone(at_work, tmp_path):
    silent(at_work, locks.DEAD_SECONDS - 60)
    with pytest.raises(OutputError, match=r"process \d+ on node7, also after 1 s: wait"):
        take_lock(tmp_path, "shard-0-of-2", patience=1.0)
    at_work.add(LINE)


def test_the_lock_of_a_host_that_died_is_taken_over(at_work, tmp_path):
    said = []
    silent(at_work, locks.DEAD_SECONDS + 60)
    with DatasetWriter.create(
        tmp_path, sample_meta(), "shard-0-of-2", on_notice=said.append
    ) as new:
        assert said == [
            f"took over from process {os.getpid()} on node7, of which nothing was heard for too "
            "long"
        ]
        # It was not dead, after all, but suspended: it hears of it before it lists anything.
        with pytest.raises(OutputError, match=r"taken over by process \d+ on node8"):
            at_work.add(LINE)
        new.add(LINE)
        with pytest.raises(OutputError, match="on node8"):
            take_lock(tmp_path, "shard-0-of-2")


@pytest.mark.parametrize("case", ["of this host", "of an older letterset"])
def test_silence_alone_means_no_death(at_work, tmp_path, monkeypatch, case):
    """This host's kernel knows who lives; older versions never touch their locks."""
    path = tmp_path / "index" / "shard-0-of-2.lock"
    if case == "of this host":
        monkeypatch.setattr(platform, "node", lambda: "node7")
    else:
        path.write_text("process 7 on node7\n")
    silent(at_work, 10 * locks.DEAD_SECONDS)
    with pytest.raises(OutputError, match="on node7"):
        take_lock(tmp_path, "shard-0-of-2")


def test_a_worker_that_sees_another_folder_names_its_host(at_work, tmp_path):
    mark = at_work.lock.mark
    require_shared(tmp_path, mark)
    nowhere = tmp_path / "nowhere"
    with pytest.raises(HostError, match=r"node8 does not share the output: .*no shard-0-of-2.lock"):
        require_shared(nowhere, mark._replace(patience=0.0))
    assert not nowhere.exists()
    # A run of before, on the node's own disk, or a second run where there are no locks.
    with pytest.raises(HostError, match=r"is of process \d+ on node7"):
        require_shared(tmp_path, Mark("shard-0-of-2", "0" * 16, 0.0))


def test_a_network_disk_that_is_late_is_waited_for(at_work, tmp_path):
    late = tmp_path / "late"
    (late / "index").mkdir(parents=True)
    text = (tmp_path / "index" / "shard-0-of-2.lock").read_text()
    timer = threading.Timer(0.1, (late / "index" / "shard-0-of-2.lock").write_text, [text])
    timer.start()
    require_shared(late, at_work.lock.mark)
    timer.join()


def test_the_holder_is_told(at_work, tmp_path):
    assert holder(tmp_path / "index" / "shard-0-of-2.lock") == f"process {os.getpid()} on node7"
    assert holder(tmp_path / "nothing") == ""
