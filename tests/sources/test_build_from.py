"""Sources all the way into a dataset: selection, alignment, pass-through arrays, depth."""

from contextlib import closing

import av
import h5py
import numpy as np
import pytest
import robot_fixtures as robots
import source_fixtures as fixtures
from hypothesis import given
from hypothesis import strategies as st
from media import MATRICES
from source_examples import EXAMPLES, later

from builder.build.backends import open_source, open_store
from builder.build.episode import Job, _root_layout, build_episode
from builder.build.estimate import measure
from builder.build.pipeline import build
from builder.canvas.letterbox import letterbox_labels
from builder.cli import main as letterset
from builder.core.errors import SourceError
from builder.dataset.array_stats import array_stats
from builder.dataset.opening import open_dataset
from builder.transform.convert import convert
from schemas.config import BuildConfig
from schemas.geometry import Letterbox


def config_of(root, out, kind, **source):
    return BuildConfig.model_validate(
        {
            "img_shape": [32, 40],
            "source": {"kind": kind, "path": str(root), **source},
            "queries": {"grid": [3, 4]},
            "tracker": {"kind": "dis", "horizon": 4},
            "store": {"path": str(out)},
            "executor": {"kind": "serial"},
        }
    )


def episodes(config):
    """Build every episode in this process and yield its reader."""
    for ref in open_source(config).refs():
        build_episode(Job(config, ref), lambda done, total: None)
        with closing(open_store(config).open(ref.id)) as reader:
            yield reader


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_every_source_builds_into_a_dataset(kind, tmp_path):
    write, settings = EXAMPLES[kind]
    (tmp_path / "in").mkdir()
    config = config_of(write(tmp_path / "in"), tmp_path / "out", kind, **settings)
    for reader in episodes(config):
        for view in reader.meta.views:
            assert reader.array(view.name, "frames").shape == (reader.meta.length, 32, 40, 3)
        for name, array in reader.meta.arrays.items():
            assert reader.array(None, name).shape == array.shape


def test_the_selection_reaches_the_dataset(tmp_path):
    root = fixtures.write_libero(tmp_path / "in")
    config = config_of(
        root, tmp_path / "out", "libero", views=["agentview"], frame_step=3, licence="MIT",
        episodes=["3:"], orientation="rot180",
    )  # fmt: skip
    assert build(config).built == 3
    dataset = open_dataset(tmp_path / "out")
    assert [dataset[each].meta.length for each in dataset.ids] == [3, 4, 3]
    meta = dataset[dataset.ids[1]].meta
    assert [view.name for view in meta.views] == ["agentview"]
    assert meta.views[0].orientation == "rot180"
    assert meta.views[0].fps == pytest.approx(20 / 3)
    assert meta.source.licence == "MIT"
    assert meta.arrays["actions"].shape == (4, 7)


def test_depth_is_letterboxed_without_making_up_values(tmp_path):
    root = fixtures.write_robomimic(tmp_path / "in")
    config = config_of(root, tmp_path / "out", "robomimic", frame_step=2)
    [path] = root.rglob("*.hdf5")
    with h5py.File(path) as source:
        for number, reader in enumerate(episodes(config)):
            depth = reader.array("agentview", "depth")[:]
            original = source[f"data/demo_{number}/obs/agentview_depth"][::2, ..., 0]
            assert depth.shape == (len(original), 32, 40)
            assert depth.dtype == np.float32
            for got, want in zip(depth, original, strict=True):
                assert set(np.unique(got)) <= {0.0, *np.unique(want)}
                assert (got[:1] == 0).all()
                assert (got[1:31] > 0).all()
            assert any("depth: letterboxed by" in note for note in reader.meta.views[0].notes)


@given(
    source=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    img=st.tuples(st.integers(8, 50), st.integers(8, 50)),
)
def test_labels_come_from_under_the_centre_of_each_pixel(source, img):
    box = Letterbox.fit(source, img)
    labels = np.arange(1, source[0] * source[1] + 1).reshape(source)
    out = letterbox_labels(labels, box, fill=-1)
    left, top, right, bottom = box.content_box
    rows, columns = np.mgrid[top:bottom, left:right] + 0.5
    xy = box.to_source(np.stack([columns, rows], -1))
    # Exactly on an edge between two pixels, either is right.
    for nudge in (-1e-6, 1e-6):
        j, i = np.clip(np.floor(xy + nudge).astype(int), 0, (source[1] - 1, source[0] - 1)).T
        match = out[top:bottom, left:right] == labels[i.T, j.T]
        edge = (np.abs(xy - np.round(xy)) < 1e-5).any(-1)
        assert (match | edge).all()
    assert (out == -1).sum() == out.size - (bottom - top) * (right - left)


