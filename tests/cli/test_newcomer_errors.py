"""What the command says when a newcomer goes wrong: what it is, and what to do."""

from __future__ import annotations

import pytest
from source_fixtures import write_video

from builder.build import estimate
from builder.build.config_file import load_config
from builder.build.pipeline import build
from builder.cli import main
from builder.core.errors import ConfigError, DatasetError, OutputError
from builder.core.messages import count
from builder.dataset.filters import Expression
from builder.dataset.folder import read_index
from builder.dataset.layers import LayerWriter
from builder.dataset.opening import open_dataset
from builder.dataset.splits import read_splits
from builder.dataset.validate import validate
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset
from builder.transform.repair import repair

SHAPE = ["--img-shape", "60", "100"]
SMALL = ["--quiet", *SHAPE, "queries.grid=[3,4]"]


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "in"
    sample_dataset(folder, Hdf5Store(folder), [Sample(key, length=5) for key in ("a", "b")])
    return folder


@pytest.fixture
def videos(tmp_path):
    write_video(tmp_path / "videos" / "a.mp4", shape=(48, 90), count=6)
    return tmp_path / "videos"


def said(capsys, *argv):
    code = main([*map(str, argv)])
    found = capsys.readouterr()
    return code, found.out + found.err


def test_counts_are_plural_but_for_one():
    assert [count(n, "episode") for n in range(3)] == ["0 episodes", "1 episode", "2 episodes"]


def test_text_is_not_told_to_be_encoded_again(videos, tmp_path, capsys):
    (videos / "notes.mp4").write_text("take 3 was the best\n" * 40)
    (videos / "noise.mp4").write_bytes(b"\0\x01\x80" * 400)
    code, text = said(capsys, "build", "--source", videos, "--out", tmp_path / "out", *SMALL)
    assert code == 1
    failed = {line.split()[1]: line for line in text.splitlines() if line.startswith("FAILED")}
    assert failed["notes.mp4"].endswith("it is text, not video")
    assert "re-encode it" in failed["noise.mp4"]


