"""Shards: the partition, its place in a SLURM array, builds by many writers, finalize."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_fixtures import write_video
from waiting import wait_until

from builder.build.backends import open_source
from builder.build.episode import Job, build_episode
from builder.build.shards import WEIGH_AT_MOST, Shard, own_refs
from builder.cli import main
from builder.cli.build import read_config
from builder.cli.main import parser
from builder.core.errors import ConfigError, HostError, OutputError, SourceError
from builder.dataset.folder import DatasetWriter, load_meta, read_failures, read_index
from builder.dataset.locks import take_lock
from builder.dataset.opening import open_dataset
from builder.dataset.validate import validate
from builder.sources.base import EpisodeRef, Source
from builder.sources.kinds.episode_folders import EpisodeFolders
from builder.sources.kinds.video_files import VideoFiles
from builder.sources.selected import Selected
from builder.sources.selection import Selection
from builder.stores import atomic, filesystem
from builder.stores.filesystem import filesystem_type, weaknesses
from builder.transform.finalize import finalize

SETTINGS = ["queries.grid=[3, 4]", "tracker.horizon=4", "executor.kind=serial"]
SHAPE = ["--img-shape", "48", "100"]


class Unlisted(Source):
    def refs(self):
        return iter(())

    def open(self, ref):
        raise AssertionError("it was opened")


class Weighed(Unlisted):
    def __init__(self, weights):
        self.weights = weights

    def weight(self, ref):
        return self.weights[ref.locator]


def refs_of(weights):
    return [EpisodeRef(f"clip {k * 7919 % 104729}-{k}", f"{k}.mp4", k) for k in range(len(weights))]


def split(weights, count, source=None):
    refs = refs_of(weights)
    return [own_refs(refs, Shard(k, count), source or Weighed(weights)) for k in range(count)]


# The partition


@given(st.lists(st.floats(0, 1e9), max_size=60), st.integers(1, 70))
def test_shards_have_each_episode_once_and_in_order(weights, count):
    shards = split(weights, count)
    assert sorted(ref.locator for part in shards for ref in part) == list(range(len(weights)))
    for part in shards:
        places = [ref.locator for ref in part]
        assert places == sorted(places)
    # No shard is idle while another has two.
    assert max(map(len, shards)) <= 1 or count <= len(weights)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=80), st.integers(1, 9))
def test_shards_are_balanced_by_weight(weights, count):
    loads = [sum(weights[ref.locator] for ref in part) for part in split(weights, count)]
    # What handing out the heaviest first promises: nobody has more than his share and one more.
    assert max(loads) <= sum(weights) / count + max(weights)


def test_shards_of_a_source_that_does_not_weigh_are_balanced_by_number():
    for source in (Unlisted(), Selected(Unlisted(), Selection())):
        assert sorted(map(len, split([5] * 11, 4, source))) == [2, 3, 3, 3]


def test_very_many_episodes_are_not_looked_at():
    class Slow:
        def weight(self, ref):
            raise AssertionError("it was weighed")

    weights = [1] * (WEIGH_AT_MOST + 1)
    assert sorted(map(len, split(weights, 2, Slow()))) == [10_000, 10_001]


def test_the_order_of_the_listing_does_not_matter():
    refs = refs_of(range(30))
    same = Weighed([3, 1, 2] * 10)
    there = {ref.id for ref in own_refs(refs, Shard(1, 4), same)}
    assert {ref.id for ref in own_refs(refs[::-1], Shard(1, 4), same)} == there


def test_videos_weigh_their_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "front.mp4").write_bytes(b"x" * 300)
    (tmp_path / "a" / "wrist.mp4").write_bytes(b"x" * 50)
    (tmp_path / "a" / "gone.mp4").symlink_to("nowhere")
    files = VideoFiles(tmp_path)
    assert [files.weight(ref) for ref in files.refs()] == [300, 0, 50]
    folders = EpisodeFolders(tmp_path)
    assert [folders.weight(ref) for ref in folders.refs()] == [350]
    one = Selected(VideoFiles(tmp_path / "a" / "front.mp4"), Selection())
    assert [one.weight(ref) for ref in one.refs()] == [300]


@pytest.mark.parametrize(
    ("text", "words"),
    [("4/4", "0/4 to 3/4"), ("1/0", "from 0"), ("1", "i/n"), ("-1/3", "i/n"), ("a.yaml", "last")],
)
def test_bad_shards_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0, 4, 0, 1), Shard(0, 4)),
        ((3, 4, 0, 1), Shard(3, 4)),
        ((7, 4, 4, 1), Shard(3, 4)),
        ((30, 4, 10, 10), Shard(2, 4)),
        ((7, 3, 1, 1), "plain range"),  # --array=1,5,7
        ((11, 3, 10, 5), "plain range"),
    ],
)
def test_place_in_a_slurm_array(numbers, expected):
    keys = ("ID", "COUNT", "MIN", "STEP")
    environ = {f"SLURM_ARRAY_TASK_{k}": str(n) for k, n in zip(keys, numbers, strict=True)}
    if isinstance(expected, Shard):
        assert Shard.of_slurm_array(environ) == expected
        return
    with pytest.raises(ConfigError, match=expected):
        Shard.of_slurm_array(environ)


def test_no_slurm_array():
    with pytest.raises(ConfigError, match="give --shard i/n"):
        Shard.of_slurm_array({"SLURM_ARRAY_TASK_ID": "1"})


# Builds


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "videos"
    for index in range(3):
        write_video(folder / f"clip {index}.mp4", count=6 + 4 * index, shape=(48, 90))
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def undivided(videos):
    out = videos.parent / "undivided"
    assert build(videos, out) == 1
    return out


def build(videos, out, *more):
    where = ["--source", str(videos), "--out", str(out), "--quiet"]
    return main(["build", *SETTINGS, *where, *SHAPE, *more])


@pytest.fixture(scope="module")
def sharded(videos):
    """Six shards of four episodes: two of them have nothing to do."""
    out = videos.parent / "sharded"
    codes = [build(videos, out, "--shard", f"{k}/6") for k in range(6)]
    # One shard has nothing but the broken video; that is 1, wherever it falls.
    assert sorted(codes) == [0, 0, 0, 0, 0, 1]
    return out


def test_shards_together_make_the_same_dataset(sharded, undivided, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(sharded, out)
    assert read_index(out) == read_index(undivided)
    assert len(list((out / "index").glob("*.jsonl"))) == 3
    assert main(["finalize", str(out)]) == 1
    text = capsys.readouterr().out
    assert "FAILED broken.mp4" in text
    assert "3 episodes, 30 frames of 3 writers; 1 failed, 0 problems" in text
    for kind in ("index", "failures"):
        (merged,) = (out / kind).glob("*.jsonl")
        lines = [json.loads(line) for line in merged.read_text().splitlines()]
        single = (undivided / kind / "main.jsonl").read_text().splitlines()
        assert lines == sorted(map(json.loads, single), key=lambda line: line["id"])
    assert validate(out) == []
    before = {path: path.read_bytes() for path in out.rglob("*.jsonl")}
    finalize(out)
    assert {path: path.read_bytes() for path in out.rglob("*.jsonl")} == before
    # Nothing is left to do for anyone.
    assert build(videos_of(sharded), out, "--json") == 1
    assert '"built": 0' in capsys.readouterr().out


def videos_of(out):
    return out.parent / "videos"


def test_more_shards_than_episodes_is_said(videos, tmp_path, capsys):
    argv = ["build", *SETTINGS, "--source", str(videos), "--out", str(tmp_path / "out"), *SHAPE]
    assert main([*argv, "--shard", "5/6"]) == 0
    assert "6 shards share 4 episodes" in capsys.readouterr().err


def test_the_place_comes_from_the_environment(videos, tmp_path, monkeypatch):
    for key, value in {"ID": 8, "COUNT": 2, "MIN": 7}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{key}", str(value))
    build(videos, tmp_path / "out", "--shard")
    assert (tmp_path / "out" / "index" / "shard-1-of-2.lock").exists()


def prepare(videos, out, capsys):
    capsys.readouterr()
    assert build(videos, out, "--prepare") == 0
    return capsys.readouterr().out.strip()


def test_shards_find_the_folder_that_was_prepared(videos, undivided, tmp_path, capsys):
    out = tmp_path / "out"
    token = prepare(videos, out, capsys)
    assert len(token) == 16
    assert read_index(out) == {}
    assert sorted(build(videos, out, "--prepared", token, "--shard", f"{k}/2") for k in (0, 1)) in (
        [0, 1],
        [1, 1],
    )
    assert "creates" not in capsys.readouterr().err
    assert read_index(out) == read_index(undivided)
    assert prepare(videos, out, capsys) == token  # for a second array
    assert main(["finalize", str(out)]) == 1  # for the broken video
    assert validate(out) == []


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("nothing", "there is no such folder"),
        ("an empty folder", "was not prepared"),
        ("a dataset", "was not prepared"),
        ("a prepared dataset", "was prepared with another token"),
    ],
)
def test_a_host_without_the_prepared_folder_writes_nothing(
    videos, undivided, tmp_path, capsys, monkeypatch, there, words
):
    """As where a disk is not mounted, also when an earlier build wrote to the wrong one."""
    monkeypatch.setattr("builder.dataset.locks.SHARED_SECONDS", 0.0)
    out = tmp_path / "out"
    if there == "an empty folder":
        out.mkdir()
    elif there == "a dataset":
        shutil.copytree(undivided, out)
    elif there == "a prepared dataset":
        prepare(videos, out, capsys)
    before = sorted(tmp_path.rglob("*"))
    token = prepare(videos, tmp_path.parent / f"{tmp_path.name} prepared", capsys)
    assert build(videos, out, "--prepared", token, "--shard", "0/2") == 4
    said = capsys.readouterr().err
    assert f"{platform.node()} does not have the prepared output: {out}" in said
    assert words in said
    assert f"of type {filesystem_type(out)})" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_shard_that_nobody_prepared_says_where_it_creates_the_dataset(videos, tmp_path, capsys):
    argv = ["build", *SETTINGS, "--source", str(videos), "--out", str(tmp_path / "out"), *SHAPE]
    where = f"this shard creates {tmp_path / 'out'}, on {platform.node()}, on a filesystem of type"
    for number, times in ((0, 1), (1, 0)):
        main([*argv, "--shard", f"{number}/2"])
        assert capsys.readouterr().err.count(where) == times


@pytest.mark.parametrize(
    "words",
    [["--prepared", ""], ["--prepared", "a" * 15], ["--prepare", "--shard", "0/2"]],
)
def test_a_token_that_is_none_ends_with_2(videos, tmp_path, capsys, words):
    assert build(videos, tmp_path / "out", *words) == 2
    assert "--prepare" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_shards_end_with_2_before_any_work(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert build(videos, tmp_path / "out", "--shard", "6/6") == 2
    assert build(videos, tmp_path / "out", "--shard") == 2
    assert not (tmp_path / "out").exists()


def test_a_shard_that_runs_already_is_refused(videos, undivided, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("builder.dataset.locks.PATIENCE_SECONDS", 0.5)
    with DatasetWriter.create(out, load_meta(undivided), "shard-0-of-2"):
        assert build(videos, out, "--shard", "0/2") == 4
        said = capsys.readouterr().err
        assert f"is being written by process {os.getpid()} on" in said
        assert ", also after" in said
        assert build(videos, out, "--shard", "1/2") in (0, 1)
        assert main(["finalize", str(out)]) == 4
        assert "being written" in capsys.readouterr().err


def test_a_shard_that_is_run_twice_changes_nothing(sharded, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(sharded, out)
    parts = ("dataset.json", "index/*.jsonl", "failures/*.jsonl", "episodes/*")
    before = {path: path.read_bytes() for part in parts for path in out.glob(part)}
    for number in range(6):
        build(videos_of(sharded), out, "--shard", f"{number}/6", "--json")
        assert '"built": 0' in capsys.readouterr().out
    assert before == {path: path.read_bytes() for part in parts for path in out.glob(part)}


def test_a_lock_that_is_looked_at_is_no_obstacle(tmp_path, monkeypatch):
    """Status holds a lock for an instant; a build that starts just then waits a little."""
    held = [take_lock(tmp_path, "main")]
    monkeypatch.setattr("builder.dataset.locks.time.sleep", lambda _: os.close(held.pop()))
    os.close(take_lock(tmp_path, "main"))
    assert held == []  # it did wait


def test_finalize_finds_what_is_not_right(sharded, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(sharded, out)
    names = sorted(read_index(out))
    # Never listed: its writer was killed between commit and listing.
    for path in (out / "index").glob("*.jsonl"):
        if names[0] in path.read_text():
            path.unlink()
    (out / "episodes" / f"{names[1]}.hdf5").unlink()
    line = read_index(out)[names[2]].model_copy(update={"digest": "1" * 64})
    with DatasetWriter.create(out, load_meta(out), "other") as catalog:
        catalog.add(line)
    done = finalize(out)
    assert done.episodes == 3
    missing, contradicted = sorted(done.problems, key=lambda text: "different" in text)
    assert names[1] in missing
    assert "no such episode" in missing
    assert names[2] in contradicted


def test_finalize_tells_of_shards_that_never_came(videos, undivided, tmp_path, capsys):
    out = tmp_path / "out"
    for number in (0, 1):
        build(videos, out, "--shard", f"{number}/4")
    there = len(read_index(out)) + len(read_failures(out))
    assert main(["finalize", str(out)]) == 1
    text = capsys.readouterr().out
    assert "PROBLEM 2 of 4 shards came, without 2 to 3: run them" in text
    assert f"PROBLEM {4 - there} episodes of the source not built" in text
    assert main(["validate", str(out)]) == 0
    assert "note: 2 of 4 shards came" in capsys.readouterr().out
    build(videos, out)  # without --shard: what is missing
    assert finalize(out).problems == ()
    assert read_index(out) == read_index(undivided)


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "other files"])
def test_a_host_without_the_source_is_named(videos, undivided, tmp_path, left):
    """As a disk that is not mounted leaves it; a single file that is missing fails alone."""
    out, there = tmp_path / "out", tmp_path / "videos"
    argv = ["--source", str(videos), "--out", str(out), "--img-shape", "48", "100"]
    config = read_config(parser().parse_args(["build", *SETTINGS, *argv]))
    (ref, *_) = open_source(config).refs()
    if left != "nothing":
        there.mkdir()
    if left == "other files":
        (there / "notes.txt").touch()
    part = config.source.model_copy(update={"path": str(there)})
    with DatasetWriter.create(out, load_meta(undivided)) as catalog:
        known = {"dataset": catalog.meta.digest, "mark": catalog.lock.mark}
        job = Job(config.model_copy(update={"source": part}), ref, **known)
        with pytest.raises(SourceError if left == "other files" else HostError) as error:
            build_episode(job, lambda done, total: None)
    named = f"{platform.node()} does not have the source: {there}" in str(error.value)
    assert named is (left != "other files")


def test_an_episode_that_somebody_else_finished_meanwhile_is_taken(videos, undivided, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(undivided, out)
    shutil.rmtree(out / "index")
    assert build(videos, out, "--json", "--retry-failed") == 1
    assert read_index(out) == read_index(undivided)
    assert list(read_failures(out)) == list(read_failures(undivided))


def slurm_script(root, folder):
    """The script of the guide, and a PATH on which srun, scontrol and letterset do as told."""
    guide = (root / "docs/guides/slurm.md").read_text()
    (folder / "job.sh").write_text(guide.split("```sh\n")[1].split("```")[0])
    tools = {
        "srun": '[ "$1 $2" = "-c 2" ] && shift 2 && exec "$@"',
        "scontrol": 'echo "$@" >> told',
        "letterset": ". ./build.sh",
    }
    for tool, text in tools.items():
        (folder / tool).write_text(f"#!/bin/bash\n{text}\n")
        (folder / tool).chmod(0o755)
    task = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "2"}
    return {**os.environ, **task, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("code", [0, 1, 4])
def test_the_array_task_ends_with_the_exit_code_of_its_build(root, tmp_path, code):
    env = slurm_script(root, tmp_path)
    (tmp_path / "build.sh").write_text(f"exit {code}")
    done = subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=env, timeout=60)
    assert done.returncode == code
    assert not (tmp_path / "told").exists()


def test_the_array_task_is_requeued_when_its_build_has_ended(root, tmp_path):
    env = slurm_script(root, tmp_path)
    os.mkfifo(tmp_path / "ready")
    (tmp_path / "build.sh").write_text(
        "trap 'echo ended >> told; exit 143' USR1; echo > ready; while :; do sleep 0.1; done"
    )
    job = (tmp_path / "job.sh").read_text()
    (tmp_path / "job.sh").write_text(
        job.replace("build=$!", "build=$!; read < ready; kill -USR1 $$")
    )
    subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=env, timeout=60)
    assert (tmp_path / "told").read_text() == "ended\nrequeue 9_3\n"


HELD = """
import pathlib
import time
import numpy as np

