"""What migrating makes of sizes: true ones of any aspect, given ones, and none at all."""

import json

import h5py
import numpy as np
import pytest
from legacy_fixtures import older_queries, write_amplify, write_atm, write_video

from builder.cli import main
from builder.core.errors import ConfigError
from builder.dataset.opening import open_dataset
from builder.dataset.validate import validate
from builder.report.diagnosis import diagnose_path
from builder.transform.migrate import migrate
from schemas import Letterbox, Stretch

IMG = (120, 160)
SIZES = {"land": (480, 854), "port": (854, 480), "narrow": (480, 368), "square": (480, 480)}


def only_view(folder):
    (episode,) = open_dataset(folder)
    (view,) = episode.views.values()
    return view


def write(folder, sizes, **options):
    for name, shape in sizes.items():
        write_amplify(folder / f"{name}.hdf5", {"default": shape}, older=True, **options)


def test_true_sizes_of_any_aspect_are_migrated_together(tmp_path):
    write(tmp_path / "old", SIZES)
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    assert report.failures == {}
    assert validate(tmp_path / "new", deep=True) == []
    dataset = open_dataset(tmp_path / "new")
    assert (dataset.meta.queries.grid, dataset.meta.queries.region) == ((4, 4), "stored")
    sizes = {}
    for episode in dataset:
        view = episode.views["default"]
        name = episode.meta.source.path.removesuffix(".hdf5")
        sizes[name] = view.geometry.source_shape
        source_xy = view.geometry.to_source(np.asarray(view.queries))
        np.testing.assert_allclose(source_xy, older_queries(SIZES[name]), atol=1e-3)
        inside = view.geometry.inside(np.asarray(view.queries))
        assert inside.all() == (name in ("land", "square"))
    assert sizes == SIZES
    text = report.text()
    assert "note: 1 file: query points cover 56% of the width" in text
    assert "note: 1 file: 8 of 16 query points (2 columns of 4) start to the right" in text
    told = {note for note in diagnose_path(tmp_path / "new", IMG).views[0].grid_notes}
    assert len(told) == 3


@pytest.mark.parametrize("name", SIZES)
def test_without_a_size_nothing_is_migrated_and_what_is_told_is_said(tmp_path, name, capsys):
    write(tmp_path / "old", {name: SIZES[name]}, attrs=False)
    argv = ["migrate", str(tmp_path / "old"), str(tmp_path / "new"), "--img-shape", "120", "160"]
    assert main(argv) == 3
    said = capsys.readouterr().out
    for word in (f"frames were {SIZES[name][0]} high", "--tracked H W", "--videos DIR", "--assume"):
        assert word in said


def test_files_without_a_size_are_finished_when_it_is_given(tmp_path):
    write(tmp_path / "old", {"a": (480, 854)})
    write(tmp_path / "old", {"land": (480, 854), "port": (854, 480)}, attrs=False)
    counts = []
    for given in (None, (480, 854), {"default": (854, 480)}):
        report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG, tracked=given)
        counts.append((sum(not move.done for move in report.moves), len(report.failures)))
    # The last size is refused for the file that was migrated with another.
    assert counts == [(1, 2), (1, 1), (1, 1)]
    assert "migrated before, with another tracked size" in report.failures["land.hdf5"]
    assert validate(tmp_path / "new") == []
    shapes = [next(iter(e.views.values())).geometry.source_shape for e in open_dataset(report.out)]
    assert sorted(shapes) == [(480, 854), (480, 854), (854, 480)]
    notes = [note for e in open_dataset(report.out) for note in e.meta.views[0].notes]
    assert "migrated: its tracks were pixels of 854 x 480 (H x W), as was given" in notes


def test_sizes_by_view_on_the_command_line(tmp_path, capsys):
    views = {"front": (480, 854), "wrist": (480, 640)}
    write_amplify(tmp_path / "old" / "a.hdf5", views, older=True, attrs=False)
    argv = ["migrate", str(tmp_path / "old"), str(tmp_path / "new"), "--img-shape", "120", "160"]
    assert main([*argv, "--tracked", "front=480x854", "wrist=480x640"]) == 0
    (episode,) = open_dataset(tmp_path / "new")
    assert {v.name: v.geometry.source_shape for v in episode.meta.views} == views
    for wrong in (["480"], ["front=480"], ["480", "854", "3"], ["480", "x"], ["480", "front"]):
        assert main([*argv, "--tracked", *wrong]) == 2
        assert "--tracked takes H W, or VIEW=HxW" in capsys.readouterr().err
    assert main([*argv, "--tracked", "front=480x854", "front=480x640"]) == 2
    assert "--tracked gives the view front twice" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(480, 854), (854, 480)])
def test_height_and_width_in_each_others_place_are_refused(tmp_path, capsys, shape):
    """They were migrated, and motion came out 1.78 times too large one way, too small the other."""
    path = tmp_path / "old" / "a.hdf5"
    write_amplify(path, {"front": shape}, older=True)
    with h5py.File(path, "r+") as file:
        file["root/front"].attrs["height"], file["root/front"].attrs["width"] = shape[::-1]
    argv = [str(tmp_path / "old"), "--img-shape", "120", "160"]
    assert main(["migrate", argv[0], str(tmp_path / "new"), *argv[1:]]) == 3
    said = capsys.readouterr().out
    assert "the declared size (height, width) is" in said
    if shape[0] < shape[1]:
        assert "they stand in each other's place; correct the attributes" in said
    assert main(["inspect", argv[0]]) == 1
    assert main(["doctor", *argv]) == 1


