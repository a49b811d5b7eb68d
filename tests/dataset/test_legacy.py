"""Older datasets: what their attributes may say, and reading them as they lie."""

import logging
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from legacy_fixtures import amplify_folder, grid_queries, write_amplify, write_atm

from builder.core.errors import ConfigError, DatasetError
from builder.dataset.legacy.dataset import open_legacy
from builder.dataset.opening import open_dataset
from builder.training.normalize import clip_traj, normalize_traj
from schemas import Stretch, swap_xy
from schemas.legacy import (
    check_queries,
    implied_geometry,
    missing_size_note,
    tracked_shape,
)

WHERE = "demo_3.hdf5, view front"


@pytest.mark.parametrize("kind", [int, np.int64, np.uint16, float, np.float32, np.array])
def test_a_whole_pair_is_read(kind):
    attrs = {"height": kind(480), "width": kind(853), "fps": 30}
    assert tracked_shape(attrs, WHERE) == (480, 853)
    assert tracked_shape({"fps": 30}, WHERE) is None


@pytest.mark.parametrize("name", ["height", "width"])
@pytest.mark.parametrize(
    "bad",
    [
        *(0, -480, 0.0, 480.5, float("nan"), float("inf"), np.float32("nan"), "480", b"480"),
        *(
            1_000_001,
            np.uint64(2**40),
            True,
            np.bool_(True),
            None,
            np.array([480]),
            np.array([480, 853]),
            np.array(480.5),
        ),
    ],
)
def test_anything_but_a_whole_number_of_pixels_is_refused(name, bad):
    with pytest.raises(ValueError, match=f"demo_3.hdf5, view front: attribute '{name}'"):
        tracked_shape({"height": 480, "width": 853, name: bad}, WHERE)


@pytest.mark.parametrize(("has", "lacks"), [("height", "width"), ("width", "height")])
def test_exactly_one_attribute_is_refused(has, lacks):
    with pytest.raises(ValueError, match=f"demo_3.hdf5, view front.*'{has}' but not '{lacks}'"):
        tracked_shape({has: 480}, WHERE)


@pytest.mark.parametrize(
    "point", [(854.1, 10), (-1.1, 10), (10, 481.1), (10, -1.1), (np.nan, 1), (1, np.inf)]
)
def test_queries_outside_the_declared_size_are_refused(point):
    queries = np.array([[0.5, 0.5], point, [800, 400]])
    with pytest.raises(ValueError, match=r"demo_3.hdf5, view front: query points \(step 0\)"):
        check_queries(queries, (480, 853), WHERE)


def test_queries_within_a_pixel_are_taken():
    check_queries(np.array([[854.0, 481.0], [-1.0, -1.0]]), (480, 853), WHERE)
    check_queries(np.zeros((0, 2)), (480, 853), WHERE)


def test_without_attributes_tracks_count_as_img_pixels():
    assert implied_geometry(None, (477, 470)) == Stretch(
        source_shape=(477, 470), img_shape=(477, 470)
    )
    assert implied_geometry((480, 853), (477, 470)).source_shape == (480, 853)
    note = missing_size_note(["a/x", "a/y", "b/x", "b/y", "c/x"], (477, 470))
    assert "a/x, a/y, b/x and 2 more" in note
    assert "(477, 470)" in note
    assert "letterset doctor" in note


IMG = (477, 470)


def by_hand(tracks_xy, tracked, img=IMG, normalize_in=None):
    """The older loader's arithmetic, from stored (x, y) to normalized (row, col)."""
    rc = tracks_xy[..., [1, 0]].copy()
    if tracked is not None:
        rc[..., 0] = rc[..., 0] * (img[0] / tracked[0])
        rc[..., 1] = rc[..., 1] * (img[1] / tracked[1])
    rc = rc.astype(normalize_in or rc.dtype)
    rc[..., 0] = (rc[..., 0] - img[0] / 2) / (img[0] / 2)
    rc[..., 1] = (rc[..., 1] - img[1] / 2) / (img[1] / 2)
    return np.clip(rc, -1, 1)


def traj(view):
    return clip_traj(normalize_traj(swap_xy(view.tracks[:]), IMG))


