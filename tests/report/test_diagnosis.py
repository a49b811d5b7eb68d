"""The doctor's numbers against datasets whose illness is known."""

import json
import tracemalloc

import h5py
import numpy as np
import pytest
from legacy_fixtures import amplify_folder, write_amplify, write_atm

from builder.canvas.query_grid import query_points
from builder.cli import main
from builder.core.errors import ConfigError
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.opening import open_dataset
from builder.report.diagnosis import Diagnosis, diagnose, diagnose_path
from builder.report.report import write_report
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import HORIZON, QUERIES, Sample, sample_dataset, sample_meta
from builder.transform.migrate import migrate
from schemas import QuerySpec

IMG = (477, 470)


def only(report):
    (view,) = report.views
    return view


def test_without_attributes_the_height_is_told_and_the_width_asked_for(tmp_path):
    amplify_folder(tmp_path, views={"front": (480, 854)}, attrs=False, older=True)
    report = diagnose_path(tmp_path, IMG)
    view = only(report)
    (size,) = view.sizes
    assert (size.shape, size.origin, size.episodes, size.scale_rc) == (None, "unknown", 3, None)
    assert "frames were 480 high; it tells no width, and visible points" in size.told
    assert (view.remapped, view.by_frame_step, view.aspects) == (None, {}, ())
    assert report.exit_code == 1
    text = report.text()
    for word in ("give it, --tracked H W", "--videos DIR", "pixels of an unknown size"):
        assert word in text
    for word in ("480 x 480", "width=480", "where=", "suggested", "aspects", "frame step"):
        assert word not in text


@pytest.mark.parametrize("shape", [(480, 854), (854, 480)])
def test_points_that_go_far_tell_a_least_width_unless_it_is_portrait(tmp_path, shape):
    write_amplify(tmp_path / "a.hdf5", {"v": shape}, attrs=False, older=True, speed_xy=(26.0, 0))
    (size,) = only(diagnose_path(tmp_path, IMG)).sizes
    reach = shape[0] * 7 / 8 + 15 * 26
    assert f"Visible points reach x = {reach:.0f}: if they were in the picture" in size.told
    assert f"a portrait picture is below {shape[0]}, and points started outside" in size.told


def test_a_size_may_be_given_to_the_doctor(tmp_path):
    amplify_folder(tmp_path, views={"front": (240, 235)}, attrs=False, speed_xy=(0.8, 0.6))
    report = diagnose_path(tmp_path, IMG, tracked=(240, 235))
    view = only(report)
    (size,) = view.sizes
    assert (size.shape, size.origin, size.episodes) == ((240, 235), "given", 3)
    assert size.scale_rc == pytest.approx((240 / 477, 0.5))
    assert view.remapped.row_min == pytest.approx(-0.75)
    assert "ignoring height and width scales rows of motion by 0.503" in report.text()
    sample_dataset(tmp_path / "own", Hdf5Store(tmp_path / "own"), [Sample("a-1")])
    with pytest.raises(ConfigError, match="tracked are for older files"):
        diagnose_path(tmp_path / "own", (24, 40), tracked=(24, 40))


@pytest.mark.parametrize(
    ("shape", "told", "share", "code"),
    [
        ((480, 854), "cover 56% of the width", 0.0, 0),
        ((480, 368), "4 of 16 query points (1 column of 4) start to the right", 4 / 16, 0),
        ((854, 480), "8 of 16 query points (2 columns of 4) start to the right", 8 / 16, 1),
        ((480, 480), None, 0.0, 0),
    ],
)
def test_where_the_older_grid_lies_is_told_and_points_outside_counted(
    tmp_path, shape, told, share, code
):
    speed = [0.8 * side / own for side, own in zip(shape[::-1], IMG[::-1], strict=True)]
    write_amplify(tmp_path / "a.hdf5", {"v": shape}, older=True, speed_xy=speed, length=60)
    report = diagnose_path(tmp_path, IMG)
    view = only(report)
    assert view.padding_share == pytest.approx(share)
    assert len(view.grid_notes) == (told is not None)
    assert told is None or told in report.text()
    assert report.exit_code == code


