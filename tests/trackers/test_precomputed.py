"""``tracker.kind=precomputed``: tracks of others, mapped through the geometry, end to end."""

from __future__ import annotations

import json
import pickle

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from legacy_fixtures import older_queries
from source_fixtures import write_tapvid, write_video

from builder.cli import main
from builder.core.errors import ConfigError, TrackingError
from builder.dataset.opening import open_dataset
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing import check_tracker
from builder.testing.samples import Sample, sample_dataset
from builder.testing.trackers import STEP_XY
from builder.trackers.base import TRACKERS, Tracker, ViewKey
from builder.trackers.view_tracker import ViewTracker
from schemas.config import TrackerPart
from schemas.dataset import QuerySpec
from schemas.geometry import Letterbox, Stretch, swap_xy

SOURCE, CANVAS, LENGTH = (36, 64), (48, 40), 9
BOX = Letterbox.fit(SOURCE, CANVAS)
START = np.array([(10.25, 6.5), (32.0, 18.0), (60.5, 30.0)])
KEY = ViewKey("a-01234567", "videos/a.mp4", "main")


def motion(length=LENGTH):
    """Points in source pixels (T, N, 2), that move differently in x and y."""
    return START + np.arange(length)[:, None, None] * np.array([0.5, -0.25])


def windows(horizon=4, length=LENGTH):
    """(T, horizon, N, 2) reinit windows in source pixels, their tail frozen."""
    steps = np.minimum(np.arange(horizon), length - 1 - np.arange(length)[:, None])
    return START + steps[..., None, None] * np.array([0.5, -0.25])


def opened(folder, **settings):
    part = TrackerPart(kind="precomputed", folder=str(folder), **settings)
    backend, config = TRACKERS.configure(part)
    return backend(config)


def replay(tracker, box=BOX, length=LENGTH, key=KEY, points=3, **part):
    """Run a view of blank frames through the build's own ViewTracker; returns all windows."""
    part = TrackerPart(kind="precomputed", **part)
    spec = QuerySpec(grid=(points, 1), region="stored")
    view = ViewTracker(tracker, box, spec, part, length, key)
    frame = np.zeros((*view.input_box.content_shape, 3), np.uint8)
    return [w for _ in range(length) for w in view.push(frame)] + view.finish()


def write_npz(path, tracks, vis=None, **extra):
    path.parent.mkdir(parents=True, exist_ok=True)
    vis = np.ones(tracks.shape[:-1]) if vis is None else vis
    np.savez_compressed(path, tracks=tracks, visibility=vis, **extra)


@pytest.mark.parametrize("tracker_input", ["content", "source", {"short_side": 99}])
def test_a_whole_episode_is_mapped_through_the_geometry(tmp_path, tracker_input):
    vis = np.ones((LENGTH, 3))
    vis[4, 1] = 0
    write_npz(tmp_path / "videos" / "a.npz", motion(), vis)
    tracker = opened(tmp_path, coordinates="pixel_edge")
    (window,) = replay(tracker, mode="episode", input=tracker_input)
    assert window.start == 0
    np.testing.assert_allclose(window.tracks_xy, BOX.to_img(motion()), atol=2e-5)
    assert (window.vis == vis).all()


def test_windows_keep_their_own_tracks(tmp_path):
    write_npz(tmp_path / "videos" / "a.npz", windows(horizon=6))
    found = replay(opened(tmp_path, coordinates="pixel_edge"), horizon=4)
    assert [window.start for window in found] == [*range(LENGTH)]
    for window in found:
        expected = BOX.to_img(windows(horizon=4)[window.start])
        np.testing.assert_allclose(window.tracks_xy, expected, atol=2e-5)


def convert(xy, coordinates, order, size):
    """Write source pixels down in another convention, by hand."""
    height, width = SOURCE
    if coordinates == "normalized":
        out = xy / (width, height)
    elif coordinates == "signed":
        out = 2 * xy / (width, height) - 1
    else:
        out = xy * (size[1] / width, size[0] / height)
        out = out - 0.5 if coordinates == "pixel_center" else out
    return out[..., ::-1] if order == "rc" else out


