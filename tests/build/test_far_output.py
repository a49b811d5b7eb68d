"""Datasets built at a URL: episodes are there whole or not at all, whatever fails on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from inline_executor import OPTIONS, build
from places import ROOT
from source_fixtures import write_video

from builder import open_dataset
from builder.build.status import status
from builder.cli import main
from builder.core.errors import ConfigError, OutputError
from builder.dataset.far_output import far_output, run_writer
from builder.dataset.folder import META_NAME, DatasetWriter, load_meta, read_failures, read_index
from builder.dataset.index import writer_name
from builder.dataset.remote import fetch_lists
from builder.stores.far import FarStore
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.remote_folder import RemoteFolder
from builder.testing.samples import Sample

pytest.importorskip("fsspec")
pytestmark = pytest.mark.usefixtures("inline_executor")

URL = "s3://bucket/ds"
LENIENT = "executor.kind=lenient"
SHAPE = ["--img-shape", "24", "40"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("far") / "videos"
    for index, name in enumerate(("a", "kitchen/b", "kitchen/c 100%")):
        write_video(folder / f"{name}.mp4", count=5 + index, shape=(30, 50))
    return folder


@pytest.fixture(scope="module")
def near(inline_executor, videos):
    """The same dataset in a folder."""
    out = videos.parent / "near"
    assert build(videos, out) == 0
    return out


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where episodes are built; and the cache of what is read."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def episodes(files):
    """What is there of episodes, by name: size and a hash of the content."""
    files.invalidate_cache()
    found = files.find("bucket/ds/episodes", detail=True)
    return {name: (each["size"], each["ETag"]) for name, each in found.items()}


def listed(tmp_path):
    """The index as anybody reads it there."""
    return dict(read_index(fetch_lists(RemoteFolder(URL), tmp_path / "lists")))


def failed(tmp_path):
    """Paths of failures as anybody reads them there."""
    lists = fetch_lists(RemoteFolder(URL), tmp_path / "lists")
    return [line.path for line in read_failures(lists).values()]


def names(files, folder):
    files.invalidate_cache()
    return [Path(name).name for name in files.find(f"bucket/ds/{folder}")]


def remains(scratch):
    return [path for path in scratch.rglob("*") if path.is_file()]


def test_it_is_the_dataset_that_a_folder_would_hold(s3, videos, near, tmp_path, scratch, capsys):
    workers = ["executor.kind=processes", "executor.workers=2"]
    assert build(videos, URL, *workers) == 0
    assert listed(tmp_path) == dict(read_index(near))
    for path in (near / "episodes").rglob("*.hdf5"):
        there = f"bucket/ds/{path.relative_to(near).as_posix()}"
        assert s3.cat_file(there) == path.read_bytes()
    assert remains(scratch) == []
    assert main(["validate", URL, "--workers", "1"]) == 0
    assert main(["inspect", URL]) == 0
    capsys.readouterr()
    assert main(["status", URL]) == 0
    told = capsys.readouterr().out
    assert "main    finished  3     0       0" in told
    assert f"{URL}: 3 episodes done, 0 failed" in told
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    assert [episode.id for episode in dataset] == [*read_index(near)]


def test_going_on_builds_what_is_new_alone(s3, near, videos, tmp_path, capsys):
    own = tmp_path / "videos"
    write_video(own / "a.mp4", count=5, shape=(30, 50))
    assert build(own, URL, LENIENT) == 0
    (before,) = episodes(s3).items()
    write_video(own / "b.mp4", count=7, shape=(30, 50))
    capsys.readouterr()
    assert build(own, URL, LENIENT) == 0
    assert "1 episode built" in capsys.readouterr().out
    assert before in episodes(s3).items()
    assert len(episodes(s3)) == len(listed(tmp_path)) == 2
    # A run writes to no object of another.
    assert len(names(s3, "index")) == 2
    (own / "a.mp4").unlink()
    write_video(own / "a.mp4", count=9, shape=(30, 50))
    assert build(own, URL, LENIENT) == 2
    assert "a.mp4 had" in capsys.readouterr().err
    assert build(own, URL, LENIENT, "--overwrite") == 0
    lengths = {line.id[0]: line.length for line in listed(tmp_path).values()}
    assert lengths == {"a": 9, "b": 7}
    assert main(["finalize", URL]) == 0
    assert names(s3, "index") == ["main.jsonl"]
    assert {line.id[0]: line.length for line in listed(tmp_path).values()} == lengths
    assert main(["validate", URL, "--workers", "1"]) == 0


def test_an_episode_that_is_not_listed_is_listed_by_the_next_run(s3, videos, near, tmp_path):
    assert build(videos, URL, LENIENT) == 0
    before = episodes(s3)
    s3.rm("bucket/ds/index", recursive=True)
    s3.invalidate_cache()
    assert build(videos, URL, LENIENT) == 0
    assert listed(tmp_path) == dict(read_index(near))
    assert episodes(s3) == before
    s3.rm("bucket/ds/index", recursive=True)
    s3.invalidate_cache()
    assert main(["finalize", URL]) == 0
    assert listed(tmp_path) == dict(read_index(near))


def test_shards_are_merged_by_finalize(s3, videos, near, tmp_path, capsys):
    assert build(videos, URL, LENIENT, "--shard", "0/2") == 0
    assert main(["finalize", URL]) == 1
    assert "1 of 2 shards came, without 1" in capsys.readouterr().out
    assert build(videos, URL, LENIENT, "--shard", "1/2") == 0
    assert main(["finalize", URL]) == 0
    assert listed(tmp_path) == dict(read_index(near))


@pytest.mark.parametrize("how", ["once", "from then on"])
def test_a_refused_request_leaves_whole_episodes_and_the_next_run_ends_it(
    how, s3, faults, videos, near, tmp_path, scratch
):
    faults.heal()
    assert build(videos, URL, LENIENT) == 0
    wanted, requests = episodes(s3), len(faults.seen)
    assert len(wanted) == 3
    assert requests > 20
    failed = 0
    for number in range(1, requests + 1, 5):
        s3.rm("bucket/ds", recursive=True)
        once = how == "once"
        faults.refuse(lambda at, k=number, once=once: at == k if once else at >= k)
        code = build(videos, URL, LENIENT)
        faults.heal()
        assert code in (0, 1, 2, 4)
        failed += code != 0
        assert episodes(s3).items() <= wanted.items()
        assert remains(scratch) == []
        assert build(videos, URL, LENIENT) == 0
        assert episodes(s3) == wanted
        assert listed(tmp_path) == dict(read_index(near))
    assert failed > 3


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", ["episodes/kitchen", "index/"])
def test_a_killed_run_leaves_whole_episodes_and_the_next_run_ends_it(
    at, before, s3, faults, videos, near, tmp_path
):
    options = ["queries.grid=[2, 3]", "tracker.horizon=4", "--img-shape", "24", "40", "--quiet"]
    command = [sys.executable, "-m", "letterset", "build", str(videos), URL, *options]
    child = subprocess.Popen(
        [*command, "--workers", "1"],
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    place = f"/bucket/ds/{at}"
    faults.kill(child.pid, lambda method, path: method == "PUT" and place in path, before)
    assert child.wait(300) == -9
    faults.heal()
    there = {Path(name).name: s3.cat_file(name) for name in episodes(s3)}
    whole = {path.name: path.read_bytes() for path in (near / "episodes").rglob("*.hdf5")}
    assert there.items() <= whole.items()
    assert len(there) >= (3 if at == "index/" else not before)
    assert build(videos, URL, LENIENT) == 0
    assert {Path(name).name: s3.cat_file(name) for name in episodes(s3)} == whole
    assert listed(tmp_path) == dict(read_index(near))


def test_of_two_builds_that_begin_at_once_one_is_refused(s3, near, tmp_path):
    meta = load_meta(near)
    fields = {key: getattr(meta, key) for key in type(meta).model_fields if key != "digest"}
    other = type(meta).seal(**{**fields, "horizon": 5})

    def begin(output, own):
        with DatasetWriter.create(output.folder, own, run_writer("main")):
            output.claim()

    def both():
        with far_output(URL) as late, far_output(URL) as early:
            begin(early, meta)
            begin(late, other)

    with pytest.raises(ConfigError, match=r"s3://bucket/ds was begun by another build just now"):
        both()
    assert s3.cat_file("bucket/ds/dataset.json") == (near / META_NAME).read_bytes()
    with far_output(URL) as output:
        output.check(meta)
        with pytest.raises(ConfigError, match="horizon is 4 there and 5 now"):
            output.check(other)


def test_an_episode_that_is_there_is_not_replaced_unasked(s3, scratch):
    store = FarStore(URL, Hdf5Store)
    assert not store.has("x/1")
    Sample("x/1", length=4).build(store)
    assert store.has("x/1")
    assert [*store.ids()] == ["x/1"]
    before, other = episodes(s3), Sample("x/1", seed=1, length=4)
    with pytest.raises(OutputError, match=r"s3://bucket/ds/episodes/x/1.hdf5 is there already"):
        other.build(store)
    assert episodes(s3) == before
    meta = other.build(store, replace=True)
    assert store.open("x/1").meta == meta
    assert remains(scratch) == []


def test_a_writer_that_is_left_without_commit_puts_nothing_there(s3, scratch):
    sample = Sample("x/1", length=4)
    with FarStore(URL, Hdf5Store).begin("x/1", sample.layout()) as writer:
        sample.write(writer)
    assert episodes(s3) == {}
    assert remains(scratch) == []


def test_failures_of_runs_before_are_forgotten_when_they_are_tried_again(s3, tmp_path):
    own = tmp_path / "videos"
    write_video(own / "good.mp4", count=5, shape=(30, 50))
    for name in ("a", "b"):
        (own / f"{name}.mp4").write_bytes(b"no video")
        assert build(own, URL, LENIENT) == 1
    assert failed(tmp_path) == ["a.mp4", "b.mp4"]
    (own / "a.mp4").unlink()
    assert build(own, URL, LENIENT, "--retry-failed") == 1
    assert failed(tmp_path) == ["b.mp4"]
    (own / "b.mp4").unlink()
    assert build(own, URL, LENIENT, "--retry-failed") == 0
    assert failed(tmp_path) == []
    assert main(["finalize", URL]) == 0


def test_what_another_run_has_written_to_since_is_not_replaced(s3, near, tmp_path):
    assert build(near.parent / "videos", URL, LENIENT) == 0
    [name] = names(s3, "index")
    with far_output(URL) as output:
        (output.folder / "index" / name).write_bytes(b"")
        s3.pipe_file(f"bucket/ds/index/{name}", b"more")
        assert output.push() == [f"index/{name}"]
    assert s3.cat_file(f"bucket/ds/index/{name}") == b"more"


def test_a_look_that_fails_is_not_taken_for_a_no(s3, faults):
    store = FarStore(URL, Hdf5Store)
    assert not store.has("x/1")
    for request in (1, 2):  # the object itself, and a folder of that name
        faults.refuse(lambda number, at=request: number == at)
        with pytest.raises(OutputError, match=r"cannot read s3://bucket/ds/episodes/x/1"):
            store.has("x/1")
    faults.heal()
    assert not store.has("x/1")


@pytest.mark.parametrize("error", [NotImplementedError(), TypeError(), OSError("NotImplemented")])
def test_a_store_without_conditional_writes_is_looked_at_first(s3, error, monkeypatch):
    honest = RemoteFolder._put

    def plain(folder, files, content, path, **how):
        if how:
            raise error
        honest(folder, files, content, path)

    monkeypatch.setattr(RemoteFolder, "_put", plain)
    remote = RemoteFolder(URL)
    assert remote.put(b"1", "x", create=True)
    assert not remote.put(b"2", "x", create=True)
    assert remote.read("x") == b"1"


def test_a_name_that_no_bucket_has_is_told_in_a_line(s3, videos, capsys):
    assert build(videos, "s3://no_!bucket/ds") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "cannot read s3://no_!bucket/ds/dataset.json: ParamValidationError: Param" in line
    assert 'Invalid bucket name "no_!bucket"' in line


def test_what_cannot_be_is_refused_before_anything_is_put_there(s3, videos, capsys):
    assert build(videos, URL, "store.kind=zarr") == 2
    assert "keeps an episode in several files" in capsys.readouterr().err
    assert build(videos, "ftp://host/ds") == 2
    assert "a run that is killed may leave half a file" in capsys.readouterr().err
    assert build(videos, "s3://nobucket/ds") == 4
    assert "cannot write s3://nobucket/ds/dataset.json" in capsys.readouterr().err
    assert main(["plan", str(videos), URL]) == 2
    assert "give one as OUT" in capsys.readouterr().err
    s3.invalidate_cache()
    assert s3.find("bucket") == []


def test_what_a_finalize_merges_while_it_is_read_is_read_again(s3, faults, videos, near, tmp_path):
    """Lists that are deleted, or that grow, between a listing and a fetch."""
    assert build(videos, URL, LENIENT) == 0
    [name] = names(s3, "index")
    text = s3.cat_file(f"bucket/ds/index/{name}")

    def merge():
        s3.pipe_file("bucket/ds/index/main.jsonl", text)
        s3.rm_file(f"bucket/ds/index/{name}")

    faults.meanwhile(lambda method, path: method == "GET" and path.endswith(name), merge)
    assert listed(tmp_path) == dict(read_index(near))
    with far_output(URL) as output:
        assert dict(read_index(output.folder)) == dict(read_index(near))
    main_list = "bucket/ds/index/main.jsonl"
    s3.pipe_file(main_list, text[: text.index(b"\n") + 1])
    faults.meanwhile(
        lambda method, path: method == "GET" and path.endswith("index/main.jsonl"),
        lambda: s3.pipe_file(main_list, text),
    )
    assert listed(tmp_path) == dict(read_index(near))


def test_what_another_build_puts_there_first_is_taken(s3, faults, videos, near, tmp_path, scratch):
    """Another build of the same, which is done while this one puts its first episode there."""
    whole = {
        f"bucket/ds/{path.relative_to(near)}": path for path in near.glob("episodes/**/*.hdf5")
    }

    def other():
        for place, path in whole.items():
            s3.pipe_file(place, path.read_bytes())

    faults.meanwhile(lambda method, path: method == "PUT" and "/ds/episodes/" in path, other)
    assert build(videos, URL, LENIENT) == 0
    assert {place: s3.cat_file(place) for place in episodes(s3)} == {
        place: path.read_bytes() for place, path in whole.items()
    }
    assert listed(tmp_path) == dict(read_index(near))
    assert remains(scratch) == []


def test_a_store_that_is_busy_now_and_then_is_asked_again(s3, faults, videos, near, tmp_path):
    faults.refuse(lambda number: number % 7 == 0, "SlowDown")
    assert build(videos, URL, LENIENT) == 0
    faults.heal()
    assert listed(tmp_path) == dict(read_index(near))


def test_an_episode_that_is_cut_short_is_told_with_what_to_do(s3, videos, near, tmp_path, capsys):
    assert build(videos, URL, LENIENT) == 0
    place, *_ = episodes(s3)
    s3.pipe_file(place, s3.cat_file(place)[:3000])
    capsys.readouterr()
    for argv in (["build", *OPTIONS, LENIENT, str(videos), URL, *SHAPE], ["finalize", URL]):
        if argv[0] == "finalize":
            s3.rm("bucket/ds/index", recursive=True)
        main(argv)
        said = "".join(capsys.readouterr())
        assert f"s3://{place} is damaged or no episode file" in said
        assert "delete it and build again" in said
        assert "repair" not in said
    s3.rm_file(place)
    assert main(["finalize", URL]) == 0
    assert build(videos, URL, LENIENT) == 0
    assert listed(tmp_path) == dict(read_index(near))


def test_names_of_runs_sort_after_main_and_by_time():
    runs = [run_writer("main") for _ in range(20)]
    files = [f"{run}.jsonl" for run in runs]
    assert sorted(["main.jsonl", *files]) == ["main.jsonl", *files]
    assert {writer_name(run) for run in runs} == {"main"}
    assert writer_name(run_writer("shard-0-of-2")) == "shard-0-of-2"


def test_a_log_that_has_just_been_written_is_that_of_a_run_at_work(s3, videos, tmp_path):
    assert build(videos, URL, LENIENT) == 0
    (name,) = [each for each in names(s3, "runs") if each.endswith(".jsonl")]
    *lines, _ = s3.cat_file(f"bucket/ds/runs/{name}").splitlines(keepends=True)
    s3.pipe_file(f"bucket/ds/runs/{name}", b"".join(lines))
    folder = fetch_lists(RemoteFolder(URL), tmp_path / "lists")
    assert [writer.state for writer in status(folder, far=True)] == ["running"]
    (log,) = (folder / "runs").glob("*.jsonl")
    os.utime(log, (1, 1))
    assert [writer.state for writer in status(folder, far=True)] == ["killed"]


def test_an_error_names_the_url(s3, videos, faults, capsys):
    faults.refuse(lambda at: True)
    assert build(videos, URL, LENIENT) == 1
    faults.heal()
    error = capsys.readouterr().err
    assert f"cannot read {URL}/dataset.json: PermissionError" in error
