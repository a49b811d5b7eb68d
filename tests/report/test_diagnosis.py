"""The doctor's numbers against datasets whose illness is known."""

import json
import tracemalloc

import h5py
import numpy as np
import pytest
from legacy_fixtures import amplify_folder, write_amplify, write_atm

from builder.canvas.query_grid import query_points
from builder.core.errors import ConfigError
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.opening import open_dataset
from builder.report.diagnosis import Diagnosis, diagnose, diagnose_path
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import QUERIES, Sample, sample_dataset, sample_meta
from schemas import QuerySpec

IMG = (477, 470)


def only(report):
    (view,) = report.views
    return view


def test_without_attributes_and_truly_smaller_motion_is_half(tmp_path):
    amplify_folder(tmp_path, views={"front": (240, 235)}, attrs=False, speed_xy=(0.4, 0.3))
    report = diagnose_path(tmp_path, IMG)
    view = only(report)
    (size,) = view.sizes
    assert (size.shape, size.origin, size.episodes) == ((240, 235), "estimated", 3)
    assert size.scale_rc == pytest.approx((240 / 477, 0.5))
    assert view.now.row_max < 0.1  # rows end before the middle of the picture
    assert view.now.row_min == pytest.approx(-1 + 2 * 30 / 477)
    assert view.remapped.row_min == pytest.approx(-0.75)
    assert view.now.zero_class_share > view.remapped.zero_class_share
    assert report.exit_code == 1
    assert "rows are shrunk, 0.503 times" in report.text()
    assert "height=240, width=235" in report.text()


def test_short_side_480_is_magnified_and_clipped(tmp_path):
    amplify_folder(tmp_path, views={"front": (480, 853)}, attrs=False)
    report = diagnose_path(tmp_path, IMG)
    view = only(report)
    assert view.sizes[0].scale_rc == pytest.approx((480 / 477, 853 / 470))
    assert view.now.clipped_share > 0.2
    assert view.remapped.clipped_share == 0.0
    assert "columns are magnified and clipped, 1.81 times" in report.text()
    assert report.exit_code == 1


def test_recorded_sizes_are_fine_but_say_what_a_loader_must_do(tmp_path):
    amplify_folder(tmp_path, views={"front": (480, 853)}, speed_xy=(4.0, 3.0))
    report = diagnose_path(tmp_path, IMG)
    view = only(report)
    assert report.exit_code == 0
    assert view.sizes[0].origin == "recorded"
    assert view.now == view.remapped
    assert view.now.clipped_share == 0.0
    assert "a loader must remap" in report.text()
    assert "img_shape [477, 470]." in report.text()
    assert Diagnosis.model_validate_json(report.model_dump_json()) == report


def test_sizes_may_differ_between_episodes_and_are_counted(tmp_path):
    for i, shape in enumerate([(480, 853), (480, 853), (480, 360)]):
        write_amplify(tmp_path / f"{i}.hdf5", {"front": shape}, speed_xy=(4.0, 3.0))
    report = diagnose_path(tmp_path, IMG)
    sizes = {size.shape: size.episodes for size in only(report).sizes}
    assert sizes == {(480, 853): 2, (480, 360): 1}
    assert only(report).aspects == (0.75, 1.78)
    assert "different aspects (0.75, 1.78)" in report.text()


def test_saturated_still_and_slow_motion(tmp_path):
    for name, speed in (("fast", (20.0, 0.0)), ("still", (0.0, 0.0)), ("slow", (0.3, 0.0))):
        write_amplify(tmp_path / name / "a.hdf5", {"front": IMG}, speed_xy=speed)
    fast, still, slow = (only(diagnose_path(tmp_path / n, IMG)) for n in ("fast", "still", "slow"))
    assert fast.now.saturated_share > 0.5
    assert still.now.zero_class_share == 1.0
    assert still.frame_step == 1  # nothing would help
    assert slow.now.zero_class_share == pytest.approx(0.7, abs=0.05)
    assert slow.by_frame_step["3"].zero_class_share < 0.2
    for name, word in (("fast", "or where='saturated < 0.05'"), ("still", "zero displacement")):
        report = diagnose_path(tmp_path / name, IMG)
        assert report.exit_code == 1
        assert word in report.text()


def test_suggests_a_frame_step_for_slow_data(tmp_path):
    write_amplify(tmp_path / "a.hdf5", {"front": IMG}, speed_xy=(0.15, 0.0), length=60)
    view = only(diagnose_path(tmp_path, IMG))
    assert view.now.zero_class_share > 0.8
    assert view.frame_step == 2
    assert view.by_frame_step["2"].zero_class_share == pytest.approx(0.7, abs=0.05)


def test_the_frozen_tail_is_counted_and_left_out_of_the_motion(tmp_path):
    write_amplify(tmp_path / "a.hdf5", {"front": IMG}, speed_xy=(3.0, 2.0), length=16)
    view = only(diagnose_path(tmp_path, IMG, windows=100))
    assert view.tail_share == pytest.approx(120 / 256)
    assert view.now.zero_class_share == 0.0
    assert view.visible_share == pytest.approx(15 / 16)
    assert view.tail_windows_share == 15 / 16


def test_episodes_shorter_than_the_horizon_are_told(tmp_path):
    write_amplify(tmp_path / "a.hdf5", {"front": IMG}, speed_xy=(3.0, 2.0), length=9)
    report = diagnose_path(tmp_path, IMG)
    assert only(report).tail_windows_share == 1.0
    assert (
        "no episode has as many frames as the horizon; build with a smaller horizon"
        in report.text()
    )
    assert "leave them out" not in report.text()