@given(
    coordinates=st.sampled_from(["pixel_edge", "pixel_center", "normalized", "signed"]),
    order=st.sampled_from(["xy", "rc"]),
    size=st.none() | st.tuples(st.integers(8, 999), st.integers(8, 999)),
)
def test_every_convention_says_the_same(tmp_path_factory, coordinates, order, size):
    folder = tmp_path_factory.mktemp("conventions")
    stored = convert(motion(), coordinates, order, size or SOURCE)
    write_npz(folder / "videos" / "a.npz", stored)
    tracker = opened(folder, coordinates=coordinates, order=order, size=size)
    (window,) = replay(tracker, mode="episode")
    np.testing.assert_allclose(window.tracks_xy, BOX.to_img(motion()), atol=2e-5)


def test_tapvid_pickles_are_read_by_name(tmp_path):
    points = (motion() / (SOURCE[1], SOURCE[0])).swapaxes(0, 1)
    hidden = np.zeros(points.shape[:2], bool)
    hidden[2, 5] = True
    sample = {"points": points.astype(np.float32), "occluded": hidden}
    (tmp_path / "davis.pkl").write_bytes(pickle.dumps({"other": {}, "a": sample}))
    tracker = opened(tmp_path, file="davis.pkl", coordinates="normalized")
    (window,) = replay(tracker, mode="episode")
    np.testing.assert_allclose(window.tracks_xy, BOX.to_img(motion()), atol=2e-5)
    assert window.vis[:, 2].tolist() == [1, 1, 1, 1, 1, 0, 1, 1, 1]
    with pytest.raises(TrackingError, match=r"davis\.pkl: there is no video 'b'"):
        replay(tracker, key=ViewKey("b", "b.mp4", "main"), mode="episode")


@pytest.mark.parametrize("file", ["a.npz", "a.hdf5", "a.pkl"])
def test_a_confidence_is_stored_where_it_is_asked_for(tmp_path, file):
    sure = np.linspace(0, 1, LENGTH * 3).reshape(LENGTH, 3)
    size = [*SOURCE]
    if file == "a.npz":
        write_npz(tmp_path / file, motion(), sure=sure)
    elif file == "a.hdf5":
        with h5py.File(tmp_path / file, "w") as out:
            out["root/main/tracks"], out["root/main/vis"] = motion(), np.ones((LENGTH, 3))
            out["sure"] = sure
    else:
        entry = {"points": motion().swapaxes(0, 1), "occluded": np.zeros((3, LENGTH), bool)}
        (tmp_path / file).write_bytes(pickle.dumps({"a": {**entry, "sure": sure.T}}))
    settings = {"file": file, "coordinates": "pixel_edge", "size": size}
    tracker = opened(tmp_path, confidence="sure", **settings)
    (window,) = replay(tracker, mode="episode")
    np.testing.assert_array_equal(window.conf, sure.astype(np.float32))
    assert tracker.info.settings["confidence"] == "sure"
    without = opened(tmp_path, **settings)
    assert not without.gives_conf
    assert "confidence" not in without.info.settings
    assert replay(without, mode="episode")[0].conf is None


@pytest.mark.parametrize("sure", [np.full((LENGTH, 3), 1.5), np.full((LENGTH, 3), np.nan)])
def test_a_confidence_that_is_none_is_refused(tmp_path, sure):
    write_npz(tmp_path / "videos" / "a.npz", motion(), sure=sure)
    with pytest.raises(
        TrackingError, match=r"a\.npz: tracker\.confidence must lie between 0 and 1"
    ):
        replay(opened(tmp_path, coordinates="pixel_edge", confidence="sure"), mode="episode")
    with pytest.raises(TrackingError, match=r"no array 'other'.*tracker\.confidence"):
        replay(opened(tmp_path, coordinates="pixel_edge", confidence="other"), mode="episode")


