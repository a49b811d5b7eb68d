"""Texts of episodes: what is said of each frame goes before what is cheaper to find."""

import json

import h5py
import numpy as np
import pytest
from source_fixtures import config_of, pictures, selected, write_video

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from lerobot_fixtures import LENGTHS, TASKS, write_v3, write_v21  # noqa: E402

from builder.core.errors import ConfigError, SourceError  # noqa: E402
from builder.sources.kinds.lerobot import LeRobot  # noqa: E402
from builder.sources.kinds.libero import Libero  # noqa: E402
from builder.sources.kinds.robomimic import Robomimic  # noqa: E402
from builder.sources.recognize import recognize  # noqa: E402
from schemas.config import StorePart  # noqa: E402

FIRST, SECOND = TASKS
COUNT = LENGTHS[0]


def edit_table(path, **columns):
    """Replace columns of the first episode of a table, or drop them."""
    table = pq.read_table(path)
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.remove_column(at)
        if values is not None:
            rest = [0] * (len(table) - len(values))
            table = table.append_column(name, pa.array([*values, *rest]))
    pq.write_table(table, path)


def list_tasks(root, tasks):
    path = root / "meta" / "episodes.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "tasks": tasks}) + "\n" for row in rows))


def data_of(root):
    return next(iter(sorted((root / "data").rglob("*.parquet"))))


def test_task_index_goes_before_the_list_of_the_episode(tmp_path):
    root = write_v21(tmp_path)
    list_tasks(root, [FIRST, "valid"])
    found = selected(LeRobot(root))
    assert (found.text, found.texts, found.task, found.notes) == (FIRST, (), FIRST, ())


@pytest.mark.parametrize("write", [write_v3, write_v21])
def test_several_tasks_stay_several(tmp_path, write):
    root = write(tmp_path)
    index = [1] * 5 + [0] * (COUNT - 5)
    edit_table(data_of(root), task_index=index)
    found = selected(LeRobot(root))
    assert (found.text, found.texts) == (None, (SECOND, FIRST))
    assert found.arrays["text_index"].tolist() == [0] * 5 + [1] * (COUNT - 5)
    later = selected(LeRobot(root), start_seconds=0.5)
    assert (later.text, later.texts, "text_index" in later.arrays) == (FIRST, (), False)
    assert selected(LeRobot(root), frame_step=4).arrays["text_index"].tolist() == [0, 0, 1]


def test_without_a_table_of_tasks_the_order_is_that_of_the_episode_list(tmp_path):
    root = write_v21(tmp_path)
    (root / "meta" / "tasks.jsonl").unlink()
    list_tasks(root, ["pick the squash", "valid"])
    found = selected(LeRobot(root))
    assert found.text == "pick the squash"
    assert "meta/tasks is not there" in found.notes[0]


@pytest.mark.parametrize("index", [None, [7] * COUNT])
def test_tasks_of_which_nobody_knows_the_frames_are_told(tmp_path, index):
    root = write_v21(tmp_path)
    edit_table(data_of(root), task_index=index)
    found = selected(LeRobot(root))
    assert found.text == FIRST
    assert ["no text of task_index 7" in note for note in found.notes] == [True] * bool(index)
    list_tasks(root, ["a", "b"])
    found = selected(LeRobot(root))
    assert found.text == "a; b"
    assert "which frames have which of 2 tasks is not known" in found.notes[0]