def test_bad_files_are_listed_and_hurt(tmp_path):
    write_amplify(tmp_path / "good.hdf5", {"front": IMG}, speed_xy=(3.0, 2.0))
    write_amplify(tmp_path / "half.hdf5", {"front": IMG})
    write_amplify(tmp_path / "lie.hdf5", {"front": IMG})
    with h5py.File(tmp_path / "half.hdf5", "r+") as file:
        del file["root/front"].attrs["height"]
    with h5py.File(tmp_path / "lie.hdf5", "r+") as file:
        file["root/front"].attrs["width"] = 100
    report = diagnose_path(tmp_path, IMG)
    assert report.exit_code == 1
    assert len(report.problems) == 2
    assert "half.hdf5" in report.text()
    assert "lie.hdf5, view front" in report.text()


def test_unknown_when_queries_are_no_grid_and_no_size_is_recorded(tmp_path):
    tracks = write_amplify(tmp_path / "a.hdf5", {"front": (240, 320)}, attrs=False)["front"]
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["root/front/tracks"][:] = rng.uniform(0, 200, tracks.shape)
    report = diagnose_path(tmp_path, IMG)
    assert only(report).sizes[0].origin == "unknown"
    assert report.exit_code == 1
    assert "without a recorded tracked size" in report.text()


def test_whole_episodes_and_atm(tmp_path):
    write_amplify(tmp_path / "whole" / "a.hdf5", {"front": (480, 853)}, whole=True)
    view = only(diagnose_path(tmp_path / "whole", IMG))
    assert view.sizes[0].origin == "recorded"
    assert view.tail_share == 0.0
    write_atm(tmp_path / "atm" / "a.hdf5")
    view = only(diagnose_path(tmp_path / "atm", (48, 60)))
    assert (view.sizes[0].shape, view.sizes[0].origin) == ((96, 128), "relative")
    assert view.now.row_min == pytest.approx(-0.75)


def test_memory_does_not_grow_with_the_number_of_episodes(tmp_path):
    amplify_folder(tmp_path, demos=60, views={"front": IMG}, speed_xy=(3.0, 2.0))
    dataset = open_dataset(tmp_path, IMG, max_open=2)
    diagnose(dataset, IMG)
    peaks = []
    for count in (15, 60):
        dataset.ids = dataset.ids[:count] if count == 15 else tuple(dataset.index)
        tracemalloc.start()
        report = diagnose(dataset, IMG)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert report.views[0].episodes == 60
    assert peaks[1] < 1.5 * peaks[0]
    assert json.loads(report.model_dump_json())["episodes"] == 60


def test_a_built_dataset_at_its_own_and_at_another_img_shape(tmp_path):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample("a-1"), Sample("a-2", seed=1)])
    views = {view.name: view for view in diagnose_path(tmp_path, (24, 40)).views}
    assert {*views} == {"front", "wrist"}
    (size,) = views["front"].sizes
    assert (size.shape, size.origin, size.scale_rc) == ((24, 40), "letterbox", (1.0, 1.0))
    assert views["front"].padding_share == 0.0
    assert views["front"].aspects == (0.67,)
    # Twice the canvas: the same place in [-1, 1], twice the pixels.
    double = {view.name: view for view in diagnose_path(tmp_path, (48, 80)).views}
    for name, view in views.items():
        assert double[name].now.col_max == pytest.approx(view.now.col_max, abs=1e-6)
        assert double[name].now.zero_class_share < view.now.zero_class_share


def test_points_in_the_bars_are_counted(tmp_path):
    spec = QuerySpec(grid=QUERIES.grid, region="canvas")
    sample, store = Sample("a-1"), Hdf5Store(tmp_path)
    for view, box in sample.boxes.items():
        queries = query_points(spec, box)
        sample.arrays[view, "queries"] = queries
        sample.arrays[view, "tracks"] = np.broadcast_to(queries, (7, 4, 6, 2)).astype("<f4")
    with DatasetWriter.create(tmp_path, sample_meta(queries=spec)) as catalog:
        catalog.add(index_line(sample.build(store)))
    report = diagnose_path(tmp_path, (24, 40))
    front = next(view for view in report.views if view.name == "front")
    assert front.padding_share == pytest.approx(4 / 6)  # a portrait picture in a wide canvas
    assert "66.7% of the points lie in the bars" in report.text()
    assert report.exit_code == 1


def test_options_that_make_no_sense_are_refused(tmp_path):
    amplify_folder(tmp_path, demos=1)
    for img_shape in ((0, 470), (477, -1)):
        with pytest.raises(ConfigError, match=r"img_shape must be \(H, W\)"):
            diagnose_path(tmp_path, img_shape)
    for windows in (0, -4):
        with pytest.raises(ConfigError, match=f"windows must be at least 1, got {windows}"):
            diagnose_path(tmp_path, IMG, windows)


def test_visibility_that_is_no_number_is_a_problem(tmp_path):
    write_amplify(tmp_path / "a.hdf5", {"front": (477, 470)})
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["root/front/vis"][:, 3, 2] = np.nan
    report = diagnose_path(tmp_path, IMG)
    assert report.exit_code == 1
    (problem,) = report.problems.values()
    assert "view front: vis holds NaN" in problem