def test_reads_per_view_sizes_bit_equal_to_the_older_route(tmp_path):
    stored = amplify_folder(tmp_path, demos=11)
    dataset = open_legacy(tmp_path, IMG)
    assert len(dataset) == 11
    assert dataset.notes == ()
    assert [ref.path.name for ref in dataset.refs.values()] == [
        f"demo_{i}.hdf5" for i in range(11)
    ]  # natural order
    for episode, tracks in zip(dataset, stored, strict=True):
        assert (episode.meta.length, episode.meta.horizon, episode.meta.mode) == (24, 16, "reinit")
        for name, tracked in (("agentview", (480, 853)), ("eye_in_hand", (480, 640))):
            view = episode.views[name]
            np.testing.assert_array_equal(traj(view), by_hand(tracks[name], tracked))
            assert view.geometry == Stretch(source_shape=tracked, img_shape=IMG)
            np.testing.assert_allclose(view.queries, grid_queries(IMG), rtol=1e-5)
            assert view.vis.shape == view.tracks.shape[:-1] == (24, 16, 16)


def test_keeps_float64_and_slices_lazily(tmp_path):
    tracks = write_amplify(tmp_path / "a.hdf5", {"front": (360, 640)})["front"].astype(np.float64)
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        del file["root/front/tracks"]
        file["root/front/tracks"] = tracks
    dataset = open_legacy(tmp_path, IMG)
    episode = dataset[dataset.ids[0]]
    view = episode.views["front"]
    assert traj(view).dtype == np.float64
    np.testing.assert_array_equal(traj(view), by_hand(tracks, (360, 640)))
    whole = view.tracks[:]
    for key in (3, -1, (2, 5), (slice(1, 9, 3), 0), (..., 0), (4, ..., 1), np.array([1, 4])):
        np.testing.assert_array_equal(view.tracks[key], whole[key])


def test_without_attributes_normalizes_directly_and_says_so_once(tmp_path, caplog):
    stored = amplify_folder(tmp_path, demos=3, attrs=False)
    with caplog.at_level(logging.WARNING, "letterset.legacy"):
        dataset = open_legacy(tmp_path, IMG)
        episodes = [{n: traj(v) for n, v in episode.views.items()} for episode in dataset]
    assert len(caplog.records) == len(dataset.notes) == 1
    assert "demo_0.hdf5 (agentview)" in caplog.text
    assert "letterset doctor" in caplog.text
    for episode, tracks in zip(episodes, stored, strict=True):
        for name, got in episode.items():
            np.testing.assert_array_equal(got, by_hand(tracks[name], None))


def test_whole_episodes_are_told_by_their_leading_axis_or_said(tmp_path):
    tracks = write_amplify(tmp_path / "uniform_16" / "x" / "demo_0.hdf5", whole=True)
    for mode in (None, "episode"):
        (episode,) = [e.meta for e in open_legacy(tmp_path, IMG, mode=mode)]
        assert (episode.mode, episode.length, episode.horizon) == ("episode", 24, 24)
    dataset = open_legacy(tmp_path, IMG)
    opened = dataset[dataset.ids[0]]
    got = traj(opened.views["agentview"])
    np.testing.assert_array_equal(got, by_hand(tracks["agentview"], (480, 853)))
    write_amplify(tmp_path / "uniform_16" / "x" / "demo_1.hdf5")
    with pytest.raises(DatasetError, match=r"demo_1.hdf5: whole-episode tracks are \(1, T, N, 2\)"):
        open_legacy(tmp_path, IMG, mode="episode")


def test_a_single_frame_in_a_reinit_folder_is_not_a_whole_episode(tmp_path):
    amplify_folder(tmp_path, demos=1, length=1)
    (ref,) = open_legacy(tmp_path, IMG).refs.values()
    assert (ref.mode, ref.length, ref.horizon) == ("reinit", 1, 16)


def test_center_origin_adds_half_a_pixel_before_the_remap(tmp_path):
    stored = amplify_folder(tmp_path, demos=1)[0]["agentview"]
    dataset = open_legacy(tmp_path, IMG, pixel_origin="center")
    episode = dataset[dataset.ids[0]]
    got = episode.views["agentview"].tracks[:]
    want = (stored + np.float32(0.5)) * np.array([470 / 853, 477 / 480], np.float32)
    np.testing.assert_array_equal(got, want)