def test_attributes_of_the_video_in_place_of_the_tracked_frames_are_refused(tmp_path, capsys):
    """They were migrated, and the pixels of the tracked frames passed for those of the video."""
    write_amplify(tmp_path / "old" / "a.hdf5", {"front": (480, 854)}, older=True)
    with h5py.File(tmp_path / "old" / "a.hdf5", "r+") as file:
        file["root/front"].attrs.update({"height": 1080, "width": 1920})
    argv = ["migrate", str(tmp_path / "old"), str(tmp_path / "new"), "--img-shape", "120", "160"]
    assert main(argv) == 3
    said = capsys.readouterr().out
    assert "height and width say 1080 x 1920, but its query grid is that of frames 480 high" in said


def test_a_tracked_size_may_be_one_word(tmp_path):
    write_amplify(tmp_path / "old" / "a.hdf5", {"front": (480, 854)}, older=True, attrs=False)
    argv = ["migrate", str(tmp_path / "old"), str(tmp_path / "new"), "--img-shape", "120", "160"]
    assert main([*argv, "--tracked", "480x854"]) == 0


@pytest.fixture
def assumed(tmp_path):
    write(tmp_path / "old", {"clip": (480, 854)}, attrs=False)
    options = {"img_shape": IMG, "assume_img_shape": True}
    report = migrate(tmp_path / "old", tmp_path / "new", **options)
    assert report.failures == {}
    assert "note: 1 file: assumed, not known: " in report.text()
    assert "It cannot be right: its query grid is that of frames 480 high" in report.text()
    return tmp_path / "new"


def test_an_assumed_size_is_recorded_and_reported(assumed, capsys, tmp_path):
    view = only_view(assumed)
    assert view.geometry == Stretch(source_shape=IMG, img_shape=IMG)
    assert view.meta.source_shape_assumed
    assert view.tracked_size().origin == "assumed"
    (problem,) = validate(assumed)
    assert problem.note
    for argv, code in (
        (["inspect", str(assumed)], 0),
        (["validate", str(assumed)], 0),
        (["doctor", str(assumed)], 1),
    ):
        assert main(argv) == code
        assert "assumed" in capsys.readouterr().out.replace("nobody knows the size", "assumed")
    finding = diagnose_path(assumed, IMG).findings[0].text
    assert "frames were 480 high" in finding
    assert "migrate again, and give it" in finding
    (tmp_path / "points.json").write_text("[[0.5, 0.5]]")
    decode = ["decode", str(tmp_path / "points.json"), "--order", "xy", "--space", "norm"]
    (episode_id,) = open_dataset(assumed).ids
    assert main([*decode, "--geometry", str(assumed), "--episode", episode_id]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == [[120.0, 90.0]]
    assert "nobody knows the size of the source" in told.err
    out = tmp_path / "inference.json"
    assert main(["export", str(assumed), "--to", "inference", str(out)]) == 0
    capsys.readouterr()
    assert main([*decode, "--geometry", str(out)]) == 0
    assert "nobody knows the size of the source" in capsys.readouterr().err


def test_an_assumption_is_not_kept_against_a_size_that_is_given_later(assumed, tmp_path):
    options = {"img_shape": IMG, "tracked": (480, 854)}
    report = migrate(tmp_path / "old", assumed, **options)
    assert report.exit_code == 3
    assert "another tracked size than is given now" in report.text()
    assert migrate(tmp_path / "old", tmp_path / "better", **options).exit_code == 0
    assert not only_view(tmp_path / "better").meta.source_shape_assumed
    with pytest.raises(ConfigError, match="nothing needs be assumed"):
        migrate(tmp_path / "old", assumed, assume_img_shape=True, videos=tmp_path, img_shape=IMG)


def test_atm_files_without_a_video_need_a_size_too(tmp_path):
    write_atm(tmp_path / "old" / "a.hdf5")
    with h5py.File(tmp_path / "old" / "a.hdf5", "r+") as file:
        del file["root/agentview/video"]
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    assert "shares of a picture, and it holds no video" in report.failures["a.hdf5"]
    options = {"img_shape": IMG, "assume_img_shape": True}
    assert migrate(tmp_path / "old", tmp_path / "new", **options).exit_code == 0
    assert only_view(tmp_path / "new").meta.source_shape_assumed


@pytest.mark.parametrize("config", [None, "resize_shorter: 480\n"])
def test_the_videos_tell_sizes_that_are_not_recorded(tmp_path, config):
    for name, video, tracked in (
        ("land", (90, 160), (480, 853)),
        ("port", (160, 90), (853, 480)),
        ("square", (96, 96), (480, 480)),
    ):
        write(tmp_path / "old", {name: tracked}, attrs=False)
        write_video(tmp_path / "films" / f"{name}.mp4", video)
    if config:
        (tmp_path / "old" / "config.yaml").write_text(config)
    options = {"img_shape": IMG, "videos": tmp_path / "films"}
    report = migrate(tmp_path / "old", tmp_path / "new", **options)
    assert report.failures == {}
    assert validate(tmp_path / "new", deep=True) == []
    for episode in open_dataset(tmp_path / "new"):
        (view,) = episode.views.values()
        shape = view.geometry.source_shape
        assert view.geometry == Letterbox.fit(shape, IMG)
        assert not view.meta.source_shape_assumed
        source_xy = view.geometry.to_source(np.asarray(view.queries))
        expected = older_queries((shape[0], shape[0]))
        np.testing.assert_allclose(source_xy, expected, atol=0.3)  # 853 is 853.33, rounded