@pytest.mark.parametrize(("declared", "told"), [((1080, 1920), "480 high"), ((480, 854), None)])
@pytest.mark.parametrize("origin", ["corner", "center"])
def test_a_recorded_size_that_the_grid_contradicts_is_told(tmp_path, declared, told, origin):
    write_amplify(tmp_path / "old" / "a.hdf5", {"v": (480, 854)}, older=True, length=40)
    with h5py.File(tmp_path / "old" / "a.hdf5", "r+") as file:
        file["root/v"].attrs.update(dict(zip(("height", "width"), declared, strict=True)))
    report = diagnose_path(tmp_path / "old", IMG, pixel_origin=origin)
    assert ("but its query grid is that of frames" in report.text()) == (told is not None)
    assert told is None or told in report.text() or "481 high" in report.text()
    done = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG, pixel_origin=origin)
    assert bool(done.failures) == (told is not None)


def test_what_a_config_beside_the_files_says_is_told(tmp_path):
    write_amplify(tmp_path / "a.hdf5", {"v": (854, 480)}, older=True, attrs=False)
    (tmp_path / "config.yaml").write_text("resize_shorter: 480\n")
    assert (
        "(config.yaml beside them says resize_shorter 480)" in diagnose_path(tmp_path, IMG).text()
    )


@pytest.mark.parametrize("place", ["tracks", "/root", "/"])
def test_attributes_elsewhere_are_taken_and_told(tmp_path, place):
    write_amplify(tmp_path / "a.hdf5", {"v": (480, 854)}, older=True, attrs=place, length=40)
    report = diagnose_path(tmp_path, IMG)
    (size,) = only(report).sizes
    said = {"tracks": "root/v/tracks", "/root": "root", "/": "the file itself"}[place]
    assert (size.shape, size.origin) == ((480, 854), "recorded")
    assert f"height and width are attributes of {said}, not of root/v, where" in report.text()


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
    for name, word in (("fast", "exceed the loss window"), ("still", "zero displacement")):
        report = diagnose_path(tmp_path / name, IMG)
        assert report.exit_code == 1
        assert word in report.text()
        # Older files have no table to filter by.
        assert report.text().count("where=") == report.text().count("migrate, then ")
        assert "smaller" not in report.text()  # the frame step is unknown


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