def test_reads_atm(tmp_path):
    tracks = write_atm(tmp_path / "task" / "demo_0.hdf5", shape=(96, 128))
    dataset = open_legacy(tmp_path, (48, 60))
    episode = dataset[dataset.ids[0]]
    view = episode.views["agentview"]
    np.testing.assert_array_equal(view.tracks[:], tracks * np.array([60, 48], np.float32))
    assert view.geometry == Stretch(source_shape=(96, 128), img_shape=(48, 60))
    assert episode.meta.mode == "episode"
    assert set(episode.arrays) == {
        "actions",
        "task_emb_bert",
        "extra_states.gripper_states",
    }
    with h5py.File(tmp_path / "task" / "demo_0.hdf5") as file:
        video = file["root/agentview/video"][0].transpose(0, 2, 3, 1)
    same = open_legacy(tmp_path, (96, 128))
    episode = same[same.ids[0]]
    frames = episode.views["agentview"].frames
    assert frames.shape == (20, 96, 128, 3)
    for key in (3, slice(2, 5), (slice(0, 9, 4), ..., 0), (1, 7)):
        np.testing.assert_array_equal(frames[key], video[key])
    episode = dataset[dataset.ids[0]]
    assert episode.views["agentview"].frames[2:4].shape == (2, 48, 60, 3)
    centred = open_legacy(tmp_path, (48, 60), pixel_origin="center")
    episode = centred[centred.ids[0]]
    shift = episode.views["agentview"].tracks[:] - tracks * np.array([60, 48], np.float32)
    np.testing.assert_allclose(shift.mean((0, 1, 2)), [0.5 * 60 / 128, 0.5 * 48 / 96], atol=1e-4)


def spoil(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def relink(file, link):
    del file["root/front/tracks"]
    file["root/front/tracks"] = link


def replaced(name, value):
    def change(file):
        del file[f"root/front/{name}"]
        file[f"root/front/{name}"] = value

    return change


def objects(file):
    del file["root/front/tracks"]
    file["root/front"].create_dataset("tracks", (4, 2, 3, 2), dtype=h5py.vlen_dtype(np.float32))


def external(file):
    del file["root/front/tracks"]
    data = (str(Path(file.filename).with_suffix(".raw")), 0, h5py.h5f.UNLIMITED)
    file["root/front"].create_dataset("tracks", (4, 2, 3, 2), "f4", external=[data])


def virtual(file):
    del file["root/front/tracks"]
    layout = h5py.VirtualLayout((24, 16, 16, 2), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.hdf5", "tracks", (24, 16, 16, 2))
    file["root/front"].create_virtual_dataset("tracks", layout)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f["root/front"].attrs.__delitem__("height"), "'width' but not 'height'"),
        (lambda f: f["root/front"].attrs.__setitem__("width", 0), "'width' must be a whole"),
        (lambda f: f["root/front"].attrs.__setitem__("width", np.nan), "'width' must be a whole"),
        (lambda f: relink(f, h5py.ExternalLink("other.hdf5", "/x")), "external link"),
        (lambda f: relink(f, h5py.SoftLink("/root/front/vis")), r"got \(24, 16, 16\)"),
        (lambda f: f.__setitem__("root/side", h5py.ExternalLink("o.hdf5", "/")), "external"),
        (objects, "only plain numbers"),
        (external, "external files"),
        (virtual, "virtual dataset"),
        (replaced("tracks", np.zeros((24, 16, 2))), r"got \(24, 16, 2\)"),
        (replaced("tracks", np.zeros((24, 16, 16, 2), int)), "got int64"),
        (replaced("vis", np.zeros((24, 16, 3))), r"vis \(24, 16, 3\) does not fit"),
    ],
)
def test_what_cannot_be_trusted_is_refused_by_name(tmp_path, change, reason):
    write_amplify(tmp_path / "good.hdf5", {"front": (360, 640)})
    write_amplify(tmp_path / "other.hdf5", {"front": (360, 640)})
    spoil(tmp_path / "other.hdf5", change)
    with pytest.raises(DatasetError, match=f"other.hdf5.*{reason}"):
        open_legacy(tmp_path, IMG)
    dataset = open_legacy(tmp_path, IMG, on_error="skip")
    assert len(dataset) == 1
    assert list(dataset.problems) == ["other.hdf5"]


