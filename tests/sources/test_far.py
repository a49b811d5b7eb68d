"""Videos at a URL: the episodes of a copy of the folder; a file is here while it is read."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from inline_executor import build
from source_fixtures import write_video
from waiting import wait_until

from builder.build.backends import open_source_part
from builder.cli import main
from builder.core.errors import ConfigError, DatasetError, FetchError, OutputError, SourceError
from builder.dataset.folder import read_index
from builder.dataset.validate import validate
from builder.sources import far
from builder.sources.recognize import recognize_far
from builder.stores.remote_folder import RemoteFolder
from builder.stores.scratch import scratch_folder
from schemas.config import Limits, SourcePart

pytest.importorskip("fsspec")
pytestmark = pytest.mark.usefixtures("inline_executor")

URL = "s3://bucket/videos"
NAMES = [
    "take 10.mp4",
    "take 2.mp4",
    "b 100%.mp4",
    "kitchen/9.mp4",
    "kitchen/10.mp4",
    "Ünïcode.mp4",
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("far") / "videos"
    for index, name in enumerate(NAMES):
        write_video(folder / name, count=5 + index, shape=(30, 50))
    (folder / ".hidden.mp4").write_bytes(b"")
    (folder / "log.bin").write_bytes(b"1")
    (folder / "notes.txt").write_bytes(b"1")
    return folder


@pytest.fixture
def at_url(s3, videos):
    put(s3, videos)
    return s3


def put(files, folder, to="bucket/videos"):
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{to}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where files are fetched to, by this process and by its children."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def fetched(monkeypatch):
    """How often each file was fetched in this process."""
    counts, honest = Counter(), RemoteFolder.fetch_file

    def counted(remote, relative, target, size):
        counts[relative] += 1
        return honest(remote, relative, target, size)

    monkeypatch.setattr(RemoteFolder, "fetch_file", counted)
    return counts


def source(path, **settings):
    return open_source_part(SourcePart(kind="video", path=str(path), **settings), Limits())


def facts(refs):
    return [(ref.id, ref.path, ref.group, ref.task) for ref in refs]


def remains(scratch):
    return [path for path in scratch.rglob("*") if path.is_file()]


@pytest.mark.parametrize("settings", [{}, {"exclude": ["take*"]}, {"include": ["*.bin"]}])
def test_a_url_lists_what_the_folder_does(settings, at_url, videos):
    here, there = source(videos, **settings), source(URL, **settings)
    assert facts(there.refs()) == facts(here.refs())
    assert there.left_out() == here.left_out()
    weights = [[each.weight(ref) for ref in each.refs()] for each in (here, there)]
    assert weights[0] == weights[1]


def test_one_file_is_a_source_too(at_url, videos):
    here, there = source(videos / "take 2.mp4"), source(f"{URL}/take 2.mp4")
    [ref] = there.refs()
    assert facts([ref]) == facts(here.refs())
    with there.open(ref) as episode:
        assert episode.views["main"].info.num_frames == 6


def test_a_build_is_the_same_and_leaves_nothing_behind(at_url, videos, tmp_path, scratch, fetched):
    lenient = ["executor.kind=lenient"]
    assert build(URL, tmp_path / "far", *lenient) == build(videos, tmp_path / "near", *lenient) == 0
    assert dict(read_index(tmp_path / "far")) == dict(read_index(tmp_path / "near"))
    assert validate(tmp_path / "far") == []
    assert set(fetched.values()) == {1}
    assert remains(scratch) == []


def test_clips_share_the_file_they_are_cut_from(at_url, videos, tmp_path, scratch, fetched):
    clip = ["source.clip={frames: 3}", "executor.kind=lenient"]
    assert build(URL, tmp_path / "far", *clip) == build(videos, tmp_path / "near", *clip) == 0
    assert dict(read_index(tmp_path / "far")) == dict(read_index(tmp_path / "near"))
    # The clip in work and the next are of one file, or of two: none is fetched for each clip.
    assert set(fetched.values()) == {1}
    assert remains(scratch) == []


def test_two_processes_build_from_a_url(at_url, videos, tmp_path, scratch):
    more = ["executor.kind=processes", "executor.workers=2"]
    assert build(URL, tmp_path / "far", *more) == build(videos, tmp_path / "near") == 0
    assert dict(read_index(tmp_path / "far")) == dict(read_index(tmp_path / "near"))
    assert remains(scratch) == []


def test_a_file_that_was_fetched_ahead_is_not_fetched_again(at_url, scratch, fetched):
    there = source(URL)
    first, second, *_ = there.refs()
    with there.open(first):
        there.fetch_ahead(second)
        wait_until(lambda: any(path.name == second.locator.relative for path in remains(scratch)))
        # A process that fetches ahead may be killed with it.
    assert [path for path in remains(scratch) if path.suffix == ".mp4"]
    with there.open(second), source(URL).open(second):
        assert sum(fetched.values()) == 2
    there.fetch_ahead(first)
    far.Fetched._thread.join()
    there.clear()
    assert remains(scratch) == []


def test_what_is_in_use_is_not_deleted(at_url, scratch):
    there = source(URL)
    [ref] = [ref for ref in there.refs() if ref.path == "take 2.mp4"]
    with there.open(ref) as episode:
        with source(URL).open(ref):
            pass
        source(URL).clear()
        assert len(list(episode.views["main"])) == 6
    assert remains(scratch) == []


def test_resuming_compares_the_ends_of_the_files(at_url, videos, tmp_path, capsys, fetched):
    out = tmp_path / "out"
    assert build(URL, out) == 0
    fetched.clear()
    assert build(URL, out) == 0
    assert sum(fetched.values()) <= 1  # of which the headers tell whether all fit on the disk
    data = bytearray((videos / "take 2.mp4").read_bytes())
    data[-1] ^= 1
    at_url.pipe_file("bucket/videos/take 2.mp4", bytes(data))
    at_url.pipe_file("bucket/videos/take 10.mp4", bytes(data))
    at_url.rm_file("bucket/videos/b 100%.mp4")
    capsys.readouterr()
    assert build(URL, out) == 2
    error = capsys.readouterr().err
    assert "take 2.mp4 now has other content" in error
    assert f"take 10.mp4 had {(videos / 'take 10.mp4').stat().st_size} bytes and now" in error
    assert build(URL, out, "--append") == 0


def test_a_file_that_does_not_come_is_tried_again_by_the_next_run(
    at_url, videos, tmp_path, monkeypatch, scratch, capsys
):
    honest = RemoteFolder.fetch_file

    def fails(remote, relative, target, size):
        if relative == "take 2.mp4":
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"half")
            raise DatasetError(f"cannot read {remote.url}/{relative}: TimeoutError")
        return honest(remote, relative, target, size)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "fetch_file", fails)
        assert build(URL, tmp_path / "far", "executor.kind=lenient") == 1
    assert "FAILED take 2.mp4 (fetch): TimeoutError" in capsys.readouterr().out
    assert len(read_index(tmp_path / "far")) == len(NAMES) - 1
    assert remains(scratch) == []
    # It is no failure of that video, which --retry-failed would be needed for.
    assert build(URL, tmp_path / "far", "executor.kind=lenient") == 0
    assert build(videos, tmp_path / "near") == 0
    assert dict(read_index(tmp_path / "far")) == dict(read_index(tmp_path / "near"))


def test_a_store_that_is_gone_ends_the_build(at_url, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("builder.build.pipeline.MAX_UNFETCHED", 3)
    monkeypatch.setattr("builder.build.estimate._HEADERS_BEFORE", 0)

    def fails(remote, relative, target, size):
        raise DatasetError("no network")

    monkeypatch.setattr(RemoteFolder, "fetch_file", fails)
    assert build(URL, tmp_path / "far", "executor.kind=lenient") == 1
    assert "3 episodes in a row could not be fetched" in capsys.readouterr().err


def test_what_is_no_folder_of_videos_is_refused_by_name(s3, videos, tmp_path, capsys):
    assert build("s3://nobucket/videos", tmp_path / "out") == 3
    assert "s3://nobucket/videos: there is no such bucket or folder" in capsys.readouterr().err
    put(s3, videos)
    with pytest.raises(ConfigError, match=r"kind=lerobot reads local folders only.*copy the"):
        open_source_part(SourcePart(kind="lerobot", path=URL), Limits())
    assert recognize_far(URL).kind == "video"
    for odd in ("demo.hdf5", "sub/meta/info.json", "a/trajectory.h5"):
        s3.pipe_file(f"bucket/videos/{odd}", b"1")
        with pytest.raises(ConfigError, match=r"s3://bucket/videos .*of a URL video files alone"):
            recognize_far(URL)
        s3.rm_file(f"bucket/videos/{odd}")
    s3.pipe_file("bucket/videos/dataset.json", b"1")
    with pytest.raises(SourceError, match="not a source but a letterset dataset"):
        recognize_far(URL)
    s3.pipe_file("bucket/other/x.bin", b"1")
    with pytest.raises(SourceError, match=r"s3://bucket/other: none of 1 files fits; .*\.mp4"):
        list(source("s3://bucket/other").refs())
    s3.pipe_file("bucket/other/../up.mp4", b"1")
    with pytest.raises(SourceError, match=r"which is no path: rename it"):
        list(source("s3://bucket/other").refs())


def test_a_damaged_video_fails_alone_under_the_name_it_has_there(s3, tmp_path, capsys, scratch):
    s3.pipe_file("bucket/videos/bad.mp4", b"no video")
    assert build(URL, tmp_path / "out", "executor.kind=lenient") == 3
    line = json.loads((tmp_path / "out/failures/main.jsonl").read_bytes())
    assert line["reason"].startswith("s3://bucket/videos/bad.mp4: not a whole video")
    assert remains(scratch) == []


def test_an_outage_is_told_with_the_url(at_url, faults):
    faults.refuse(lambda number: True)
    with pytest.raises(FetchError, match=r"cannot read s3://bucket/videos: PermissionError: .+"):
        list(source(URL).refs())


def test_passwords_are_recorded_nowhere(tmp_path, monkeypatch):
    from builder.build.pipeline import _recorded
    from schemas.config import BuildConfig

    data = {"img_shape": [24, 40], "source": {"path": "ftp://me:secret@host/x"}}
    config = BuildConfig.model_validate({**data, "store": {"path": "s3://k:hidden@b/x"}})
    assert "secret" in str(config.model_dump())
    assert not {"secret", "hidden"} & {*str(_recorded(config)).replace("@", ":").split(":")}
    found = far.FarSource("ftp://me:secret@host/x", None, None, Limits())
    assert "secret" not in far.Fetched(found._remote, far.FarFile("a", "a", 1, ""))._lock.name


def test_a_scratch_folder_of_others_is_not_used(scratch):
    (scratch / "else").mkdir()
    user = scratch_folder()
    user.rmdir()
    user.symlink_to(scratch / "else")
    with pytest.raises(OutputError, match="is not a folder of yours: set TMPDIR"):
        scratch_folder()


def test_inspect_and_init(at_url, capsys):
    assert main(["inspect", URL, "--limit", "2"]) == 0
    assert "b 100%25.mp4" in capsys.readouterr().out
    assert main(["init", URL]) == 2
    assert "init looks at local folders only" in capsys.readouterr().err
    assert not Path("letterset.yaml").exists()