def test_a_confidence_reaches_filters_and_training(inline_executor, tmp_path, monkeypatch):
    """From the file to the dataset, its table, a filter and a sample's loss weights."""
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "videos" / "a.mp4", count=LENGTH, shape=SOURCE)
    vis, sure = np.ones((LENGTH, 4, 3)), np.full((LENGTH, 4, 3), 0.25)
    sure[:3] = 0.75
    sure[0, :, 1] = 0
    vis[0, 1:, 1] = 0  # what is not seen does not lower the mean
    write_npz(tmp_path / "tracks" / "a.npz", windows(), vis, sure=sure)
    argv = ["build", "--source", "videos", "--out", "out", "--img-shape", "48", "40", "--quiet"]
    argv += ["queries.region=stored", "queries.grid=[3,1]", "tracker.kind=precomputed"]
    argv += ["tracker.folder=tracks", "tracker.coordinates=pixel_edge", "tracker.horizon=4"]
    assert main([*argv, "executor.kind=inline", "tracker.confidence=sure"]) == 0
    assert main(["validate", "out", "--deep"]) == 0
    assert main(["stats", "out"]) == 0
    samples = WindowDataset("out", conf=True, where="conf > 0.6", images="none")
    assert [sample["t"] for sample in samples] == [0, 1, 2]
    np.testing.assert_array_equal(samples[0]["conf"], sure[0].astype(np.float32)[None])
    table = samples.window_table({"conf"})
    first = (8 * 0.75 + 0) / 9  # of 9 visible steps, one with confidence 0
    np.testing.assert_allclose(table.columns["conf"][:4], [first, 0.75, 0.75, 0.25], rtol=1e-6)


def test_older_files_say_their_own_size(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        view = file.create_group("root/main")
        view["tracks"] = windows().astype(np.float32) * (2.0, 3.0)
        view["vis"] = np.ones((LENGTH, 4, 3), np.float32)
        view.attrs["height"], view.attrs["width"] = SOURCE[0] * 3, SOURCE[1] * 2
    settings = {"file": "{name}.hdf5", "coordinates": "pixel_edge"}
    found = replay(opened(tmp_path, **settings), horizon=4)
    for window in found:
        expected = BOX.to_img(windows()[window.start])
        np.testing.assert_allclose(window.tracks_xy, expected, atol=2e-5)
    with pytest.raises(TrackingError, match=r"say \(108, 128\), but tracker.size is \(9, 8\)"):
        replay(opened(tmp_path, **settings, size=(9, 8)), horizon=4)
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        del file["root/main"].attrs["height"], file["root/main"].attrs["width"]
    with pytest.raises(TrackingError, match=r"no height and width .* set tracker.size, \[36, 64\]"):
        replay(opened(tmp_path, **settings), horizon=4)


@pytest.mark.parametrize("source", [(36, 64), (64, 36), (48, 36)])
def test_the_older_grid_may_begin_outside_a_portrait_picture(tmp_path, source):
    tracked = np.multiply(source, 10)
    start = older_queries(tracked)
    steps = np.minimum(np.arange(4), LENGTH - 1 - np.arange(LENGTH)[:, None])
    tracks = start + steps[..., None, None] * np.array([5.0, -2.5], np.float32)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        view = file.create_group("root/main")
        view["tracks"], view["vis"] = tracks, np.ones(tracks.shape[:-1], np.float32)
        view.attrs["height"], view.attrs["width"] = tracked
    box = Letterbox.fit(source, CANVAS)
    tracker = opened(tmp_path, file="{name}.hdf5", coordinates="pixel_edge")
    inside = start[:, 0] <= tracked[1]
    for window in replay(tracker, box, points=16, horizon=4):
        expected = box.to_img(tracks[window.start].astype(np.float64) / 10)
        np.testing.assert_allclose(window.tracks_xy[:, inside], expected[:, inside], atol=2e-5)
        assert window.vis[:, inside].all()
        assert not window.vis[:, ~inside].any()
    assert inside.all() == (source[0] < source[1])


def test_an_episode_of_a_dataset_is_no_file_of_tracks(tmp_path):
    """Its height and width are the canvas, bars and all."""
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample("a")])
    settings = {"file": "{name}.hdf5", "tracks": "root/front/tracks", "visibility": ""}
    tracker = opened(tmp_path / "episodes", **settings, coordinates="pixel_edge")
    with pytest.raises(TrackingError, match="on a canvas already: it is an episode of"):
        replay(tracker, horizon=4)