def test_what_is_missing_is_named(videos, tmp_path, capsys):
    given = ["--source", videos, "--out", tmp_path / "out"]
    for more in ([], ["queries.grid=[3,4]"]):
        code, text = said(capsys, "build", *given, *more)
        assert code == 2
        assert text.startswith("letterset build: --img-shape H W missing (or a config file); for")
        assert len(text.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_small_amounts_are_not_0_gigabytes(videos, tmp_path, monkeypatch):
    data = {"source.path": str(videos), "store.path": str(tmp_path / "out"), "img_shape": [60, 100]}
    config = load_config(None, ["source.kind=video"], data)
    monkeypatch.setattr(estimate, "free_bytes", lambda path: 1500)
    with pytest.raises(OutputError, match=r"about \d+\.\d kB are needed for 1 episode, 1\.5 kB"):
        estimate.refuse_if_full(config)


@pytest.mark.parametrize(
    ("shape", "noted"), [(["100", "60"], True), (["60", "100"], False), (["60", "60"], False)]
)
def test_an_img_shape_of_the_other_orientation_is_noted(videos, tmp_path, capsys, shape, noted):
    argv = ["build", "--source", videos, "--out", tmp_path / "out", "--img-shape", *shape]
    words = "img_shape 100 60 (H W) is upright, and all videos that were looked at are wide: was 60"
    for more in (["--dry-run"], ["tracker.kind=none"]):
        assert (words in said(capsys, *argv, *more)[1]) == noted


def test_a_horizon_longer_than_all_videos_is_noted(videos, tmp_path, capsys):
    argv = ["build", "--source", videos, "--out", tmp_path / "out", *SMALL[1:]]
    assert "no episode has 16 frames, the longest has 6" in said(capsys, *argv)[1]
    argv[4] = tmp_path / "other"
    assert "no episode has" not in said(capsys, *argv, "tracker.horizon=6")[1]


def test_a_damaged_episode_leads_to_repair(dataset, capsys):
    Hdf5Store(dataset).path("a").write_bytes(b"no episode")
    for verb in ("inspect", "stats"):
        code, text = said(capsys, verb, dataset)
        assert code == 1
        assert f"run letterset repair {dataset}, then build again" in text


def test_a_lost_dataset_json_has_a_way_forward(dataset, tmp_path, capsys):
    way = "restore it from a copy, or build again into a new folder"
    (dataset / "dataset.json").write_text("{")
    assert way in said(capsys, "status", dataset)[1]
    (dataset / "dataset.json").unlink()
    assert way in said(capsys, "status", dataset)[1]
    assert way not in said(capsys, "status", tmp_path)[1]


def test_a_layer_of_an_episode_that_is_gone_says_what_to_do(dataset):
    with LayerWriter(dataset, "lk8") as layer:
        for episode in open_dataset(dataset):
            layer.write(episode.meta, {None: {"flag": episode.meta.length}})
    Hdf5Store(dataset).path("a").write_bytes(b"no episode")
    repair(dataset)
    (problem,) = [each for each in validate(dataset) if not each.note]
    part = dataset / "layers" / "lk8" / "a.hdf5"
    assert problem.message.endswith(f"build it again, or delete this part of the layer, {part}")
    part.unlink()
    assert all(each.note for each in validate(dataset))
    assert [*read_index(dataset)] == ["b"]


def test_filters_are_quoted_with_a_colon():
    with pytest.raises(ConfigError, match="the filter 'foo > 1': 'foo' is unknown"):
        Expression("foo > 1", ["motion"])


def test_a_preview_of_nothing_is_refused(videos, tmp_path, capsys):
    code, text = said(capsys, "preview", videos, "--count", "0", "--out", tmp_path / "p.html")
    assert (code, "--count takes a number above 0" in text) == (2, True)
    assert not (tmp_path / "p.html").exists()


def test_a_misspelled_file_or_folder_is_guessed(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, text = said(capsys, "inspect", "vidoes")
    assert (
        code,
        text.count("vidoes: there is no such file or folder (did you mean 'videos'?)"),
    ) == (
        2,
        1,
    )
    code, text = said(capsys, "build", "videos/b.mp4", "out", *SMALL)
    assert (code, "(did you mean 'a.mp4'?)" in text) == (2, True)
    code, text = said(capsys, "inspect", "nowhere/at/all")
    assert (code, text.endswith("there is no such file or folder\n")) == (2, True)


@pytest.mark.parametrize(
    "verb",
    [
        "split SET --shares train=0.9 val=0.1",
        "stats SET",
        "subset SET few --where length>3",
        "export SET one.json --to inference",
        "render SET sheet.png --to contact-sheet",
    ],
)
def test_an_empty_dataset_says_where_the_reason_stands(tmp_path, capsys, verb):
    sample_dataset(tmp_path / "set", Hdf5Store(tmp_path / "set"), [])
    words = verb.replace("SET", str(tmp_path / "set")).split()
    code, text = said(capsys, *words)
    assert code in (1, 2)
    assert f"set has no episodes: letterset status {tmp_path / 'set'} shows" in text
    assert "next:" not in text


@pytest.mark.parametrize("verb", ["inspect", "preview --out preview.html"])
def test_a_look_at_some_broken_videos_says_what_to_do_next(
    videos, tmp_path, monkeypatch, capsys, verb
):
    monkeypatch.chdir(tmp_path)
    (videos / "broken.mp4").touch()
    name, *more = verb.split()
    code, text = said(capsys, name, "videos", *more)
    assert code == 1
    assert "FAILED broken.mp4" in text
    assert "\nnext: letterset " in text


def test_a_plan_names_what_is_unreadable_once(videos, tmp_path, capsys):
    (videos / "broken.mp4").touch()
    _, text = said(capsys, "plan", videos, tmp_path / "out", *SMALL[1:], "tracker.kind=none")
    [line] = [line for line in text.splitlines() if line.startswith("unreadable")]
    assert line == "unreadable broken.mp4: the file is empty"
    assert " s " in text.split("time of one worker")[1]  # not thousandths of hours


def test_statistics_say_what_their_columns_are(dataset, capsys):
    code, text = said(capsys, "stats", dataset)
    assert code == 0
    assert "mean step of visible points, px" in text


def test_what_a_filter_left_nothing_of_names_an_id(dataset, tmp_path, capsys):
    code, text = said(capsys, "subset", dataset, tmp_path / "few", "--id", "A")
    assert code == 2
    assert "none of 2 episodes is chosen. letterset inspect lists their ids, such as a;" in text


def test_what_the_verbs_call_takes_paths_as_text_and_names_what_is_wrong(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"nope\.yaml: there is no such file or folder"):
        load_config(str(tmp_path / "nope.yaml"))
    with pytest.raises(
        ConfigError, match=r"a BuildConfig, such as load_config\(PATH\) .* 'videos'"
    ):
        build("videos")
    with pytest.raises(DatasetError, match="has no splits called 'default'"):
        read_splits(str(dataset), "default")
    with pytest.raises(ConfigError, match=r"write it like motion > 1 and vis >= 0\.5"):
        Expression("motion = 1", ("motion",))
