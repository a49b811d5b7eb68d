"""Builds of clips: the same frames and windows as of whole videos, each clip a unit of work."""

import json

import numpy as np
import pytest
from media import cut, encode, moving

from builder.build.config_file import load_config
from builder.build.pipeline import build
from builder.build.shards import Shard
from builder.cli.main import main
from builder.core.errors import ConfigError
from builder.dataset.opening import open_dataset
from builder.transform.compare_source import compare_source

GOP = {"x264-params": "keyint=20:bframes=3:open-gop=1:scenecut=0"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "videos"
    folder.mkdir()
    encode(folder / "long one.mp4", moving(70, (48, 80)), rate=25, options=GOP)
    encode(folder / "short.mp4", moving(20, (48, 80), 1), rate=25, options=GOP)
    encode(folder / "cut.mp4", moving(40, (48, 80), 2), rate=25, options=GOP)
    cut(folder / "cut.mp4", folder / "cut.mp4", 0.7)
    return folder


def config(videos, out, *overrides):
    given = {"source.path": str(videos), "store.path": str(out), "img_shape": [40, 40]}
    fixed = ["queries.grid=[3, 4]", "tracker.horizon=6", "executor.kind=serial"]
    return load_config(None, [*fixed, *overrides], given)


def made(videos, out, *overrides, **options):
    return build(config(videos, out, *overrides), **options)


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    made(videos, out)
    return open_dataset(out)


@pytest.fixture(scope="module")
def clips(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("clips") / "out"
    summary = made(videos, out, "source.clip.seconds=1")
    assert [failure.path for failure in summary.failures] == ["cut.mp4"]
    return open_dataset(out)


def test_clips_hold_the_same_frames_times_and_windows(whole, clips):
    assert len(clips) == 4
    starts = {}
    for episode in (clips[key] for key in clips.ids):
        clip, length = episode.meta.source.clip, episode.meta.length
        (name,) = (key for key in whole.ids if whole[key].meta.source.path == clip.of)
        view, all_of_it = episode.views["main"], whole[name].views["main"]
        here = slice(clip.first, clip.first + length)
        assert np.array_equal(view.frames, all_of_it.frames[here])
        assert np.array_equal(view.timestamps, all_of_it.timestamps[here])
        inner = slice(clip.first, clip.first + length - 5)
        for array in ("tracks", "vis"):
            mine, theirs = (np.asarray(getattr(each, array)) for each in (view, all_of_it))
            assert np.array_equal(mine[: length - 5], theirs[inner])
        starts.setdefault(name, []).extend(range(clip.first, clip.first + length - 5))
        assert episode.meta.source.files == whole[name].meta.source.files
    # Each whole window of a video is in one of its clips, and in no other.
    for name, found in starts.items():
        assert found == list(range(whole[name].meta.length - 5))


def test_shards_and_resumed_builds_make_the_same_clips(videos, clips, tmp_path):
    for number in (0, 1):
        made(videos, tmp_path, "source.clip.seconds=1", shard=Shard(number, 2))
    assert main(["finalize", str(tmp_path)]) == 1  # of the one that failed
    again = open_dataset(tmp_path)
    digests = {key: line.digest for key, line in clips.index.items()}
    assert {key: line.digest for key, line in again.index.items()} == digests
    # All shards had some of the long video.
    owners = {
        json.loads(line)["id"].partition("/")[0]
        for path in (tmp_path / "runs").glob("*.jsonl")
        for line in path.read_text().splitlines()
        if json.loads(line)["event"] == "episode"
    }
    assert owners == {"long_one.mp4", "short.mp4"}
    gone = sorted(digests)[1]
    (tmp_path / "episodes" / f"{gone}.hdf5").unlink()
    summary = made(videos, tmp_path, "source.clip.seconds=1")
    assert (summary.built, summary.skipped) == (1, 3)
    assert open_dataset(tmp_path).index[gone].digest == digests[gone]


def test_clips_of_other_lengths_are_another_dataset(videos, clips):
    with pytest.raises(ConfigError, match="clip"):
        made(videos, clips.path, "source.clip.seconds=2")


def test_a_look_at_the_source_again_finds_the_clips(videos, clips):
    assert not compare_source(clips.path)
    assert main(["track", str(clips.path), "--name", "lk", "--source", str(videos),
                 "tracker.kind=lk", "executor.kind=serial"]) == 0  # fmt: skip


def test_live_windows_of_a_clip_are_those_of_training(clips):
    pytest.importorskip("torch")
    assert main(["parity", str(clips.path), "--episode", clips.ids[1]]) == 0


def test_tracks_of_whole_videos_are_cut_as_well(videos, whole, clips, tmp_path):
    """Windows that were tracked before are those of the frames of a clip."""
    (tmp_path / "tracks").mkdir()
    for key in whole.ids:
        view = whole[key].views["main"]
        stem = whole[key].meta.source.path.removesuffix(".mp4")
        # On the canvas, which is what precomputed tracks are of here.
        xy = view.geometry.to_source(np.asarray(view.tracks, np.float64))
        np.savez(tmp_path / "tracks" / f"{stem}.npz", tracks=xy, visibility=view.vis)
    stored = ["queries.region=stored", "queries.grid=[12, 1]", "tracker.kind=precomputed"]
    given = [*stored, f"tracker.folder={tmp_path / 'tracks'}", "tracker.coordinates=pixel_edge"]
    made(videos, tmp_path / "out", "source.clip.seconds=1", *given)
    found = open_dataset(tmp_path / "out")
    assert found.ids == clips.ids
    for key in clips.ids:
        length = clips[key].meta.length - 5
        mine, theirs = (np.asarray(each[key].views["main"].tracks) for each in (found, clips))
        np.testing.assert_allclose(mine[:length], theirs[:length], atol=1e-3)


def test_clips_of_one_video_are_split_together(clips, capsys):
    folder = str(clips.path)
    for name, by in (("default", "episode"), ("apart", "clip")):
        found = ["--by", by, "--name", name, "--overwrite"]
        assert main(["split", folder, "--shares", "train=0.5", "val=0.5", *found]) == 0

    def parts(name):
        splits = json.loads((clips.path / "splits" / f"{name}.json").read_text())["splits"]
        return [{key for key in ids if key.startswith("long")} for ids in splits.values()]

    assert sorted(map(len, parts("default"))) == [0, 3]
    assert sum(map(len, parts("apart"))) == 3


def test_inspect_shows_clips_of_a_source(videos, capsys):
    how = ["source.clip.seconds=1", "tracker.horizon=6"]
    assert main(["inspect", str(videos), *how, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    rows = {row["episode"]: row["frames"] for row in told["views"]}
    assert rows == {
        "long one.mp4/clip-0000": 30,
        "long one.mp4/clip-0001": 30,
        "long one.mp4/clip-0002": 20,
        "short.mp4/clip-0000": 20,
    }
    assert [failure["path"] for failure in told["failures"]] == ["cut.mp4"]