def test_shares_of_a_picture_need_no_size(tmp_path):
    write_atm(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        del file["root/agentview/video"]
    report = diagnose_path(tmp_path, (96, 128))
    view = only(report)
    assert (view.sizes[0].shape, view.sizes[0].origin, view.sizes[0].told) == (
        None,
        "relative",
        None,
    )
    assert view.remapped == view.now
    assert "without a recorded tracked size" not in report.text()


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


def moving(key, steps_xy, length=12, fps=None):
    """An episode of letterset whose windows move by ``steps_xy`` (S, 2) px a step."""
    sample = Sample(key, length=length)
    for view in sample.boxes:
        start = sample.arrays[view, "queries"]
        steps = np.arange(HORIZON)[:, None, None] * np.asarray(steps_xy)[:, None, None]
        sample.arrays[view, "tracks"] = (start + steps).astype("<f4")
        sample.arrays[view, "vis"] = np.ones((length, HORIZON, len(start)), np.uint8)
    if fps:
        sample.fps = fps
    return sample


def still_but(length, moves):
    """Steps (length, 2) of windows that stand still, but for some: by window."""
    steps = np.zeros((length, 2))
    for window, step in moves.items():
        steps[window] = step
    return steps


def test_one_share_has_one_value(tmp_path, capsys):
    """Doctor, report and stats count the same things over the same windows."""
    made = [Sample("a", seed=1, length=9), moving("b", still_but(12, {0: (9, 0), 3: (20, 0)}))]
    sample_dataset(tmp_path / "d", Hdf5Store(tmp_path / "d"), made)
    report = diagnose_path(tmp_path / "d", (24, 40))
    assert main(["stats", str(tmp_path / "d"), "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["within_clip"] == report.views[0].windows == 6 + 9
    for view in report.views:
        counted = {name: found["mean"] for name, found in stats["views"][view.name].items()}
        for name in ("zero", "saturated", "clipped"):
            share = getattr(view.now, f"{name}{'' if name != 'zero' else '_class'}_share")
            assert counted[name] == pytest.approx(share, abs=1e-6), (view.name, name)
        assert counted["vis"] == pytest.approx(view.visible_share, abs=1e-6)
    pages = write_report(open_dataset(tmp_path / "d"), tmp_path / "report.html")
    assert pages.views == report.views
    text = report.text()
    assert "shares of 15 windows within their clip" in text
    few = diagnose_path(tmp_path / "d", (24, 40), windows=2).text()
    assert "shares of 4 of 15 windows within their clip, spread evenly" in few


def test_cures_say_how_many_windows_remain(tmp_path, capsys):
    moves = {0: (20, 0), 1: (20, 0), 2: (20, 0), 5: (9, 0), 6: (9, 0)}
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [moving("a", still_but(12, moves))])
    report = diagnose_path(tmp_path, (24, 40))
    front = report.views[0]
    cures = {cure.where: cure.windows for cure in front.cures}
    assert cures
    assert any(" and " in where for where in cures)
    for cure in front.cures:
        main(["stats", str(tmp_path), "--where", cure.where, "--json"])
        matching = json.loads(capsys.readouterr().out)["matching_within_clip"]
        assert f"where='{cure.where}'" in report.text()
        assert f"{matching} of 9 windows remain" in report.text()
    assert "remain, few" in report.text()


def test_cures_count_windows_as_a_filter_over_several_views_does(tmp_path):
    """It compares the mean over the views, whichever of them a finding is about."""
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    sample = moving("a", still_but(40, {k: (3 * (k % 8), 0) for k in range(30)}), 40)
    sample.arrays["front", "tracks"][:] = sample.arrays["front", "tracks"][:, :1]
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [sample])
    assert main(["stats", str(tmp_path), "--json"]) == 0
    report = diagnose_path(tmp_path, (24, 40))
    assert not report.views[0].cures
    assert report.views[1].cures
    for cure in report.views[1].cures:
        assert cure.windows == len(WindowDataset(tmp_path, where=cure.where)), cure.where


@pytest.mark.parametrize(("built", "told"), [
    ({}, None),
    ({"frame_step": 1}, None),
    ({"frame_step": 3}, "source.frame_step than 3, every window remains"),
    ({"fps": 10.0}, "source.fps than 10, every window remains"),
])  # fmt: skip
def test_a_smaller_frame_step_is_advised_where_there_is_one(tmp_path, built, told):
    store = Hdf5Store(tmp_path)
    meta = sample_meta(config={"source": {"kind": "video", **built}})
    with DatasetWriter.create(tmp_path, meta) as catalog:
        catalog.add(index_line(moving("a", np.full((12, 2), (9, 0))).build(store)))
    text = diagnose_path(tmp_path, (24, 40)).text()
    assert "exceed the loss window" in text
    assert ("smaller source.frame_step" in text or "larger source.fps" in text) is bool(told)
    assert told is None or told in text


def test_a_larger_frame_step_says_how_many_windows_remain(tmp_path):
    write_amplify(tmp_path / "a.hdf5", {"front": IMG}, speed_xy=(0.15, 0.0), length=60)
    text = diagnose_path(tmp_path, IMG).text()
    assert "frame step 2 would lower the zero class to" in text
    assert "15 of 45 windows remain, few" in text


@pytest.mark.parametrize(("clipped", "level"), [(0, None), (9, None), (20, "note"), (70, "warn")])
def test_ordinary_clips_are_not_condemned(tmp_path, clipped, level):
    """A few windows in which points leave the picture are ordinary; many are told, mildly."""
    moves = dict.fromkeys(range(clipped), (7, 0))
    others = {k: (1, 0) for k in range(clipped, 100)}
    sample_dataset(
        tmp_path, Hdf5Store(tmp_path), [moving("a", still_but(100, moves | others), 100)]
    )
    report = diagnose_path(tmp_path, (24, 40))
    wrist = report.views[1]
    assert wrist.now.clipped_share == pytest.approx(clipped / 97 / 6)
    levels = {f.level for f in report.findings if "clipped" in f.text and f.view == "wrist"}
    assert levels == ({level} if level else set())
    assert report.exit_code == 0


def test_mixed_frame_rates_are_told_with_the_cure(tmp_path):
    made = [moving(str(fps), np.ones((12, 2)), fps=fps) for fps in (20, 30.0, 60)]
    sample_dataset(tmp_path / "mixed", Hdf5Store(tmp_path / "mixed"), made)
    sample_dataset(tmp_path / "even", Hdf5Store(tmp_path / "even"), made[:1])
    report = diagnose_path(tmp_path / "mixed", (24, 40))
    (finding,) = (f for f in report.findings if "frame rates differ" in f.text)
    assert (finding.level, finding.view) == ("warn", None)
    assert "20 to 60 per second: 4 steps last 0.067 to 0.2 s" in finding.text
    assert "source.fps=20" in finding.text
    assert "frame rates" not in diagnose_path(tmp_path / "even", (24, 40)).text()


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
