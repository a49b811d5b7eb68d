"""LeRobot datasets: both versions, their clock, seeking, and what is refused."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from source_fixtures import SHAPE, is_upright, numbers, picture, rgb, write_video

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from lerobot_fixtures import CAMERAS, FPS, LENGTHS, TASKS, table, write_v3, write_v21  # noqa: E402

from builder.core.errors import DecodeError, SourceError  # noqa: E402
from builder.inputs.video_span import VideoSpan  # noqa: E402
from builder.sources.kinds.lerobot import LeRobot, LeRobotConfig  # noqa: E402
from builder.sources.selected import select  # noqa: E402
from schemas.config import Limits  # noqa: E402

TOP, WRIST = CAMERAS


@pytest.fixture(scope="module", params=[write_v3, write_v21], ids=["v3", "v21"])
def dataset(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


def opened(root, index, config=None, limits=None):
    source = LeRobot(root, config, limits)
    return source.open(list(source.refs())[index])


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_rows(root, change):
    path = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_every_frame_is_the_right_one(dataset):
    for index, length in enumerate(LENGTHS):
        with opened(dataset, index) as episode:
            assert list(episode.views) == [TOP, WRIST]
            for key, stream in episode.views.items():
                first = sum(LENGTHS[:index])
                assert stream.info.coded_shape == CAMERAS[key]
                assert numbers(stream) == list(range(first, first + length))
                assert all(is_upright(rgb(frame)) for frame in stream)


def test_arrays_text_and_clock_pass_through(dataset):
    for index, length in enumerate(LENGTHS):
        expected = table(index)
        with opened(dataset, index) as episode:
            assert episode.text == TASKS[index % 2]
            assert episode.clock.tolist() == pytest.approx([k / FPS for k in range(length)])
            assert set(episode.arrays) == {
                "observation.state", "action", "next.reward", "next.done",
            }  # fmt: skip
            for key, array in episode.arrays.items():
                assert array.tolist() == pytest.approx(
                    np.array(expected[key].to_pylist()).reshape(array.shape)
                )
            assert episode.arrays["observation.state"].shape == (length, 3)
            assert episode.arrays["next.done"].dtype == bool
            chosen = select(episode, LeRobotConfig(frame_step=3))
            assert numbers(chosen.views[TOP])[1] == sum(LENGTHS[:index]) + 3
            assert len(chosen.arrays["action"]) == -(-length // 3)


def test_splits_tasks_and_licence(dataset):
    refs = list(LeRobot(dataset).refs())
    assert [ref.splits for ref in refs] == [("train",)] * 3 + [("test",)]
    assert [ref.task for ref in refs] == [*TASKS, *TASKS]
    assert refs[3].path == "episode_000003"
    with opened(dataset, 0) as episode:
        has_readme = (dataset / "README.md").exists()
        assert episode.licence == ("apache-2.0" if has_readme else None)


def test_templates_rule_whatever_the_version_string_says(tmp_path):
    root = write_v3(tmp_path)
    edit(root / "meta" / "info.json", lambda info: info.update(codebase_version="v2.1"))
    with opened(root, 3) as episode:
        assert numbers(episode.views[TOP]) == list(range(36, 47))


def test_a_late_episode_costs_no_more_than_an_early_one(tmp_path):
    path = write_video(tmp_path / "long.mp4", 48, gop=6)
    decoded = []

    class Counted(VideoSpan):
        def _decode(self, *how):
            frames = super()._decode(*how)
            return (decoded.append(1) or frame for frame in frames)

    span = Counted(path, 4.0, np.arange(6) / 10)
    assert numbers(span) == list(range(40, 46))
    assert 6 <= len(decoded) < 6 + 6
    assert numbers(span) == list(range(40, 46))


def test_images_in_the_table_are_read(tmp_path):
    import cv2

    root = write_v21(tmp_path)
    key = "observation.images.cell"

    def add(info):
        info["features"][key] = {"dtype": "image", "shape": [*SHAPE, 3], "names": None}

    edit(root / "meta" / "info.json", add)
    path = root / "data" / "chunk-000" / "episode_000000.parquet"
    rows = []
    for k in range(LENGTHS[0]):
        _, png = cv2.imencode(".png", picture(k)[..., ::-1])
        rows.append({"bytes": png.tobytes(), "path": f"{k}.png"})
    pq.write_table(pq.read_table(path).append_column(key, pa.array(rows)), path)
    with opened(root, 0) as episode:
        assert numbers(episode.views[key]) == list(range(LENGTHS[0]))
        assert episode.views[key].info.codec == "png"


def test_depth_videos_are_left_out(tmp_path):
    root = write_v3(tmp_path)

    def mark(info):
        info["features"][WRIST]["info"]["video.is_depth_map"] = True

    edit(root / "meta" / "info.json", mark)
    with opened(root, 0) as episode:
        assert list(episode.views) == [TOP]


def test_the_written_dataset_passes_the_doctor(dataset):
    pytest.importorskip("lerobot_doctor")
    done = subprocess.run(
        [sys.executable, "-c", "from lerobot_doctor.cli import main; main()",
         "check", str(dataset), "--json"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"FAIL": 0' in done.stdout


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("../{episode_index:06d}.parquet", "leads out of the dataset"),
        ("/etc/{episode_index}", "leads out of the dataset"),
        ("data/{episode_index.__class__}", "unsupported placeholder"),
        ("data/{episode_index:999999999d}", "unsupported placeholder"),
        ("data/{nothing}", "unsupported placeholder"),
        ("data/{episode_index", "info.json"),
    ],
)
def test_templates_that_lead_elsewhere_are_refused(tmp_path, template, match):
    root = write_v21(tmp_path)
    edit(root / "meta" / "info.json", lambda info: info.update(data_path=template))
    with pytest.raises(SourceError, match=match):
        list(LeRobot(root).refs())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"features": 3}',
        '{"features": {}, "fps": 0, "data_path": "x"}',
        '{"features": {"a": 1}, "fps": 1, "data_path": "x"}',
        '{"features": {}, "fps": 1, "data_path": "x", "splits": ["train"]}',
    ],
)
def test_an_info_file_that_is_none_is_named(tmp_path, text):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(text)
    with pytest.raises(SourceError, match=r"info\.json"):
        list(LeRobot(tmp_path).refs())


@pytest.mark.parametrize("line", ["{", "[" * 100_000, "3", "{}"])
def test_a_damaged_list_of_episodes_is_named(tmp_path, line):
    root = write_v21(tmp_path)
    with (root / "meta" / "episodes.jsonl").open("a") as file:
        file.write(line + "\n")
    row = "its episode list has (an invalid row|a row without)"
    with pytest.raises(SourceError, match=rf"episodes\.jsonl, line|{row}"):
        list(LeRobot(root).refs())


def test_a_row_too_few_is_refused(tmp_path):
    root = write_v3(tmp_path)
    edit_rows(root, lambda rows: rows[1].update(length=99))
    with pytest.raises(SourceError, match="14 rows of episode 1, its metadata declare 99"):
        opened(root, 1).__enter__()


def test_a_video_that_ends_early_is_refused(tmp_path):
    root = write_v3(tmp_path)
    path = root / "videos" / TOP / "chunk-000" / "file-001.mp4"
    write_video(path, 15, SHAPE, FPS, 26)
    with opened(root, 3) as episode, pytest.raises(DecodeError, match=r"frame 5 of the episode"):
        list(episode.views[TOP])


def test_a_start_that_lies_between_frames_is_refused(tmp_path):
    root = write_v3(tmp_path)
    path = root / "videos" / TOP / "chunk-000" / "file-001.mp4"
    write_video(path, 21, SHAPE, 4, 26)
    with opened(root, 3) as episode, pytest.raises(DecodeError, match="has no frame at"):
        list(episode.views[TOP])


def test_a_start_behind_the_end_is_refused(tmp_path):
    root = write_v3(tmp_path)
    edit_rows(root, lambda rows: rows[3].update({f"videos/{TOP}/from_timestamp": 1000.0}))
    with opened(root, 3) as episode, pytest.raises(DecodeError, match=r"no frame at 1000\.000 s"):
        episode.views[TOP]


def test_a_damaged_table_is_one_failure(tmp_path):
    root = write_v21(tmp_path)
    (root / "data" / "chunk-000" / "episode_000002.parquet").write_bytes(b"PAR1" + bytes(50))
    with pytest.raises(DecodeError, match=r"episode_000002\.parquet: not a whole Parquet file"):
        opened(root, 2).__enter__()
    with opened(root, 1) as episode:
        assert episode.arrays


def test_columns_beyond_the_limit_are_refused(tmp_path):
    root = write_v21(tmp_path)
    with pytest.raises(SourceError, match=r"limits\.max_chunk_bytes"):
        opened(root, 0, limits=Limits(max_chunk_bytes=16)).__enter__()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([[1.0, 2.0], [3.0]], "do not make"),
        ([[1.0, 2.0], None], "missing"),
        ([[1.0, None], [1.0, 2.0]], "1 of its numbers are missing"),
        (["a", "b"], "not plain numbers"),
        ([{"x": 1}, {"x": 2}], "nor a list of numbers"),
    ],
)
def test_columns_that_are_no_arrays_are_refused(values, match):
    from builder.inputs.parquet import to_array

    with pytest.raises(SourceError, match=match):
        to_array(pa.chunked_array([pa.array(values)]), (2,), "x")


def test_row_groups_are_skipped_by_their_statistics(tmp_path):
    from builder.inputs.parquet import select_rows

    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table(0).schema) as writer:
        for index in range(4):
            writer.write_table(table(index))
    (tmp_path / "x.parquet").write_bytes(sink.getvalue())
    with select_rows(tmp_path / "x.parquet", "episode_index", 2, Limits()) as found:
        assert found.column("action").to_pylist() == table(2)["action"].to_pylist()
    with select_rows(tmp_path / "x.parquet", "episode_index", 9, Limits()) as found:
        assert len(found) == 0


def test_videos_without_a_place_are_refused(tmp_path):
    edit(write_v21(tmp_path) / "meta" / "info.json", lambda info: info.pop("video_path"))
    with pytest.raises(SourceError, match="there is no video_path"):
        list(LeRobot(tmp_path).refs())


def test_episodes_that_are_declared_but_not_listed_are_a_failure(tmp_path):
    edit(write_v21(tmp_path) / "meta" / "info.json", lambda info: info.update(total_episodes=9))
    source = LeRobot(tmp_path)
    *refs, lost = source.refs()
    assert len(refs) == len(LENGTHS)
    assert source.weight(lost) == 0
    with (
        pytest.raises(SourceError, match=r"info.json: total_episodes is 9, but 4 are listed"),
        source.open(lost),
    ):
        pass


def test_a_feature_with_words_for_info_is_read(tmp_path):
    path = write_v21(tmp_path) / "meta" / "info.json"
    edit(path, lambda info: info["features"][TOP].update(info="h264"))
    assert len(list(LeRobot(tmp_path).refs())) == len(LENGTHS)


def test_an_episode_that_is_listed_twice_is_refused(tmp_path):
    path = write_v21(tmp_path) / "meta" / "episodes.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[1])
    with pytest.raises(SourceError, match="two rows of episode 1"):
        list(LeRobot(tmp_path).refs())


def test_a_start_that_is_no_number_is_refused(tmp_path):
    write_v3(tmp_path)
    edit_rows(tmp_path, lambda rows: rows[1].update({f"videos/{TOP}/from_timestamp": float("nan")}))
    with pytest.raises(SourceError, match=f"from_timestamp of {TOP} is nan"):
        list(LeRobot(tmp_path).refs())


def test_a_column_of_numbers_that_holds_texts_is_refused(tmp_path):
    root = write_v21(tmp_path)
    path = root / "data" / "chunk-000" / "episode_000001.parquet"
    table = pq.read_table(path)
    at = table.column_names.index("episode_index")
    texts = pa.array(["1"] * len(table))
    pq.write_table(table.set_column(at, "episode_index", texts), path)
    with pytest.raises(DecodeError, match=r"episode_000001\.parquet"):
        opened(root, 1).__enter__()
