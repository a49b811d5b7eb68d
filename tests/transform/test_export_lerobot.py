"""LeRobot v3.0 datasets, read back by that format's rules, by its doctor and by our source."""

import json
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow")
import pyarrow.parquet as pq

from builder.cli import main
from builder.core.errors import ConfigError, OutputError
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.opening import open_dataset
from builder.sources.kinds.lerobot import LeRobot
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import (
    HORIZON,
    IMG_SHAPE,
    QUERIES,
    SOURCE_SHAPES,
    Sample,
    sample_dataset,
    sample_meta,
)
from builder.transform.export import lerobot_plan
from builder.transform.export.lerobot import export_lerobot, merge, summarize

FPS, VIEWS = 30, tuple(SOURCE_SHAPES)
# One is longer than a block of frames.
LENGTHS = {"a": 11, "b/c": 150, "d": 7}


def samples(**more):
    given = [Sample(name, seed=k, length=n, **more) for k, (name, n) in enumerate(LENGTHS.items())]
    for sample in given:
        for view in VIEWS:
            sample.arrays[view, "vis"][:, 0] = 1  # as trackers give it
    return given


def written(folder, given, **meta):
    """A dataset of these samples; ``meta`` replaces what it says about itself."""
    store = Hdf5Store(folder)
    with DatasetWriter.create(folder, sample_meta(**meta)) as catalog:
        for sample in given:
            catalog.add(index_line(sample.build(store)))
    return open_dataset(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The samples by id, their dataset, its export with two data and many video files."""
    folder = tmp_path_factory.mktemp("lerobot")
    given = samples()
    sample_dataset(folder / "in", Hdf5Store(folder / "in"), given)
    dataset = open_dataset(folder / "in")
    left_out = export_lerobot(dataset, folder / "out", data_mb=0.02, video_mb=1e-6)
    assert left_out == ["nothing", "success"]
    return {sample.id: sample for sample in given}, dataset, folder / "out"


def info_of(root):
    return json.loads((root / "meta" / "info.json").read_text())


def read_by_the_rules(root, video=True):
    """Every episode as (row of metadata, columns as arrays, frames by key), templates followed."""
    info = info_of(root)
    for path in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        for row in pq.read_table(path).to_pylist():
            where = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
            table = pq.read_table(root / info["data_path"].format(**where))
            table = table.filter(np.equal(table["episode_index"], row["episode_index"]))
            columns = {
                key: np.array(table[key].to_pylist(), feature["dtype"]).reshape(
                    row["length"], *feature["shape"]
                )
                for key, feature in info["features"].items()
                if feature["dtype"] != "video"
            }
            videos = {
                key: frames_of(root, info, row, key, columns["timestamp"][:, 0])
                for key, feature in info["features"].items()
                if video and feature["dtype"] == "video"
            }
            yield row, columns, videos


def frames_of(root, info, row, key, timestamps):
    """The frame nearest to from_timestamp + timestamp, within LeRobot's tolerance."""
    prefix = f"videos/{key}/"
    where = {name: row[prefix + name] for name in ("chunk_index", "file_index")}
    with av.open(str(root / info["video_path"].format(video_key=key, **where))) as container:
        decoded = {frame.time: frame for frame in container.decode(video=0)}
    times = np.array(list(decoded))
    found = []
    for wanted in row[prefix + "from_timestamp"] + timestamps.astype(float):
        nearest = times[np.abs(times - wanted).argmin()]
        assert abs(nearest - wanted) < 1e-4
        found.append(decoded[nearest].to_ndarray(format="rgb24"))
    return np.stack(found)


def test_arrays_tracks_and_counters_are_bit_for_bit_ours(made):
    given, dataset, root = made
    first = 0
    episodes = list(read_by_the_rules(root, video=False))
    assert [row["length"] for row, _, _ in episodes] == list(LENGTHS.values())
    for (row, columns, _), name in zip(episodes, dataset.ids, strict=True):
        sample, length = given[name], row["length"]
        for view in VIEWS:
            for array in ("tracks", "vis"):
                ours = sample.arrays[view, array]
                theirs = columns[f"observation.{array}.{view}"].reshape(ours.shape)
                assert theirs.dtype == ours.dtype
                np.testing.assert_array_equal(theirs, ours)
        np.testing.assert_array_equal(columns["action"], sample.arrays[None, "actions"])
        np.testing.assert_array_equal(columns["done"][:, 0], sample.arrays[None, "done"])
        steps = np.arange(length)
        np.testing.assert_array_equal(columns["frame_index"][:, 0], steps)
        np.testing.assert_array_equal(columns["index"][:, 0], first + steps)
        np.testing.assert_array_equal(columns["timestamp"][:, 0], np.float32(steps / FPS))
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (first, first + length)
        first += length
        assert row["tasks"] == ["pick up the bowl"]
        assert not columns["task_index"].any()
    info = info_of(root)
    assert (info["fps"], info["total_frames"], info["total_episodes"]) == (FPS, first, 3)
    assert info["splits"] == {"train": "0:3"}


def test_pictures_are_those_of_their_own_frame(made):
    given, dataset, root = made
    for (_, _, videos), name in zip(read_by_the_rules(root), dataset.ids, strict=True):
        for view in VIEWS:
            ours = given[name].arrays[view, "frames"].astype(int)
            theirs = videos[f"observation.images.{view}"]
            assert theirs.shape == ours.shape == (LENGTHS[name], *IMG_SHAPE, 3)
            # Every frame has a colour of its own: one frame off would be off by far more.
            assert np.abs(theirs - ours).mean() < 3
            means = np.abs((theirs - ours).mean(axis=(1, 2)))
            assert means.max() < 4


def test_videos_are_what_lerobot_seeks_best(made):
    root = made[2]
    paths = sorted((root / "videos" / "observation.images.front").rglob("*.mp4"))
    assert [path.name for path in paths] == [f"file-{k:03d}.mp4" for k in range(3)]
    with av.open(str(paths[1])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.average_rate, stream.frames) == (FPS, 150)
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    assert [packet.is_keyframe for packet in packets] == [k % 2 == 0 for k in range(150)]
    assert packets[0].pts == packets[0].dts == 0


def test_episodes_share_a_file_until_it_is_full(made, tmp_path):
    _, dataset, root = made
    assert len(list((root / "data").rglob("*.parquet"))) == 2
    export_lerobot(dataset, tmp_path / "one")
    for pattern in ("data/**/*.parquet", "videos/observation.images.wrist/**/*.mp4"):
        assert [path.name[:8] for path in (tmp_path / "one").glob(pattern)] == ["file-000"]
    rows = [row for row, _, _ in read_by_the_rules(tmp_path / "one", video=True)]
    starts = [row["videos/observation.images.front/from_timestamp"] for row in rows]
    ends = [row["videos/observation.images.front/to_timestamp"] for row in rows]
    np.testing.assert_allclose(starts, [0, 11 / FPS, 161 / FPS])
    np.testing.assert_allclose(ends, [*starts[1:], 168 / FPS])


def test_our_own_source_reads_it_back(made):
    given, dataset, root = made
    source = LeRobot(root)
    refs = list(source.refs())
    assert [ref.task for ref in refs] == ["pick up the bowl"] * 3
    for ref, name in zip(refs, dataset.ids, strict=True):
        sample = given[name]
        with source.open(ref) as episode:
            assert list(episode.views) == [f"observation.images.{view}" for view in VIEWS]
            for view in VIEWS:
                frames = [
                    frame.image.to_ndarray(format="rgb24")
                    for frame in episode.views[f"observation.images.{view}"]
                ]
                assert len(frames) == sample.length
                assert (
                    np.abs(np.stack(frames) - sample.arrays[view, "frames"].astype(int)).mean() < 3
                )
                tracks = episode.arrays[f"observation.tracks.{view}"]
                np.testing.assert_array_equal(tracks, sample.arrays[view, "tracks"])
            np.testing.assert_array_equal(episode.arrays["action"], sample.arrays[None, "actions"])


def test_the_doctor_of_lerobot_finds_no_fault(made):
    pytest.importorskip("lerobot_doctor")
    done = subprocess.run(
        [sys.executable, "-c", "from lerobot_doctor.cli import main; main()",
         "check", str(made[2]), "--json"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"FAIL": 0' in done.stdout


def test_statistics_are_of_what_was_written(made):
    given, _, root = made
    stats = json.loads((root / "meta" / "stats.json").read_text())
    assert set(stats) == set(info_of(root)["features"])
    actions = np.concatenate([s.arrays[None, "actions"] for s in given.values()]).astype(float)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["action"][name], getattr(actions, name)(0), rtol=1e-9)
    assert stats["action"]["count"] == [168]
    tracks = np.concatenate([s.arrays["wrist", "tracks"] for s in given.values()]).astype(float)
    found = stats["observation.tracks.wrist"]
    assert np.shape(found["mean"]) == (1, 1, 2)
    assert np.shape(stats["observation.vis.wrist"]["mean"]) == (1,)
    np.testing.assert_allclose(found["mean"][0][0], tracks.mean((0, 1, 2)))
    np.testing.assert_allclose(found["std"][0][0], tracks.std((0, 1, 2)))
    pictures = stats["observation.images.front"]
    assert np.shape(pictures["q50"]) == (3, 1, 1)
    assert 0 <= np.min(pictures["min"]) <= np.max(pictures["max"]) <= 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_statistics_of_parts_make_those_of_the_whole(counts, seed):
    rows = np.random.default_rng(seed).normal(3, 2, (sum(counts), 2, 3))
    parts = np.split(rows, np.cumsum(counts)[:-1])
    whole, merged = summarize(rows), merge([summarize(part) for part in parts])
    assert merged.keys() == whole.keys()
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(merged[name], whole[name], atol=1e-12)
    assert (merged["q10"] <= merged["q90"]).all()


def test_ids_and_geometry_stay_beside_the_data(made):
    _, dataset, root = made
    origin = json.loads((root / "letterset.json").read_text())
    assert origin["dataset"] == dataset.meta.digest
    assert [each["id"] for each in origin["episodes"]] == list(dataset.ids)
    box = dataset[dataset.ids[0]].views["wrist"].geometry
    assert (
        type(box).model_validate_json(json.dumps(origin["episodes"][0]["geometry"]["wrist"])) == box
    )


def test_tasks_are_the_index_of_a_pandas_frame(made):
    schema = pq.read_schema(made[2] / "meta" / "tasks.parquet")
    assert schema.pandas_metadata["index_columns"] == ["task"]
    assert schema.names == ["task_index", "task"]


@pytest.mark.parametrize(
    ("rate", "fps"),
    [(Fraction(30000, 1001), 30000 / 1001), (Fraction(15), 15), (Fraction(25, 2), 12.5)],
)
def test_rates_that_are_no_whole_numbers(tmp_path, rate, fps):
    given = samples()
    for sample in given:
        for view in VIEWS:
            sample.arrays[view, "timestamps"] = 5 + np.arange(sample.length) / float(rate)
    dataset = written(tmp_path / "in", given)
    assert lerobot_plan.make_plan(dataset, None).rate == rate
    export_lerobot(dataset, tmp_path / "out", ["wrist"])
    assert info_of(tmp_path / "out")["fps"] == fps
    for row, _, videos in read_by_the_rules(tmp_path / "out"):
        assert list(videos) == ["observation.images.wrist"]
        assert len(videos["observation.images.wrist"]) == row["length"]


def test_states_and_plain_columns(tmp_path):
    given = samples()
    for sample in given:
        rng = np.random.default_rng(sample.length)
        sample.arrays[None, "states"] = rng.normal(size=(sample.length, 4))
        sample.arrays[None, "pose"] = rng.normal(size=(sample.length, 2, 3)).astype("<f4")
        sample.arrays[None, "index"] = np.zeros(sample.length)
        sample.arrays[None, "observation.tracks.front"] = np.zeros((sample.length, 2))
    given[0].arrays[None, "rare"] = np.zeros(given[0].length)
    dataset = written(tmp_path / "in", given)
    left_out = export_lerobot(dataset, tmp_path / "out")
    assert left_out == ["index", "nothing", "observation.tracks.front", "rare", "success"]
    for (_, columns, _), sample in zip(
        read_by_the_rules(tmp_path / "out", video=False), given, strict=True
    ):
        np.testing.assert_array_equal(columns["observation.state"], sample.arrays[None, "states"])
        np.testing.assert_array_equal(columns["pose"], sample.arrays[None, "pose"])


def without(name, view="front"):
    def change(sample):
        del sample.arrays[view, name]

    return change


def odd_one(sample):
    if sample.id == "d":
        sample.arrays[None, "actions"] = np.zeros((sample.length, 5), np.float32)


def late(sample):
    if sample.id == "a":
        sample.arrays["front", "timestamps"] = np.arange(sample.length) / 20


def still(sample):
    sample.arrays["front", "timestamps"][:] = 0


def dropped(sample):
    sample.arrays["front", "timestamps"][5:] += 1 / 30


@pytest.mark.parametrize(
    ("change", "meta", "match"),
    [
        (None, {"img_shape": (25, 40)}, r"img_shape \(25, 40\).*even sides"),
        (None, {"start_every": 2}, "start_every 2: every row holds a window"),
        (None, {"mode": "episode"}, "whole-episode tracks"),
        (without("frames"), {}, "episode a, view front: no frames are stored"),
        (odd_one, {}, r"actions whose rows differ: .*\(3,\)\) in b/c, .*\(5,\)\) in d"),
        (late, {}, "episode a: its frames do not come at 30 per second.* as those of b/c"),
        (dropped, {}, "episode a: its frames do not come at"),
        (still, {}, "episode a: its frames do not come at 0 per second"),
    ],
)
def test_what_it_cannot_hold_is_named_before_any_work(tmp_path, change, meta, match):
    given = samples()
    for sample in given if change else ():
        change(sample)
    dataset = written(tmp_path / "in", given, **meta)
    with pytest.raises(ConfigError, match=match):
        export_lerobot(dataset, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_unknown_views_and_existing_folders_are_refused(made, tmp_path):
    dataset = made[1]
    with pytest.raises(ConfigError, match="episode a without view 'side'"):
        export_lerobot(dataset, tmp_path / "out", ["front", "side"])
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export_lerobot(dataset, tmp_path / "mine")
    with pytest.raises(ConfigError, match="above 0 MB"):
        export_lerobot(dataset, tmp_path / "out", video_mb=0)


def test_what_cannot_be_finished_leaves_nothing(made, tmp_path, monkeypatch):
    from builder.transform.export import lerobot

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lerobot, "_write_json", full)
    with pytest.raises(OutputError, match="free some space"):
        export_lerobot(made[1], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_frames_alone_can_be_exported(tmp_path):
    given = samples()
    for sample in given:
        for view in VIEWS:
            for name in ("tracks", "vis", "conf", "starts", "queries"):
                without(name, view)(sample)
    tracker = sample_meta().tracker.model_copy(update={"kind": "none"})
    export_lerobot(written(tmp_path / "in", given, tracker=tracker), tmp_path / "out")
    assert not any("tracks" in key for key in info_of(tmp_path / "out")["features"])


def test_the_command(made, tmp_path, capsys):
    argv = ["export", str(made[1].path), str(tmp_path / "out"), "--to", "lerobot"]
    assert main([*argv, "--views", "wrist"]) == 0
    told = capsys.readouterr().out
    assert "3 episodes" in told
    assert "arrays left out: nothing, success" in told
    feature = info_of(tmp_path / "out")["features"]["observation.tracks.wrist"]
    assert feature["shape"] == [HORIZON, QUERIES.num_points, 2]
    assert feature["names"] == ["step", "point", "xy"]
    assert (
        "(4, 6)" in info_of(tmp_path / "out")["features"]["observation.vis.wrist"]["info"]["layout"]
    )


def test_rows_that_were_not_recorded_do_not_count(tmp_path):
    given = samples()
    rows = np.concatenate([sample.arrays[None, "actions"] for sample in given])
    for sample in given:
        missing = np.full((1, 3), np.nan, np.float32)
        sample.arrays[None, "actions"] = np.concatenate(
            [sample.arrays[None, "actions"][:-1], missing]
        )
    export_lerobot(written(tmp_path / "in", given), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "meta" / "stats.json").read_text(), parse_constant=fail)
    ends = np.cumsum([sample.length for sample in given]) - 1
    kept = np.delete(rows, ends, axis=0).astype(np.float64)
    assert found["action"]["count"] == [len(kept)]
    np.testing.assert_allclose(found["action"]["mean"], kept.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["action"]["std"], kept.std(0), rtol=1e-6)


def fail(word):
    raise ValueError(f"{word} is no JSON")


def test_parts_without_a_number_leave_the_others_as_they_are():
    nothing, rows = np.full((1, 2), np.nan), np.array([[1.0, 2.0], [3.0, 5.0]])
    merged, whole = (
        merge([summarize(nothing), summarize(rows), summarize(nothing)]),
        summarize(rows),
    )
    for key, value in whole.items():
        np.testing.assert_array_equal(merged[key], value)
    assert merge([summarize(nothing)])["count"] == [0]