def test_several_texts_are_stored_sampled_and_exported_as_such(tmp_path):
    torch = pytest.importorskip("torch")
    from builder.build.pipeline import build
    from builder.dataset.opening import open_dataset
    from builder.training import WindowDataset
    from builder.transform.export.lerobot import export_lerobot

    root = write_v21(tmp_path / "in")
    edit_table(data_of(root), task_index=[1] * 5 + [0] * (COUNT - 5))
    config = config_of(root, tmp_path / "out", kind="lerobot", episodes=["0:2"])
    config = config.model_copy(update={"store": StorePart(path=str(tmp_path / "out"))})
    assert build(config).built == 2
    dataset = open_dataset(tmp_path / "out")
    several = dataset[dataset.ids[0]].meta
    assert (several.text, several.texts, several.task) == (
        None,
        (SECOND, FIRST),
        f"{SECOND}; {FIRST}",
    )
    samples = WindowDataset(dataset)
    texts = {samples[k]["t"]: samples[k]["text"] for k in range(4, 6)}
    assert texts == {4: SECOND, 5: FIRST}
    assert "text_index" not in samples[4]
    assert torch.is_tensor(samples[4]["traj"])
    left = export_lerobot(dataset, tmp_path / "lerobot")
    assert "text_index" not in left
    again = selected(LeRobot(tmp_path / "lerobot"))
    assert again.texts == (SECOND, FIRST)
    assert again.arrays["text_index"].tolist() == [0] * 5 + [1] * (COUNT - 5)


def write_demo(path, data=(), demo=()):
    with h5py.File(path, "w") as file:
        file["data/demo_0/obs/a_rgb"], file["data/demo_0/actions"] = pictures(4), np.zeros((4, 2))
        file["data"].attrs.update(dict(data))
        file["data/demo_0"].attrs.update(dict(demo))
    return path


@pytest.mark.parametrize(
    ("kind", "data", "demo", "text"),
    [
        (Robomimic, {}, {"ep_meta": json.dumps({"lang": "pick the apple"})}, "pick the apple"),
        (Robomimic, {}, {"ep_meta": "{"}, None),
        (Robomimic, {}, {"ep_meta": json.dumps({"lang": 3})}, None),
        (Libero, {"problem_info": json.dumps({"language_instruction": "go"})}, {}, "go"),
        (Libero, {"problem_info": json.dumps({"language_instruction": ['"g', 'o"']})}, {}, "go"),
        (Libero, {"problem_info": "?"}, {}, "open the box"),
        (Libero, {}, {"ep_meta": json.dumps({"lang": "pick the apple"})}, "pick the apple"),
    ],
)
def test_demonstrations_say_it_themselves(tmp_path, kind, data, demo, text):
    path = write_demo(tmp_path / "open_the_box_demo.hdf5", data, demo)
    assert selected(kind(path)).text == text


def test_datasets_below_a_folder_are_all_built(tmp_path):
    write_v3(tmp_path / "user" / "one")
    write_v21(tmp_path / "user" / "two")
    found = recognize(tmp_path)
    assert found.kind == "lerobot"
    assert found.why == "2 LeRobot datasets below it: user/one, user/two"
    refs = list(LeRobot(tmp_path).refs())
    assert [ref.path for ref in refs[::4]] == ["user/one/episode_000000", "user/two/episode_000000"]
    assert len(refs) == 2 * len(LENGTHS)
    assert [ref.group for ref in refs[::4]] == ["user/one", "user/two"]
    for ref in refs:
        with LeRobot(tmp_path).open(ref) as episode:
            assert len(episode.views) == 2
            assert all(path.startswith(ref.group) for path in episode.files)


def test_one_bad_dataset_among_others_is_one_failure(tmp_path):
    write_v21(tmp_path / "one")
    (tmp_path / "two" / "meta").mkdir(parents=True)
    (tmp_path / "two" / "meta" / "info.json").write_text("{}")
    *good, bad = LeRobot(tmp_path).refs()
    assert (len(good), bad.path) == (len(LENGTHS), "two/meta/info.json")
    with pytest.raises(SourceError, match=r"two/meta/info\.json"), LeRobot(tmp_path).open(bad):
        pass


def test_videos_beside_a_dataset_make_it_a_question(tmp_path):
    write_v21(tmp_path / "one")
    write_video(tmp_path / "more" / "a.mp4", 4)
    with pytest.raises(ConfigError, match=r"lerobot \(1 LeRobot dataset below it: one\); .*video"):
        recognize(tmp_path)