def test_label_maps_keep_channels_and_refuse_other_shapes():
    box = Letterbox.fit((20, 30), (32, 40))
    assert letterbox_labels(np.zeros((20, 30, 2), np.uint16), box).shape == (32, 40, 2)
    with pytest.raises(ValueError, match="expected a frame"):
        letterbox_labels(np.zeros((30, 20)), box)


def two_cameras_one_lost(root):
    """Write three episodes of front and wrist; the second has lost its wrist camera."""
    for index in range(3):
        for view in ("front", "wrist")[: 1 if index == 1 else 2]:
            fixtures.write_video(root / f"take_{index}" / f"{view}.mp4", count=7 + index)
    return root


def test_masked_views_are_recorded_as_missing(tmp_path):
    root = two_cameras_one_lost(tmp_path / "in")
    wanted = {"views": ["wrist", "front"]}
    masked = config_of(root, tmp_path / "mask", "episodes", **wanted, missing_views="mask")
    assert build(masked).built == 3
    found = {
        meta.source.path: ([view.name for view in meta.views], meta.missing_views)
        for meta in (episode.meta for episode in open_dataset(tmp_path / "mask"))
    }
    assert found == {
        "take_0": (["wrist", "front"], ()),
        "take_1": (["front"], ("wrist",)),
        "take_2": (["wrist", "front"], ()),
    }
    skipped = config_of(root, tmp_path / "skip", "episodes", **wanted, missing_views="skip")
    build(skipped)
    assert not any(episode.meta.missing_views for episode in open_dataset(tmp_path / "skip"))


