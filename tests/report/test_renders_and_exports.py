"""Renders and exports, each read back by its own format's rules."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from source_fixtures import write_video

from builder.cli import main
from builder.core.errors import OutputError
from builder.dataset.opening import open_dataset
from builder.report.render import tracked_frames
from builder.transform.export.card import dataset_card
from builder.transform.export.tapvid import export_tapvid

IMG_SHAPE, HORIZON, LENGTH = (48, 100), 8, 19


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    write_video(folder / "videos" / "a.mp4", count=LENGTH, shape=(40, 90))
    argv = ["--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    settings = ["queries.grid=[3, 4]", f"tracker.horizon={HORIZON}"]
    assert main(["build", *settings, *argv, "--img-shape", *map(str, IMG_SHAPE)]) == 0
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset(folder / "out")


def test_tracked_frames_pass_every_frame_once_with_its_own_window(dataset):
    episode = dataset[dataset.ids[0]]
    view = episode.views["main"]
    seen = list(tracked_frames(episode, view))
    assert [moment.frame for moment in seen] == list(range(LENGTH))
    assert [len(moment.tracks_xy) for moment in seen[:9]] == [1, 2, 3, 4, 5, 6, 7, 8, 1]
    for moment in seen:
        step = moment.frame - moment.window
        np.testing.assert_array_equal(moment.tracks_xy[-1], view.tracks[moment.window, step])
        np.testing.assert_array_equal(moment.frame_rgb, view.frames[moment.frame])


def test_a_video_has_every_frame(folder, tmp_path):
    out = tmp_path / "tracks.mp4"
    assert main(["render", str(folder / "out"), str(out), "--to", "video"]) == 0
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == LENGTH
    assert frames[0].shape == (246, 512, 3)  # 5.12 times the canvas, even sides


def test_a_contact_sheet_and_bad_names(folder, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["render", str(folder / "out"), str(out), "--to", "contact-sheet"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    argv = ["render", str(folder / "out"), str(tmp_path / "x.mp4"), "--to", "video"]
    assert main([*argv, "--episode", "nobody"]) == 2
    assert "no episode 'nobody' in " in capsys.readouterr().err
    assert main([*argv, "--view", "wrist"]) == 2
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "x.mp4"
    assert main(["render", str(folder / "out"), str(below), "--to", "video"]) == 4


@pytest.mark.parametrize("to", ["video", "contact-sheet", "rerun"])
def test_a_picture_never_replaces_a_file_of_another_kind(folder, tmp_path, to, capsys):
    out = tmp_path / "notes.txt"
    out.write_text("mine")
    assert main(["render", str(folder / "out"), str(out), "--to", to]) == 2
    assert "expected a name that ends in " in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_options_that_a_picture_does_not_take(folder, tmp_path, capsys):
    argv = ["render", str(folder / "out")]
    out = str(tmp_path / "sheet.png")
    assert main([*argv, out, "--to", "contact-sheet", "--episode", "nobody"]) == 2
    assert "chooses its episodes" in capsys.readouterr().err
    assert main([*argv, str(tmp_path / "x.rrd"), "--to", "rerun", "--view", "main"]) == 2
    assert "--view is for video" in capsys.readouterr().err


def test_a_rerun_recording(folder, tmp_path):
    pytest.importorskip("rerun")
    out = tmp_path / "tracks.rrd"
    assert main(["render", str(folder / "out"), str(out), "--to", "rerun"]) == 0
    assert out.read_bytes()[:3] == b"RRF"


def test_tapvid_clips_read_back_by_that_formats_rules(folder, dataset, tmp_path):
    out = tmp_path / "clips.pkl"
    assert main(["export", str(folder / "out"), str(out), "--to", "tapvid"]) == 0
    clips = pickle.loads(out.read_bytes())  # our own file
    view = dataset[dataset.ids[0]].views["main"]
    assert [len(clip["video"]) for clip in clips.values()] == [8, 8, 3]
    for (name, clip), start in zip(clips.items(), (0, 8, 16), strict=True):
        assert name == f"{dataset.ids[0]}/main/{start:06d}"
        steps = len(clip["video"])
        height, width = clip["video"].shape[1:3]
        raster_xy = clip["points"] * (width, height)
        expected = view.tracks[start, :steps].swapaxes(0, 1)
        np.testing.assert_allclose(raster_xy, expected, atol=1e-4)
        np.testing.assert_array_equal(clip["occluded"], view.vis[start, :steps].T == 0)
        assert (clip["points"].dtype, clip["occluded"].dtype) == (np.float32, np.bool_)


def test_tapvid_clips_are_a_source_again(folder, tmp_path):
    """What was exported can be built from, with its tracks as they were."""
    out = tmp_path / "clips.pkl"
    assert main(["export", str(folder / "out"), str(out), "--to", "tapvid"]) == 0
    assert main(["inspect", str(out), "--kind", "tapvid", "--json"]) == 0


def test_a_card_has_the_hubs_header(folder, tmp_path):
    out = tmp_path / "README.md"
    assert main(["export", str(folder / "out"), str(out), "--to", "card"]) == 0
    _, header, body = Path(out).read_text().split("---\n", 2)
    facts = yaml.safe_load(header)
    assert facts["size_categories"] == ["n<1K"]
    assert facts["license"] == "other"
    assert f"{LENGTH} frames" in body
    assert "not CoTracker quality" in body


def test_nothing_is_overwritten(folder, tmp_path, capsys):
    out = tmp_path / "mine.pkl"
    out.write_text("mine")
    assert main(["export", str(folder / "out"), str(out), "--to", "tapvid"]) == 2
    assert out.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


def test_a_view_that_is_not_there_is_named(folder, tmp_path, capsys):
    for target in ("tapvid", "inference"):
        argv = ["export", str(folder / "out"), str(tmp_path / "out"), "--to", target]
        assert main([*argv, "--views", "top"]) == 2
        assert "has no view 'top'; it has ['main']" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_pickle_that_did_not_fit_is_not_left_behind(folder, dataset, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(pickle, "dump", full)
    with pytest.raises(OutputError, match="free some space"):
        export_tapvid(dataset, tmp_path / "clips.pkl")
    assert not list(tmp_path.iterdir())


def test_a_card_counts_whole_episodes_as_one_window(folder, tmp_path):
    argv = ["--source", str(folder / "videos"), "--out", str(tmp_path / "out"), "--quiet"]
    settings = ["queries.grid=[3, 4]", "tracker.mode=episode", "tracker.kind=lk"]
    assert main(["build", *settings, *argv, "--img-shape", *map(str, IMG_SHAPE)]) == 0
    assert "1 window of a whole episode" in dataset_card(open_dataset(tmp_path / "out"))


def test_a_card_says_when_pictures_were_not_letterboxed(folder, tmp_path):
    argv = ["--source", str(folder / "videos"), "--out", str(tmp_path / "out"), "--quiet"]
    settings = ["geometry=resize_shorter", "short_side=32", "queries.region=canvas"]
    assert main(["build", *settings, *argv, "--img-shape", *map(str, IMG_SHAPE)]) == 0
    card = dataset_card(open_dataset(tmp_path / "out"))
    assert "resized by its shorter side, for training at 48 x 100 (height x width)" in card
    assert "letterboxed" not in card