def test_files_are_found_by_id_path_name_and_view(tmp_path):
    key = ViewKey("x/demo_0-89abcdef", "x/wipe%20it_demo.hdf5/demo_0", "wrist")
    for name, settings in {
        "x/wipe it_demo/demo_0.npz": {},
        "x/demo_0-89abcdef.npz": {"file": "{id}.npz"},
        "wrist/demo_0.npz": {"file": "{view}/{name}.npz"},
    }.items():
        write_npz(tmp_path / name, motion())
        tracker = opened(tmp_path, coordinates="pixel_edge", **settings)
        assert len(replay(tracker, key=key, mode="episode")) == 1
        (tmp_path / name).unlink()
    np.savez(tmp_path / "all.npz", **{"wrist/xy": motion()})
    one = {"file": "all.npz", "tracks": "{view}/xy", "visibility": ""}
    (window,) = replay(opened(tmp_path, coordinates="pixel_edge", **one), key=key, mode="episode")
    assert window.vis.all()
    with pytest.raises(TrackingError, match=r"leaves tracker\.folder"):
        replay(opened(tmp_path, coordinates="pixel_edge"), key=ViewKey("x", "../x", "main"))


def _nan(tracks):
    tracks[3, 1, 0] = np.nan
    return tracks


BAD = {
    "wrong length": (lambda: motion(LENGTH + 1), {}, "tracks of 10 frames for a view of 9"),
    "wrong points": (lambda: motion()[:, :2], {}, r"2 points, but queries.grid=\[3, 1\] says 3"),
    "not finite": (lambda: _nan(motion()), {}, "NaN or infinity at frame 3, point 1"),
    "one track": (motion, {"mode": "reinit"}, "set tracker.mode=episode"),
    "windows missing": (lambda: windows()[:-1], {"mode": "reinit", "horizon": 4}, "8 windows"),
    "short windows": (windows, {"mode": "reinit", "horizon": 5}, "4 steps, tracker.horizon is 5"),
    "moving starts": (
        lambda: windows() + np.arange(9)[:, None, None, None],
        {"mode": "reinit", "horizon": 4},
        "window 1 starts up to",
    ),
    "wrong size": (lambda: motion() * 3, {}, "outside its source of 36 x 64"),
    "no tracks": (lambda: motion()[..., 0], {}, r"tracks must be numbers, \(T, N, 2\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_by_name(tmp_path, name):
    make, part, message = BAD[name]
    tracks = make()
    vis = np.ones((LENGTH, 3)) if tracks.ndim == 2 else None
    write_npz(tmp_path / "videos" / "a.npz", tracks, vis)
    with pytest.raises(TrackingError, match=message) as caught:
        replay(opened(tmp_path, coordinates="pixel_edge"), **{"mode": "episode", **part})
    for named in ("a.npz", "view main", "a-01234567"):
        assert named in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it cannot be opened: No such file"),
        (b"not a zip", "not a whole npz archive"),
        ({"tracks": np.array([None])}, "no array 'visibility'; it has"),
        ({"tracks": np.array([None]), "visibility": np.ones(3)}, "its type object is not"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "videos" / "a.npz"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    with pytest.raises(TrackingError, match=message) as caught:
        replay(opened(tmp_path, coordinates="pixel_edge"), mode="episode")
    assert "a.npz" in str(caught.value)
    assert "view main of a-01234567" in str(caught.value)


def test_a_cut_view_takes_the_beginning(tmp_path):
    write_npz(tmp_path / "videos" / "a.npz", motion())
    tracker, cut = opened(tmp_path, coordinates="pixel_edge"), KEY._replace(cut=True)
    (window,) = replay(tracker, key=cut, length=4, mode="episode")
    np.testing.assert_allclose(window.tracks_xy, BOX.to_img(motion(4)), atol=2e-5)


def test_hidden_points_may_start_outside_the_picture(tmp_path):
    tracks, vis = motion(), np.ones((LENGTH, 3))
    tracks[:, 0], vis[:2, 0] = (-50.0, 10.0), 0
    write_npz(tmp_path / "videos" / "a.npz", tracks, vis)
    (window,) = replay(opened(tmp_path, coordinates="pixel_edge"), mode="episode")
    assert not window.vis[:, 0].any()  # as all points that start outside the picture
    assert window.vis[:, 1:].all()


def test_bad_settings_are_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"tracker.file: the fields are \{id\}, \{path\}"):
        opened(tmp_path, coordinates="pixel_edge", file="{episode}.npz")
    with pytest.raises(ConfigError, match=r"ends in one of \.npz, \.hdf5"):
        opened(tmp_path, coordinates="pixel_edge", file="{id}.csv")
    with pytest.raises(ConfigError, match=r"tracker\.coordinates: this must be given"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match="there is no folder"):
        _ = opened(tmp_path / "nowhere", coordinates="pixel_edge").info


class Prepared(Tracker):
    """The tracker for the conformance suite: true tracks are written where it looks for them."""

    def __init__(self, folder):
        self.inner = opened(folder, coordinates="pixel_edge")
        self.folder = folder

    @property
    def info(self):
        return self.inner.info

    def open(self, shape, queries_xy, horizon, start_every):
        steps = np.arange(horizon)[:, None, None] * np.array(STEP_XY)
        tracks = np.broadcast_to(queries_xy + steps, (64, horizon, *queries_xy.shape))
        write_npz(self.folder / "videos" / "a.npz", tracks)
        key = KEY._replace(cut=True)
        bound = self.inner.for_view(key, Stretch(source_shape=shape, img_shape=shape), 1)
        return bound.open(shape, queries_xy, horizon, start_every)


def test_it_conforms(tmp_path):
    check_tracker(lambda: Prepared(tmp_path), max_error_px=1e-4)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    write_video(folder / "videos" / "a.mp4", count=LENGTH, shape=SOURCE)
    write_video(folder / "videos" / "b.mp4", count=LENGTH, shape=SOURCE)
    write_npz(folder / "tracks" / "a.npz", swap_xy(motion() - 0.5))
    argv = ["build", "--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    argv += ["--img-shape", *map(str, CANVAS), "queries.region=stored", "queries.grid=[3, 1]"]
    argv += ["tracker.kind=precomputed", f"tracker.folder={folder / 'tracks'}"]
    argv += ["tracker.mode=episode", "tracker.coordinates=pixel_center", "tracker.order=rc"]
    return folder, argv


def test_a_normal_build_from_end_to_end(built, capsys):
    folder, argv = built
    assert main(argv) == 1  # b has no tracks: one failure, by name, and a is built
    output = capsys.readouterr()
    assert "b.npz: it cannot be opened" in output.out + output.err
    assert main(["validate", str(folder / "out"), "--deep"]) == 0
    dataset = open_dataset(folder / "out")
    (episode,) = dataset
    view = episode.views["main"]
    source_xy = view.geometry.to_source(view.tracks[0].astype(np.float64))
    np.testing.assert_allclose(source_xy, motion(), atol=1e-4)
    assert dataset.meta.queries.region == "stored"
    assert dataset.meta.tracker.settings["coordinates"] == "pixel_center"
    assert "tracks of a.npz" in " ".join(view.meta.notes)
    # The folder is a place: tracks that moved are the same tracks.
    (folder / "tracks").rename(folder / "moved")
    write_npz(folder / "moved" / "b.npz", swap_xy(motion() - 0.5))
    again = [each.replace(f"{folder / 'tracks'}", f"{folder / 'moved'}") for each in argv]
    assert main([*again, "--retry-failed"]) == 0
    assert len(open_dataset(folder / "out").ids) == 2


def test_tracks_are_added_as_a_layer(tmp_path):
    write_video(tmp_path / "videos" / "a.mp4", count=LENGTH, shape=SOURCE)
    write_npz(tmp_path / "tracks" / "a.npz", windows())
    out = str(tmp_path / "out")
    argv = ["--source", str(tmp_path / "videos"), "--out", out, "--quiet", "--img-shape"]
    assert main(["build", *argv, *map(str, CANVAS), "tracker.kind=none"]) == 0
    argv = ["track", out, "--name", "mine", "queries.region=stored", "queries.grid=[3, 1]"]
    argv += ["tracker.kind=precomputed", f"tracker.folder={tmp_path / 'tracks'}"]
    assert main([*argv, "tracker.coordinates=pixel_edge", "tracker.horizon=4"]) == 0
    assert main(["validate", out]) == 0
    (episode,) = open_dataset(out, tracks="mine")
    expected = BOX.to_img(windows())
    np.testing.assert_allclose(episode.views["main"].tracks, expected, atol=2e-5)


@pytest.mark.parametrize("verb", ["preview", "plan"])
def test_what_is_tried_out_is_the_beginning(tmp_path, verb, capsys):
    write_video(tmp_path / "videos" / "a.mp4", count=70, shape=SOURCE)
    write_npz(tmp_path / "tracks" / "a.npz", motion(70))
    pairs = ["queries.region=stored", "queries.grid=[3, 1]", "tracker.kind=precomputed"]
    pairs += [f"tracker.folder={tmp_path / 'tracks'}", "tracker.coordinates=pixel_edge"]
    pairs += ["tracker.mode=episode", f"store.path={tmp_path / 'out'}"]
    page = tmp_path / "page.html"
    pairs += ["--out", str(page)] if verb == "preview" else ["img_shape=[48, 40]"]
    assert main([verb, str(tmp_path / "videos"), *pairs]) == 0
    output = capsys.readouterr()
    said = output.out + output.err + (page.read_text() if verb == "preview" else "")
    assert "view main" not in said  # as every complaint about tracks begins


def test_points_and_tracker_must_agree(built, capsys):
    _, argv = built
    grid = [each for each in argv if not each.startswith("queries.region")]
    assert main([*grid, "--out", "nowhere"]) == 2
    assert "brings its own points: set queries.region=stored" in capsys.readouterr().err
    dis = [each for each in argv if not each.startswith("tracker.")]
    assert main([*dis, "--out", "nowhere"]) == 2
    assert "'dis' places new ones" in capsys.readouterr().err


def test_a_process_for_all_workers_is_refused(built, capsys):
    folder, argv = built
    other = ["--out", str(folder / "other"), "executor.trackers=1"]
    assert main([*argv, f"tracker.folder={folder}", *other]) == 2
    assert "leave executor.trackers at 0" in capsys.readouterr().err


def test_a_tapvid_source_brings_its_own_tracks(tmp_path):
    (tmp_path / "data").mkdir()
    write_tapvid(tmp_path / "data")
    settings = {
        "source.kind": "tapvid",
        "tracker.kind": "precomputed",
        "tracker.folder": tmp_path / "data",
        "tracker.file": "{parent}.pkl",
        "tracker.coordinates": "normalized",
        "tracker.mode": "episode",
        "queries.region": "stored",
        "queries.grid": [5, 1],
    }
    argv = ["--source", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--quiet"]
    pairs = [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()]
    assert main(["build", *argv, "--img-shape", "48", "40", *pairs]) == 0
    dataset = open_dataset(tmp_path / "out")
    assert len(dataset.ids) == 3
    for episode in dataset:
        view = episode.views["main"]
        source_xy = view.geometry.to_source(view.tracks[0].astype(np.float64))
        np.testing.assert_allclose(source_xy, episode.arrays["points_xy"], atol=1e-3)
