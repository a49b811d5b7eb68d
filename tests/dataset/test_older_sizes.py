"""The size of the frames that older files were tracked in: recorded, given, told, or unknown."""

import re

import h5py
import numpy as np
import pytest
from legacy_fixtures import amplify_folder, grid_queries, older_queries, write_amplify

from builder.canvas.query_grid import grid_span
from builder.core.errors import ConfigError, DatasetError
from builder.dataset.legacy.dataset import open_legacy
from builder.dataset.opening import open_dataset
from schemas import Stretch
from schemas.legacy import resized_by_shorter

IMG = (120, 160)


def only_view(dataset):
    (episode,) = dataset
    (view,) = episode.views.values()
    return view


@pytest.mark.parametrize("shape", [(480, 854), (36, 64), (854, 480)])
def test_a_grid_tells_what_it_spans(shape):
    assert grid_span(grid_queries(shape, 20), 1.0) == pytest.approx(shape)
    assert grid_span(older_queries(shape, 20), 1.0) == pytest.approx((shape[0], shape[0]))
    columns_fastest = grid_queries(shape, 20).reshape(20, 20, 2).swapaxes(0, 1).reshape(-1, 2)
    for other in (columns_fastest, grid_queries(shape, 20) + 3, grid_queries(shape, 20)[:399]):
        assert grid_span(other, 1.0) is None
    assert grid_span(np.zeros((1, 2)), 1.0) is None


@pytest.mark.parametrize(
    ("shape", "outside"), [((480, 854), 0), ((854, 480), 8), ((480, 368), 4), ((480, 480), 0)]
)
def test_true_sizes_open_whatever_the_aspect(tmp_path, shape, outside):
    tracks = write_amplify(tmp_path / "clip.hdf5", {"default": shape}, older=True)["default"]
    view = only_view(open_legacy(tmp_path, IMG))
    assert view.geometry == Stretch(source_shape=shape, img_shape=IMG)
    back = view.geometry.to_source(np.asarray(view.tracks[:], np.float64))
    np.testing.assert_allclose(back, tracks, atol=1e-3)
    assert int((~view.geometry.inside(np.asarray(view.queries))).sum()) == outside
    assert len(view.meta.notes) == (shape[0] != shape[1])
    assert not view.meta.source_shape_assumed


def test_points_outside_are_masked_in_training(tmp_path):
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    write_amplify(tmp_path / "clip.hdf5", {"default": (854, 480)}, older=True)
    (in_content,) = WindowDataset(open_legacy(tmp_path, IMG))[0]["in_content"]
    expected = older_queries((854, 480))[:, 0] <= 480
    np.testing.assert_array_equal(in_content.numpy(), expected)
    assert 0 < expected.sum() < len(expected)


@pytest.mark.parametrize("declared", [(480, 100), (240, 854), (300, 300)])
def test_a_size_that_neither_the_picture_nor_the_grid_fits_is_refused(tmp_path, declared):
    write_amplify(tmp_path / "clip.hdf5", {"default": (480, 854)})
    with h5py.File(tmp_path / "clip.hdf5", "r+") as file:
        file["root/default"].attrs.update(dict(zip(("height", "width"), declared, strict=True)))
    with pytest.raises(DatasetError, match=r"clip.hdf5, view default: .*declared size"):
        only_view(open_legacy(tmp_path, IMG))


def test_without_a_size_nothing_is_made_up(tmp_path):
    write_amplify(tmp_path / "clip.hdf5", {"default": (480, 854)}, older=True, attrs=False)
    view = only_view(open_legacy(tmp_path, IMG))
    assert view.tracked_size() == (None, "unknown", "")
    assert view.meta.source_shape_assumed


def test_a_given_size_that_files_contradict_is_refused_or_told(tmp_path, caplog):
    for name, attrs in (("a", True), ("b", False)):
        write_amplify(tmp_path / f"{name}.hdf5", {"v": (480, 854)}, older=True, attrs=attrs)
    told = "a.hdf5, view v: height and width are recorded as 480 x 854 (H x W), but --tracked gives"
    folder = open_legacy(tmp_path, IMG, tracked=(480, 640))
    assert [e.views["v"].tracked_size().shape for e in folder] == [(480, 854), (480, 640)]
    assert told in caplog.text
    (tmp_path / "b.hdf5").unlink()
    for given in ((480, 640), {"v": (480, 640)}):
        with pytest.raises(ConfigError, match=re.escape(told)):
            open_legacy(tmp_path, IMG, tracked=given)
    assert only_view(open_legacy(tmp_path, IMG, tracked=(480, 854))).tracked_size().shape