def test_sizes_that_contradict_the_query_points_are_refused_on_opening(tmp_path):
    write_amplify(tmp_path / "a.hdf5", {"front": (360, 640)})
    spoil(tmp_path / "a.hdf5", lambda f: f["root/front"].attrs.__setitem__("width", 320))
    dataset = open_legacy(tmp_path, IMG)
    with pytest.raises(DatasetError, match=r"a.hdf5, view front: query points \(step 0\)"):
        dataset[dataset.ids[0]]


def test_later_steps_may_leave_the_frame_but_nan_is_refused(tmp_path):
    write_amplify(tmp_path / "a.hdf5", {"front": (360, 640)}, speed_xy=(90.0, 0.0))
    dataset = open_legacy(tmp_path, IMG)
    episode = dataset[dataset.ids[0]]
    assert episode.views["front"].tracks[:].max() > 480
    spoil(tmp_path / "a.hdf5", lambda f: f["root/front/tracks"].__setitem__((3, 5, 0, 0), np.nan))
    dataset = open_legacy(tmp_path, IMG)
    episode = dataset[dataset.ids[0]]
    assert episode.views["front"].tracks[2].shape == (16, 16, 2)
    with pytest.raises(DatasetError, match=r"a.hdf5, view front: tracks hold NaN"):
        episode.views["front"].tracks[3]