@pytest.mark.parametrize(
    "verb",
    ["validate --deep", "inspect", "inspect --json", "stats", "doctor", "report --out r.html"],
)
def test_every_verb_reads_a_dataset_with_missing_views(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = two_cameras_one_lost(tmp_path / "in")
    views = {"views": ["wrist", "front"], "missing_views": "mask"}
    build(config_of(root, tmp_path / "out", "episodes", **views))
    first, *options = verb.split()
    # The doctor complains of pictures that do not move, as it should.
    assert letterset([first, "out", *options]) == (first == "doctor")
    assert ("missing" in capsys.readouterr().out) == (first == "inspect")


def test_a_dataset_with_missing_views_is_planned_and_trained_on(tmp_path):
    torch = pytest.importorskip("torch")
    from builder.training import WindowDataset

    root = two_cameras_one_lost(tmp_path / "in")
    views = {"views": ["wrist", "front"], "missing_views": "mask"}
    config = config_of(root, tmp_path / "out", "episodes", **views)
    assert not measure(config).unreadable
    build(config)
    dataset = open_dataset(tmp_path / "out")
    assert list(WindowDataset(dataset).views) == ["front"]
    windows = WindowDataset(dataset, missing="mask")
    assert list(windows.views) == ["wrist", "front"]
    lacking = {key for key in dataset.ids if dataset[key].meta.missing_views}
    for sample in windows:
        assert sample["view_mask"].tolist() == [sample["episode"] not in lacking, True]
        assert torch.any(sample["images"][0]) == (sample["episode"] not in lacking)


def test_what_is_per_frame_is_recorded_not_guessed(tmp_path):
    # The text embedding is exactly as long as the first episode has frames.
    root = robots.write_atm(tmp_path / "in", embedding=9)
    build(config_of(root, tmp_path / "out", "atm"))
    dataset = open_dataset(tmp_path / "out")
    assert sorted(episode.meta.length for episode in dataset) == [6, 9]
    for episode in dataset:
        kinds = {name: array.per_frame for name, array in episode.meta.arrays.items()}
        assert [name for name, per_frame in kinds.items() if not per_frame] == ["task_emb_bert"]
        assert kinds["actions"] is kinds["joint_states"] is True
        stored = episode.meta.views[0].arrays.values()
        assert {array.per_frame for array in stored} == {None}
        assert array_stats(dataset, "task_emb_bert") is None
    convert(tmp_path / "out", tmp_path / "zarr", {"kind": "zarr"})
    for episode in open_dataset(tmp_path / "zarr"):
        assert not episode.meta.per_frame("task_emb_bert")
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    for sample in WindowDataset(dataset):
        assert sample["task_emb_bert"].shape == (9,)
        assert sample["actions"].shape == (4, 7)


def test_arrays_of_another_length_are_refused_from_any_source(tmp_path):
    config = config_of(fixtures.write_video(tmp_path / "a.mp4"), tmp_path / "out", "video")
    (ref,) = open_source(config).refs()
    with open_source(config).open(ref) as episode:
        episode.arrays = {"actions": np.zeros((5, 3))}
        with pytest.raises(SourceError, match=r"actions has shape \(5, 3\).* 12 frames"):
            _root_layout(episode, 12)
        episode.arrays, episode.constants = {"a": np.zeros(12)}, {"a": np.zeros(3)}
        with pytest.raises(SourceError, match=r"share the names \['a'\]"):
            _root_layout(episode, 12)


CROOKED = (56756, 32768, 0, -32768, 56756, 0, 0, 0, 1 << 30)
WITH_VIDEOS = {
    "video": fixtures.write_videos,
    "episodes": fixtures.write_episode_folders,
    "droid": robots.write_droid,
    "something_something": robots.write_something,
    "lerobot": later("lerobot_fixtures", "write_v3", "pyarrow"),
    "lerobot 2.1": later("lerobot_fixtures", "write_v21", "pyarrow"),
}


def turn_videos(root, matrix):
    """Let every video below a folder carry a display matrix; an MP4 file whatever its name."""
    if not hasattr(av.video.stream.VideoStream, "set_display_matrix"):
        pytest.skip("this PyAV cannot write display matrices")
    paths = [path for path in root.rglob("*") if path.suffix in (".mp4", ".mkv", ".avi", ".webm")]
    for path in paths:
        with av.open(str(path)) as given, av.open(str(root / "turned.mp4"), "w") as output:
            stream = output.add_stream_from_template(given.streams.video[0])
            stream.set_display_matrix(matrix)
            for packet in given.demux(video=0):
                if packet.size:
                    # No B-frames: they are shown in the order they are stored in.
                    packet.dts = packet.pts = packet.pts if packet.dts is None else packet.dts
                    packet.stream = stream
                    output.mux(packet)
        (root / "turned.mp4").rename(path)
    assert paths


@pytest.mark.parametrize("kind", WITH_VIDEOS)
def test_an_orientation_set_by_hand_rules_over_the_videos_own(kind, tmp_path):
    root = WITH_VIDEOS[kind](tmp_path)
    turn_videos(root, MATRICES["rot90"])
    for turn in (None, "hflip"):
        config = config_of(root, tmp_path / "out", kind.split()[0], orientation=turn)
        source = open_source(config)
        with source.open(next(iter(source.refs()))) as episode:
            turns = {stream.info.orientation for stream in episode.views.values()}
        assert turns == {turn or "rot90"}


@pytest.mark.parametrize("kind", WITH_VIDEOS)
def test_videos_turned_crookedly_are_refused_unless_set_by_hand(kind, tmp_path):
    root = WITH_VIDEOS[kind](tmp_path)
    turn_videos(root, CROOKED)
    config = config_of(root, tmp_path / "out", kind.split()[0])
    source = open_source(config)
    ref = next(iter(source.refs()))
    with pytest.raises(SourceError, match="not a multiple of 90 degrees"), source.open(ref):
        raise AssertionError("it was opened")
    by_hand = config_of(
        root, tmp_path / "out", kind.split()[0], orientation="rot270", episodes=[ref.path]
    )
    assert build(by_hand).built == 1
    (episode,) = open_dataset(tmp_path / "out")
    for view in episode.meta.views:
        assert view.orientation == "rot270"
        assert view.geometry.source_shape == view.coded_shape[::-1]