@pytest.mark.parametrize("place", ["tracks", "/root", "/"])
def test_a_size_at_another_place_is_found_and_told(tmp_path, place):
    write_amplify(tmp_path / "clip.hdf5", {"v": (480, 854)}, older=True, attrs=place)
    view = only_view(open_legacy(tmp_path, IMG))
    assert view.geometry.source_shape == (480, 854)
    said = {"tracks": "root/v/tracks", "/root": "root", "/": "the file itself"}[place]
    assert view.meta.notes[0] == f"height and width are attributes of {said}, not of root/v"


def test_a_size_at_another_place_that_the_grid_contradicts_is_not_taken(tmp_path):
    write_amplify(tmp_path / "clip.hdf5", {"v": (480, 854)}, older=True, attrs=False)
    with h5py.File(tmp_path / "clip.hdf5", "r+") as file:
        file.attrs.update({"height": 1080, "width": 1920})
    size = only_view(open_legacy(tmp_path, IMG)).tracked_size()
    assert (size.shape, size.origin) == (None, "unknown")
    assert "the file itself" in size.basis
    assert "1080 x 1920 (H x W), but its query grid is that of frames 480 high" in size.basis
    given = only_view(open_legacy(tmp_path, IMG, tracked=(480, 854)))
    assert given.tracked_size() == ((480, 854), "given", "")


@pytest.mark.parametrize("attrs", [{"height": 0.9}, {"height": "tall", "width": "wide"}])
def test_attributes_of_the_file_that_are_no_size_do_not_hinder(tmp_path, attrs):
    write_amplify(tmp_path / "clip.hdf5", {"v": (480, 854)}, older=True, attrs=False)
    with h5py.File(tmp_path / "clip.hdf5", "r+") as file:
        file.attrs.update(attrs)
    size = only_view(open_legacy(tmp_path, IMG)).tracked_size()
    assert size.shape is None
    assert "height and width of the file itself are no size" in size.basis


def test_the_views_own_attributes_go_before_others(tmp_path):
    write_amplify(tmp_path / "clip.hdf5", {"v": (480, 854)}, older=True)
    with h5py.File(tmp_path / "clip.hdf5", "r+") as file:
        file["root"].attrs.update({"height": 1080, "width": 1920})
    assert only_view(open_legacy(tmp_path, IMG)).tracked_size() == ((480, 854), "recorded", "")


def test_sizes_are_given_for_all_views_or_by_view(tmp_path):
    views = {"front": (480, 854), "wrist": (480, 640)}
    amplify_folder(tmp_path, demos=2, views=views, attrs=False, older=True)
    for episode in open_legacy(tmp_path, IMG, tracked=views):
        for name, shape in views.items():
            assert episode.views[name].tracked_size() == (shape, "given", "")
    partly = open_dataset(tmp_path, IMG, tracked={"front": (480, 854)})
    assert next(iter(partly)).views["wrist"].tracked_size().shape is None
    assert len(partly.notes) == 1
    for given, reason in (
        ({"side": (480, 854)}, "given for the view side, which no file has"),
        ({"front": (0, 854)}, "tracked size of front must be"),
        ((480, -1), r"tracked must be \(H, W\)"),
    ):
        with pytest.raises(ConfigError, match=reason):
            open_legacy(tmp_path, IMG, tracked=given)


def test_a_given_size_that_the_grid_contradicts_is_refused(tmp_path):
    write_amplify(tmp_path / "clip.hdf5", {"v": (480, 854)}, older=True, attrs=False)
    with pytest.raises(
        DatasetError, match=r"the given tracked size is 854 x 480 .* that of frames 480 high"
    ):
        only_view(open_legacy(tmp_path, IMG, tracked=(854, 480)))


def test_the_older_resizing():
    assert resized_by_shorter((1080, 1920), 480) == (480, 853)
    assert resized_by_shorter((1920, 1080), 480) == (853, 480)
    assert resized_by_shorter((480, 480), 480) == (480, 480)
    assert resized_by_shorter((1, 1_000_000), 1) == (1, 1_000_000)