def test_damaged_and_foreign_files(tmp_path):
    (tmp_path / "text.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(DatasetError, match=r"text.hdf5: not a whole HDF5 file"):
        open_legacy(tmp_path, IMG)
    (tmp_path / "text.hdf5").unlink()
    with h5py.File(tmp_path / "text.hdf5", "w") as file:
        file["text_emb"] = np.zeros(768)
    with pytest.raises(DatasetError, match="holds no older track files"):
        open_legacy(tmp_path, IMG)
    with pytest.raises(DatasetError, match="not a folder"):
        open_legacy(tmp_path / "absent", IMG)
    write_amplify(tmp_path / "sub" / "a.hdf5")
    assert len(open_legacy(tmp_path, IMG)) == 1
    with pytest.raises(KeyError, match="no episode 'x'"):
        open_legacy(tmp_path, IMG)["x"]


def test_opens_like_any_dataset(tmp_path):
    stored = amplify_folder(tmp_path / "old", demos=2)
    with pytest.raises(ConfigError, match="give img_shape"):
        open_dataset(tmp_path / "old", pixel_origin="corner")
    dataset = open_dataset(tmp_path / "old", IMG, max_open=1)
    assert dataset.meta.img_shape == IMG
    assert (dataset.meta.queries.grid, dataset.meta.queries.region) == ((4, 4), "canvas")
    assert [episode.meta.task for episode in dataset] == ["put_the_bowl_on_the_plate"] * 2
    again = pickle.loads(pickle.dumps(dataset))
    assert again.ids == dataset.ids
    assert again.meta == dataset.meta
    np.testing.assert_array_equal(
        again[again.ids[1]].views["agentview"].tracks[2],
        dataset[dataset.ids[1]].views["agentview"].tracks[2],
    )
    assert stored[1]["agentview"].shape == again[again.ids[1]].views["agentview"].tracks.shape


def test_chunked_and_compressed_files_read_the_same(tmp_path):
    tracks = write_amplify(tmp_path / "a.hdf5", {"front": (360, 640)})["front"]
    plain = open_legacy(tmp_path, IMG)
    want = plain[plain.ids[0]].views["front"].tracks[:]

    def compress(file):
        del file["root/front/tracks"]
        file["root/front"].create_dataset("tracks", data=tracks, compression="gzip")

    spoil(tmp_path / "a.hdf5", compress)
    dataset = open_legacy(tmp_path, IMG)
    view = dataset[dataset.ids[0]].views["front"]
    np.testing.assert_array_equal(view.tracks[:], want)
    np.testing.assert_array_equal(view.tracks[3, 2], want[3, 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("attrs", [True, False])
def test_windows_for_training_are_bit_equal_to_the_older_route(tmp_path, attrs, dtype):
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    stored = amplify_folder(tmp_path, demos=2, attrs=attrs)
    for path in tmp_path.rglob("*.hdf5"):
        with h5py.File(path, "r+") as file:
            for group in file["root"].values():
                tracks = group["tracks"][:].astype(dtype)
                del group["tracks"]
                group["tracks"] = tracks
    windows = WindowDataset(open_dataset(tmp_path, (10, 10)), img_shape=IMG, tail="mask")
    assert len(windows) == 48
    for index in (0, 3, 23, 24, 40):
        sample = windows[index]
        assert set(sample) >= {"traj", "vis", "valid", "decode", "episode", "t"}
        assert "images" not in sample
        for view, (name, shape) in enumerate(
            (("agentview", (480, 853)), ("eye_in_hand", (480, 640)))
        ):
            tracks = stored[index // 24][name][index % 24].astype(dtype)
            # AMPLIFY's normalize_traj itself works in float32, whatever it is given.
            want = by_hand(tracks, shape if attrs else None, normalize_in=np.float32)
            np.testing.assert_array_equal(sample["traj"][view].numpy(), want)
        assert int(sample["valid"].sum()) == min(16, 24 - index % 24)


def test_windows_are_cut_from_whole_episodes(tmp_path):
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    tracks = write_amplify(tmp_path / "a.hdf5", {"front": (480, 853)}, whole=True)["front"][0]
    windows = WindowDataset(open_dataset(tmp_path, IMG), tail="mask")
    assert (len(windows), windows.horizon) == (24, 16)
    want = by_hand(tracks, (480, 853))
    np.testing.assert_array_equal(windows[5]["traj"][0].numpy(), want[5:21])
    tail = windows[20]["traj"][0].numpy()
    np.testing.assert_array_equal(tail[:4], want[20:])
    np.testing.assert_array_equal(tail[4:], np.broadcast_to(want[-1], (12, 16, 2)))
    assert windows[20]["valid"].tolist() == [True] * 4 + [False] * 12
    assert windows[20]["vis"].shape == (1, 16, 16)
    assert len(WindowDataset(open_dataset(tmp_path, IMG))) == 9


def test_errors_of_older_files_do_not_advise_repair(tmp_path):
    write_amplify(tmp_path / "a.hdf5", {"front": (360, 640)})
    spoil(tmp_path / "a.hdf5", lambda f: f["root/front"].attrs.__setitem__("width", 320))
    dataset = open_legacy(tmp_path, IMG)
    assert (dataset.meta.mode, dataset.meta.horizon) == ("reinit", 16)
    with pytest.raises(DatasetError) as caught:
        dataset[dataset.ids[0]]
    assert "repair" not in str(caught.value)


def test_what_has_the_name_of_a_track_file_is_never_skipped_silently(tmp_path):
    write_amplify(tmp_path / "a" / "DEMO_0.HDF5")
    (tmp_path / "a" / "gone.hdf5").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "a" / "pipe.h5")
    dataset = open_legacy(tmp_path, IMG, on_error="skip")
    assert [str(ref.relative) for ref in dataset.refs.values()] == ["a/DEMO_0.HDF5"]
    assert "No such file" in dataset.problems["a/gone.hdf5"]
    assert "not a regular file" in dataset.problems["a/pipe.h5"]


def test_a_view_without_tracks_is_not_dropped(tmp_path):
    write_amplify(tmp_path / "a.hdf5")
    spoil(tmp_path / "a.hdf5", lambda f: f.__delitem__("root/agentview/tracks"))
    with pytest.raises(DatasetError, match=r"a.hdf5: the views \['agentview'\] have no tracks"):
        open_legacy(tmp_path, IMG)
    spoil(tmp_path / "a.hdf5", lambda f: f.__delitem__("root/eye_in_hand/tracks"))
    with pytest.raises(DatasetError, match="have no tracks; track the file again"):
        open_legacy(tmp_path, IMG)


def test_a_whole_episode_in_a_reinit_folder_of_another_horizon_is_one(tmp_path):
    folder = tmp_path / "uniform_16_reinit_16" / "t_demo"
    tracks = write_amplify(folder / "demo_0.hdf5", {"front": (360, 640)}, whole=True)
    dataset = open_legacy(tmp_path, IMG)
    (episode,) = [dataset[key].meta for key in dataset.ids]
    assert tracks["front"].shape[:2] == (1, 24)
    assert (episode.mode, episode.length) == ("episode", 24)


def test_any_name_of_the_track_method_tells_a_single_frame(tmp_path):
    folder = tmp_path / "my_Grid_16_reinit_16" / "t_demo"
    write_amplify(folder / "demo_0.hdf5", {"front": (360, 640)}, length=1)
    (ref,) = open_legacy(tmp_path, IMG).refs.values()
    assert (ref.mode, ref.length, ref.horizon) == ("reinit", 1, 16)


@pytest.mark.parametrize("other", [{"horizon": 8}, {"grid": 3}, {"whole": True}])
def test_files_that_do_not_fit_into_one_dataset_are_refused(tmp_path, other):
    write_amplify(tmp_path / "a.hdf5", {"front": (360, 640)})
    write_amplify(tmp_path / "b.hdf5", {"front": (360, 640)}, **other)
    for on_error in ("raise", "skip"):
        with pytest.raises(DatasetError, match=r"one mode.*16 points in a.hdf5.* in b.hdf5; open"):
            open_legacy(tmp_path, IMG, on_error=on_error)


@pytest.mark.parametrize("video", [True, False])
@pytest.mark.parametrize(("shift", "good"), [(0.15, True), (1.5, False), (100.0, False)])
def test_most_shares_of_the_picture_lie_near_it(tmp_path, video, shift, good):
    write_atm(tmp_path / "a.hdf5", shape=(96, 128))  # query points go up to 0.875
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["root/agentview/tracks"][...] += shift
        if not video:
            del file["root/agentview/video"]
    dataset = open_legacy(tmp_path, (96, 128))
    if good:
        assert dataset[dataset.ids[0]].meta.length == 20
        return
    with pytest.raises(DatasetError, match=r"a.hdf5, view agentview: points must be normalized"):
        dataset[dataset.ids[0]]


def test_groups_that_hold_themselves_are_refused_in_few_words(tmp_path):
    write_amplify(tmp_path / "a.hdf5", {"front": (360, 640)})
    spoil(tmp_path / "a.hdf5", lambda f: f.__setitem__("root/again", f["root"]))
    dataset = open_legacy(tmp_path, IMG)
    with pytest.raises(DatasetError, match=r"a.hdf5: root/again.*round in circles") as caught:
        dataset[dataset.ids[0]]
    assert len(str(caught.value)) < 400


def test_a_file_that_was_closed_is_not_checked_again_until_it_changes(tmp_path):
    stored = amplify_folder(tmp_path / "old", demos=2)
    dataset = open_dataset(tmp_path / "old", IMG, max_open=1)
    first, second = dataset.ids
    meta, before = dataset[first].meta, np.array(dataset[first].views["agentview"].tracks[:])
    assert dataset[second].meta is not meta
    assert dataset[first].meta is meta
    np.testing.assert_array_equal(dataset[first].views["agentview"].tracks[:], before)
    assert dataset[second].id == second
    path = dataset.refs[first].path
    with h5py.File(path, "r+") as file:
        file["root/agentview/tracks"][1, 1] = 3.0
    assert len(stored) == 2
    assert dataset[first].meta is not meta
    assert not np.array_equal(dataset[first].views["agentview"].tracks[1], before[1])


@pytest.mark.parametrize(
    ("name", "given"),
    [("pixel_origin", "centre"), ("layout", "ATM"), ("mode", "window"), ("on_error", "ignore")],
)
def test_other_values_of_the_options_are_refused(tmp_path, name, given):
    write_amplify(tmp_path / "a.hdf5", {"front": (96, 128)})
    with pytest.raises(ConfigError, match=f"{name} must be one of .*, got '{given}'"):
        open_legacy(tmp_path, IMG, **{name: given})
