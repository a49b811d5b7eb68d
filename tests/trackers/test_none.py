"""``tracker.kind=none``: frames now, tracks later as a layer."""

from __future__ import annotations

import pytest
from source_fixtures import write_video

from builder.cli import main
from builder.core.errors import LettersetError
from builder.dataset.opening import open_dataset


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames_only")
    write_video(folder / "videos" / "a.mp4", count=9, shape=(40, 70))
    argv = ["--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    settings = ["tracker.kind=none", "tracker.horizon=4", "queries.grid=[2, 3]"]
    assert main(["build", *settings, *argv, "--img-shape", "32", "64"]) == 0
    return folder / "out"


def test_it_validates_and_holds_frames(out):
    assert main(["validate", str(out), "--deep"]) == 0
    dataset = open_dataset(out)
    view = dataset[dataset.ids[0]].views["main"]
    assert view.frames.shape == (9, 32, 64, 3)
    assert view.tracks.shape == (0, 4, 6, 2)


def test_training_on_it_says_what_is_missing(out):
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    with pytest.raises(LettersetError, match=r"no tracks.*letterset track"):
        WindowDataset(open_dataset(out))


def test_tracks_are_added_later(out):
    assert main(["track", str(out), "--name", "flow", "tracker.kind=dis"]) == 0
    dataset = open_dataset(out, tracks="flow")
    assert dataset[dataset.ids[0]].views["main"].tracks.shape == (9, 4, 6, 2)


def test_the_doctor_and_the_pictures_say_that_there_are_no_tracks(out, tmp_path, capsys):
    assert main(["doctor", str(out)]) == 1
    assert "there is nothing to train on" in capsys.readouterr().out
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0
    assert "there is nothing to train on" in (tmp_path / "report.html").read_text()
    for kind, name in (("contact-sheet", "a.png"), ("video", "a.mp4")):
        assert main(["render", str(out), str(tmp_path / name), "--to", kind]) == 1
        assert "no tracks to show; see letterset track" in capsys.readouterr().err
        assert not (tmp_path / name).exists()
