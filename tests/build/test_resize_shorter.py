"""The older preprocessing as a build option: both routes from one tool, on the same video."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from source_fixtures import write_video

from builder.cli import main
from builder.dataset.opening import open_dataset
from builder.training import normalize_traj
from schemas import Stretch, swap_xy

SOURCE_SHAPE, TRACKED_SHAPE, IMG_SHAPE = (120, 212), (60, 106), (48, 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shorter")
    write_video(folder / "videos" / "a.mp4", count=8, shape=SOURCE_SHAPE)
    settings = ["geometry=resize_shorter", "short_side=60", "queries.grid=[3, 4]"]
    argv = ["--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    assert main(["build", *settings, *argv, "--img-shape", *map(str, IMG_SHAPE)]) == 0
    assert main(["validate", str(folder / "out"), "--deep"]) == 0
    return folder


def test_attributes_say_the_size_in_which_points_were_tracked(folder):
    dataset = open_dataset(folder / "out")
    view = dataset[dataset.ids[0]].views["main"]
    assert view.geometry == Stretch(source_shape=SOURCE_SHAPE, img_shape=TRACKED_SHAPE)
    assert view.frames.shape == (8, *TRACKED_SHAPE, 3)
    with h5py.File(folder / "out" / "episodes" / f"{dataset.ids[0]}.hdf5") as file:
        attrs = file["root/main"].attrs
        assert (attrs["height"], attrs["width"]) == TRACKED_SHAPE


def test_training_remaps_as_the_older_route_does(folder):
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    dataset = open_dataset(folder / "out")
    view = dataset[dataset.ids[0]].views["main"]
    sample = WindowDataset(dataset, horizon=4)[2]
    remapped_xy = Stretch(source_shape=TRACKED_SHAPE, img_shape=IMG_SHAPE).to_img(
        np.asarray(view.tracks[2, :4], np.float64)
    )
    expected = normalize_traj(swap_xy(remapped_xy), IMG_SHAPE)
    np.testing.assert_allclose(sample["traj"][0], expected, atol=1e-6)
    assert sample["images"].shape == (1, *IMG_SHAPE, 3)


@pytest.mark.parametrize(
    ("source", "short_side", "expected"),
    [((720, 1280), 480, (480, 853)), ((1280, 720), 480, (853, 480)), ((33, 33), 480, (480, 480))],
)
def test_the_short_side_is_exact_and_the_aspect_kept(source, short_side, expected):
    assert Stretch.shorter(source, short_side).img_shape == expected


def test_older_track_files_get_the_size_their_points_are_pixels_of(folder, tmp_path):
    out = tmp_path / "attrs"
    assert main(["export", str(folder / "out"), str(out), "--to", "amplify-attrs"]) == 0
    (episode,) = open_dataset(out, IMG_SHAPE)
    view = episode.views["main"]
    assert view.geometry == Stretch(source_shape=TRACKED_SHAPE, img_shape=IMG_SHAPE)
    mine = next(iter(open_dataset(folder / "out"))).views["main"]
    expected = Stretch(source_shape=TRACKED_SHAPE, img_shape=IMG_SHAPE).to_img(mine.tracks[:])
    np.testing.assert_allclose(view.tracks[:], expected, rtol=1e-6)


@pytest.mark.parametrize("target", ["amplify", "lerobot"])
def test_targets_of_one_size_refuse_it_by_name(folder, tmp_path, capsys, target):
    if target == "lerobot":
        pytest.importorskip("pyarrow")
    out = tmp_path / "out.json"
    assert main(["export", str(folder / "out"), str(out), "--to", target]) == 2
    said = capsys.readouterr().err
    assert str(TRACKED_SHAPE) in said
    assert str(IMG_SHAPE) in said
    assert not list(tmp_path.iterdir())


def test_points_are_counted_on_the_canvas_they_are_on(folder):
    from builder.report.report import point_regions

    dataset = open_dataset(folder / "out")
    (shares,) = point_regions(dataset, dataset.ids).values()
    tracks_xy = next(iter(dataset)).views["main"].tracks[:].reshape(-1, 2)
    expected = (tracks_xy[:, 1] >= TRACKED_SHAPE[0] * 2 / 3).mean()
    assert shares[2].sum() == pytest.approx(expected, abs=0.01)
