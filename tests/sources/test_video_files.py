"""The ``video`` source: which files are episodes, and that a bad one costs itself only."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
from media import encode, moving

from builder.core.errors import SourceError
from builder.sources.kinds.video_files import VideoFiles, VideoFilesConfig
from schemas.config import Limits


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("clip") / "clip.mp4", moving(3, (36, 52)))


@pytest.fixture
def folder(tmp_path, clip):
    """Make a folder with videos, other files, links and traps."""
    for name in ("b10.mp4", "b9.MOV", "sub/a.mkv", "sub/deep/-c.webm", ".hidden.mp4", ".git/x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a video")
    return tmp_path


def paths(source):
    return [ref.path for ref in source.refs()]


def test_folders_are_listed_in_natural_order_hidden_files_left_out(folder):
    expected = ["b9.MOV", "b10.mp4", "sub/a.mkv", "sub/deep/-c.webm"]
    assert paths(VideoFiles(folder)) == expected
    assert paths(VideoFiles(folder)) == expected


def test_ids_depend_on_the_path_alone(folder):
    before = {ref.path: ref.id for ref in VideoFiles(folder).refs()}
    (folder / "b9.MOV").unlink()
    after = {ref.path: ref.id for ref in VideoFiles(folder).refs()}
    assert after == {path: found for path, found in before.items() if path in after}


def test_links_are_followed_but_not_in_circles(folder):
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "twin").symlink_to(folder / "sub" / "deep")
    found = paths(VideoFiles(folder))
    assert "twin/-c.webm" in found
    assert len(found) < 12


def test_an_episode_is_one_view_with_its_fingerprint(folder):
    source = VideoFiles(folder, VideoFilesConfig(view="wrist"))
    ref = next(source.refs())
    with source.open(ref) as episode:
        assert list(episode.views) == ["wrist"]
        assert sum(1 for _ in episode.views["wrist"]) == 3
        assert episode.files[ref.path].size == (folder / "b9.MOV").stat().st_size


def test_one_file_is_a_source(clip):
    source = VideoFiles(clip)
    (ref,) = source.refs()
    assert ref.path == "clip.mp4"
    with source.open(ref) as episode:
        assert episode.views["main"].info.num_frames == 3


def test_globs_replace_the_suffixes(folder, clip):
    shutil.copy(clip, folder / "camera.dat")
    assert paths(VideoFiles(folder, VideoFilesConfig(include=("*.dat",)))) == ["camera.dat"]
    kept = VideoFilesConfig(exclude=("sub/*",))
    assert paths(VideoFiles(folder, kept)) == ["b9.MOV", "b10.mp4"]


def test_a_missing_or_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(SourceError, match="there is no such file or folder"):
        list(VideoFiles(tmp_path / "nowhere").refs())
    with pytest.raises(SourceError, match=r"no video found; looked for \.mp4, .*\.webm"):
        list(VideoFiles(tmp_path).refs())
    with pytest.raises(SourceError, match=r"looked for \*\.raw"):
        list(VideoFiles(tmp_path, VideoFilesConfig(include=("*.raw",))).refs())


def test_traps_are_listed_and_fail_by_name_without_blocking(folder):
    os.mkfifo(folder / "t_pipe.mp4")
    (folder / "t_gone.mp4").symlink_to(folder / "nothing")
    (folder / "t_loop.mp4").symlink_to(folder / "t_loop.mp4")
    (folder / "t_empty.mp4").touch()
    source = VideoFiles(folder)
    traps = [ref for ref in source.refs() if ref.path.startswith("t_")]
    assert len(traps) == 4
    for ref in traps:
        with pytest.raises(SourceError, match=ref.path), source.open(ref):
            pass


@pytest.mark.parametrize(
    "name", [b"two words.mp4", b"line\nbreak.mp4", b"-rf.mp4", b"\xff.mp4", b"%03d.mp4"]
)
def test_any_file_name_becomes_a_printable_episode(tmp_path, clip, name):
    shutil.copy(clip, os.path.join(os.fsencode(tmp_path), name))
    source = pickle.loads(pickle.dumps(VideoFiles(tmp_path)))
    (ref,) = pickle.loads(pickle.dumps(list(source.refs())))
    assert ref.path.isprintable()
    assert ref.id.isascii()
    with source.open(ref) as episode:
        assert sum(1 for _ in episode.views["main"]) == 3


def test_names_that_look_alike_stay_apart(tmp_path, clip):
    for name in ("caf\u00e9.mp4", "cafe\u0301.mp4", "clip.mp4", "clip.mkv", "Clip.mp4"):
        shutil.copy(clip, tmp_path / name)
    found = [ref.id.lower() for ref in VideoFiles(tmp_path).refs()]
    assert len(set(found)) == len(list(Path(tmp_path).iterdir()))


def test_limits_reach_the_decoder(clip):
    source = VideoFiles(clip, limits=Limits(max_frames=2))
    with pytest.raises(SourceError, match="more than 2 frames"), source.open(next(source.refs())):
        pass