def track(video, queries_xy):
    while pathlib.Path("hold").exists():
        pathlib.Path("held").touch()
        time.sleep(0.05)
    tracks = np.repeat(queries_xy[None], len(video), axis=0)
    return tracks, np.ones(tracks.shape[:2], bool)
"""


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGTERM"])
def test_a_job_that_is_told_to_end_ends_cleanly(videos, tmp_path, monkeypatch, name):
    """As SLURM does before it requeues: to every process of the job; then it goes on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held_tracker.py").write_text(HELD)
    (tmp_path / "hold").touch()  # its worker is in the middle of an episode until it is told
    tracker = ["kind=callable", "call=held_tracker:track", "coordinates=pixel_edge"]
    argv = ["build", *SETTINGS, *(f"tracker.{each}" for each in tracker), "--source", str(videos)]
    argv += ["--quiet", *SHAPE]
    command = [sys.executable, "-m", "builder.cli", *argv, "--out", "out", "--shard", "0/1"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "held").exists, 300)
    assert any((tmp_path / "out" / "tmp").glob("*.h5"))
    os.killpg(process.pid, getattr(signal, name))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors
    assert "run the same command again" in errors
    assert list((tmp_path / "out" / "tmp").glob("*.h5")) == []
    (tmp_path / "hold").unlink()
    assert main([*argv, "--out", "out", "--shard", "0/1"]) == 1
    assert main([*argv, "--out", "undisturbed"]) == 1
    assert read_index(tmp_path / "out") == read_index(tmp_path / "undisturbed")
    assert len(read_index(tmp_path / "out")) == 3


