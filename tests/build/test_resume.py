"""Going on: changed sources and settings are refused, replaced, or left as they are."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from inline_executor import build
from source_fixtures import write_video

from builder.build.backends import for_workers
from builder.build.resume import find_finished
from builder.cli import main
from builder.dataset.folder import index_line, read_index
from builder.dataset.opening import open_dataset
from builder.dataset.validate import validate
from builder.inputs import fingerprint as marks
from builder.inputs.fingerprint import fingerprint
from builder.sources.base import EpisodeRef
from builder.stores.atomic import make_folders
from builder.stores.kinds.hdf5 import Hdf5Store
from schemas.config import SourcePart, TrackerPart

pytestmark = pytest.mark.usefixtures("inline_executor")


@pytest.fixture(scope="module")
def built(inline_executor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    for index, name in enumerate(("a", "b 100%")):
        write_video(folder / "videos" / f"{name}.mp4", count=5 + index, shape=(30, 50))
    assert build(folder / "videos", folder / "out") == 0
    return folder


@pytest.fixture
def place(built, tmp_path):
    """A copy of the dataset and of its videos."""
    shutil.copytree(built, tmp_path / "place")
    return tmp_path / "place"


def digests(out):
    return {key.split("-")[0]: line.digest for key, line in read_index(out).items()}


def change(path: Path, count: int = 9) -> None:
    path.unlink()
    write_video(path, count=count, shape=(30, 50))


def test_a_changed_source_is_refused_with_the_difference(place, capsys):
    videos, out = place / "videos", place / "out"
    before, size = digests(out), (videos / "b 100%.mp4").stat().st_size
    change(videos / "b 100%.mp4")
    assert build(videos, out) == 2
    error = capsys.readouterr().err
    now = (videos / "b 100%.mp4").stat().st_size
    assert f"b 100%25.mp4 had {size} bytes and now has {now}" in error
    assert "--overwrite" in error
    assert "--append" in error
    assert digests(out) == before


def test_workers_in_another_folder_know_relative_paths(place, monkeypatch):
    monkeypatch.chdir(place)
    assert build("videos", "new", "executor.kind=elsewhere") == 0
    assert digests(place / "new") == digests(place / "out")


def test_only_paths_of_this_machine_are_made_absolute(place, monkeypatch):
    monkeypatch.chdir(place)
    part = TrackerPart(kind="callable", call="mine:track", weights="a/../b.pt")
    near, far = (SimpleNamespace(local_workers=workers) for workers in (2, None))
    assert for_workers(part, near) == part
    assert for_workers(part, far).settings == {
        "call": "mine:track",
        "weights": str(place / "a/../b.pt"),
    }
    for path in ("s3://bucket/videos", "/videos"):
        assert for_workers(SourcePart(path=path), far).path == path
    # A word of these settings, not a path.
    assert for_workers(SourcePart(path="x", folder="view"), far).settings == {"folder": "view"}


def test_append_keeps_the_old_and_builds_the_new(place):
    videos, out = place / "videos", place / "out"
    before = digests(out)
    change(videos / "a.mp4")
    write_video(videos / "c.mp4", count=6, shape=(30, 50))
    assert build(videos, out, "--append") == 0
    after = digests(out)
    assert after.keys() == {"a", "b_100_", "c"}
    assert {key: after[key] for key in before} == before


def test_overwrite_builds_the_changed_again_and_nothing_else(place, tmp_path):
    videos, out = place / "videos", place / "out"
    before, kept = digests(out), next((out / "episodes").glob("b_*")).stat().st_mtime_ns
    change(videos / "a.mp4")
    assert build(videos, out, "--overwrite") == 0
    after = digests(out)
    assert after["a"] != before["a"]
    assert next((out / "episodes").glob("b_*")).stat().st_mtime_ns == kept
    assert validate(out) == []
    assert build(videos, tmp_path / "fresh") == 0
    assert digests(tmp_path / "fresh") == after
    assert build(videos, out) == 0


@pytest.mark.parametrize("clock", [0, 4_000_000_000], ids=["behind", "ahead"])
def test_equal_size_with_other_content_is_noticed_whatever_clocks_say(place, clock, capsys):
    """Videos on one machine, episodes on another whose clock differs: no time is trusted."""
    videos, out = place / "videos", place / "out"
    video = videos / "a.mp4"
    data = bytearray(video.read_bytes())
    data[-1] ^= 1
    video.write_bytes(data)
    os.utime(video, (1, 1))
    for path in (out / "episodes").iterdir():
        os.utime(path, (clock, clock))
    assert build(videos, out) == 2
    assert "a.mp4 now has other content" in capsys.readouterr().err
    data[-1] ^= 1
    video.write_bytes(data)
    assert build(videos, out) == 0


def test_another_size_is_noticed_whatever_clocks_say(place, capsys):
    video = place / "videos" / "a.mp4"
    change(video)
    os.utime(video, (1, 1))
    for path in (place / "out" / "episodes").iterdir():
        os.utime(path, (4_000_000_000, 4_000_000_000))
    assert build(place / "videos", place / "out") == 2
    assert "a.mp4 had" in capsys.readouterr().err


def test_a_file_that_many_episodes_come_from_is_read_once(place, monkeypatch):
    index, store = read_index(place / "out"), Hdf5Store(place / "out")
    read = []
    monkeypatch.setattr(marks, "fingerprint", lambda path: read.append(path) or fingerprint(path))
    refs = [EpisodeRef(key, key) for key in index]
    for _ in range(2):
        assert not find_finished(store, index, refs, place / "videos").changed
    assert sorted(path.name for path in read) == ["a.mp4", "b 100%.mp4"]


@pytest.mark.parametrize("put", [shutil.copy2, shutil.move])
def test_an_older_file_of_equal_size_in_its_place_is_noticed(place, put, capsys):
    """Its time is that of its content: only when it was put there tells."""
    video, other = place / "videos" / "a.mp4", place / "older.mp4"
    data = bytearray(video.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    os.utime(other, (1, 1))
    put(other, video)
    assert int(video.stat().st_mtime) == 1
    assert build(place / "videos", place / "out") == 2
    assert "a.mp4 now has other content" in capsys.readouterr().err


def test_several_writers_must_be_put_together_before_overwriting(place, capsys):
    videos, out = place / "videos", place / "out"
    change(videos / "a.mp4")
    (out / "index" / "main.jsonl").rename(out / "index" / "shard-0-of-1.jsonl")
    assert build(videos, out, "--overwrite") == 2
    assert "letterset finalize" in capsys.readouterr().err
    assert main(["finalize", str(out)]) == 0
    assert build(videos, out, "--overwrite") == 0
    assert validate(out) == []


def test_other_settings_are_refused_or_start_anew(place, capsys, tmp_path):
    videos, out = place / "videos", place / "out"
    before = digests(out)
    for policy in ((), ("--append",)):
        assert build(videos, out, "tracker.start_every=2", *policy) == 2
        assert "start_every is 1 there and 2 now" in capsys.readouterr().err
    assert digests(out) == before
    assert build(videos, out, "tracker.start_every=2", "--overwrite") == 0
    assert open_dataset(out).meta.start_every == 2
    assert digests(out).keys() == before.keys()
    assert validate(out) == []
    # What was there is a dataset still.
    assert digests(out / "replaced" / "1") == before
    assert validate(out / "replaced" / "1") == []


def test_moving_aside_goes_on_where_it_was_killed(place):
    out = place / "out"
    make_folders(out / "replaced" / "1" / "index")
    for name in ("index/main.jsonl", "episodes"):
        os.rename(out / name, out / "replaced" / "1" / name)
    assert build(place / "videos", out, "tracker.start_every=2", "--overwrite") == 0
    assert validate(out) == []
    assert validate(out / "replaced" / "1") == []


def test_what_is_listed_but_not_there_is_built_again(place):
    videos, out = place / "videos", place / "out"
    before = digests(out)
    next((out / "episodes").glob("a-*")).unlink()
    assert build(videos, out) == 0
    assert digests(out) == before
    assert validate(out) == []


def test_a_replaced_episode_that_was_not_listed_yet_is_listed(place, tmp_path):
    videos, out = place / "videos", place / "out"
    change(videos / "a.mp4")
    assert build(videos, tmp_path / "fresh") == 0
    episode = next((tmp_path / "fresh" / "episodes").glob("a-*"))
    os.replace(episode, out / "episodes" / episode.name)
    assert any("not what the index lists" in str(problem) for problem in validate(out))
    assert build(videos, out) == 0
    assert validate(out) == []


def test_damaged_episodes_and_lost_sources_are_told(place):
    out = place / "out"
    index, store = read_index(out), Hdf5Store(out)
    refs = [EpisodeRef(key, key) for key in index]
    for path in (place / "videos").iterdir():
        path.unlink()
    (first, second), path = index, store.path(next(iter(index)))
    path.write_bytes(b"x" * 100)
    found = find_finished(store, index, refs, place / "videos")
    assert list(found.done) == [first, second]
    assert str(path) in found.damaged[first]
    assert "can no longer be read" in found.changed[second]


def test_readers_tell_where_they_read(place):
    out = place / "out"
    index = read_index(out)
    assert len(index) == 2
    for episode_id, line in index.items():
        with closing(Hdf5Store(out).open(episode_id)) as reader:
            assert reader.path.is_file()
            assert index_line(reader.meta) == line


def test_another_kind_of_store_is_refused(place, capsys):
    assert build(place / "videos", place / "out", "store.kind=zarr") == 2
    assert "keeps its episodes in episodes, and they are to be written to episodes.zarr" in (
        capsys.readouterr().err
    )


def test_a_zarr_dataset_is_built_and_resumed(place, tmp_path):
    videos, out = place / "videos", tmp_path / "zarr"
    assert build(videos, out, "store.kind=zarr") == 0
    before = digests(out)
    assert before == digests(place / "out")
    change(videos / "a.mp4")
    assert build(videos, out, "store.kind=zarr", "--overwrite") == 0
    assert digests(out)["a"] != before["a"]
    assert digests(out)["b_100_"] == before["b_100_"]
    assert validate(out, deep=True) == []
    assert not list((out / "tmp").iterdir())


def test_a_dataset_without_an_episode_takes_other_settings(tmp_path, inline_executor, capsys):
    write_video(tmp_path / "videos" / "a.mp4", 9)
    argv = ["build", "--source", str(tmp_path / "videos"), "--out", str(tmp_path / "out")]
    argv += ["--img-shape", "24", "40", "--quiet"]
    assert main([*argv, "source.orientation={front: rot180}"]) == 3
    assert "orientation names ['front']" in capsys.readouterr().out
    assert main([*argv, "source.orientation={main: rot180}"]) == 0
    assert len(open_dataset(tmp_path / "out")) == 1
    assert main([*argv, "source.orientation={main: vflip}"]) == 2