def test_a_disk_that_fills_up_in_the_middle_ends_with_4_and_can_be_resumed(
    videos, undivided, tmp_path, monkeypatch, capsys
):
    """The listing of the second episode meets a full disk."""
    out, real, calls = tmp_path / "out", os.pwrite, []

    def pwrite(descriptor, data, at):
        if b'"digest"' in bytes(data[:4000]) and b'"views":["main"]' in bytes(data[:4000]):
            calls.append(at)
            if len(calls) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        assert build(videos, out) == 4
    assert "finished episodes are kept" in capsys.readouterr().err
    assert len(read_index(out)) == 1
    assert build(videos, out) == 1
    assert read_index(out) == read_index(undivided)


# Filesystems


def test_a_filesystem_without_locks_is_said(tmp_path, monkeypatch):
    assert weaknesses(tmp_path) == []

    def flock(descriptor, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    (sentence,) = weaknesses(tmp_path)
    assert "knows no locks" in sentence
    assert list((tmp_path / "tmp").iterdir()) == []
    os.close(take_lock(tmp_path, "main"))


def test_an_object_store_that_looks_like_a_folder_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "filesystem_type", lambda folder: "fuse.s3fs")
    (sentence,) = weaknesses(tmp_path)
    assert "a rename is not one step" in sentence


def test_the_deepest_and_latest_mount_counts(tmp_path):
    mounts = tmp_path / "mounts"
    spaced = str(tmp_path / "a b")
    lines = [
        "none / ext4 rw 0 0",
        f"none {tmp_path} nfs4 rw 0 0",
        f"none {spaced} tmpfs rw 0 0".replace("a b", r"a\040b"),
        f"none {spaced} fuse.s3fs rw 0 0".replace("a b", r"a\040b"),
        f"none {tmp_path / 'a'} xfs rw 0 0",
    ]
    mounts.write_text("\n".join(lines))
    assert filesystem_type(tmp_path / "a b" / "out", mounts) == "fuse.s3fs"
    assert filesystem_type(tmp_path / "ab", mounts) == "nfs4"
    assert filesystem_type(tmp_path.parent, mounts) == "ext4"
    assert filesystem_type(tmp_path, tmp_path / "no mounts") == ""


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        weaknesses(tmp_path / "file")


def test_open_dataset_reads_what_shards_wrote(sharded):
    assert len(open_dataset(sharded)) == 3
