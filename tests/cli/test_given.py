"""A folder, a file or a config, for every verb that looks at a source; and for datasets."""

from __future__ import annotations

import json
import shutil

import pytest
from source_fixtures import write_video

from builder.cli import main
from builder.cli.given import read_given
from builder.cli.main import parser
from builder.core.errors import ConfigError
from builder.dataset.opening import open_dataset
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset

OUT = {"store.path": None}
CONFIG = """\
img_shape: [48, 80]
source: {path: videos}
queries: {grid: [3, 4]}
tracker: {kind: none}
store: {path: dataset}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "videos" / "kitchen.mp4", shape=(48, 90), count=6)
    (tmp_path / "build.yaml").write_text(CONFIG)
    return tmp_path


def given(*words, options=None):
    return read_given(parser().parse_args(["build", *words]), options or OUT)


def test_words_are_a_source_a_config_an_output_and_settings(here):
    (here / "o=1").mkdir()
    for words in (
        ["videos", "dataset", "img_shape=[48,80]"],
        ["build.yaml"],
        ["videos", "build.yaml"],
        ["build.yaml", "dataset"],
        ["videos", "build.yaml", "dataset", "img_shape", "=", "[48,80]"],
        ["source.path = videos", "store.path=dataset", "img_shape=", "[48,80]"],
    ):
        config = given(*words)
        assert (config.source.path, config.store.path) == ("videos", "dataset"), words
        assert config.img_shape == (48, 80)
    found = given(
        "--source", "videos", "x", "img_shape=[8,9]", options={**OUT, "source.path": "videos"}
    )
    assert (found.source.path, found.store.path) == ("videos", "x")
    assert given("build.yaml", "o=1").store.path == "o=1"  # there is such a folder
    assert given("videos", "s3://b/x?v=1", "build.yaml").store.path == "s3://b/x?v=1"
    assert given("videos", "x", "build.yaml", "img_shape=[8,9]").img_shape == (8, 9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["videos", "a", "b"], "there is no place for 'b'"),
        (["nowhere"], "nowhere: there is no such file or folder"),
        (["nowhere.yaml"], "nowhere.yaml: there is no such file or folder"),
        (["build.yaml", "other.yml"], "other.yml: there is a config already, build.yaml"),
        ([], "SOURCE missing (or a config file); for example: letterset build videos"),
    ],
)
def test_words_that_cannot_be_followed(words, said):
    with pytest.raises(ConfigError) as caught:
        given(*words)
    assert said in str(caught.value)


@pytest.mark.parametrize("verb", ["preview", "inspect", "plan", "build --dry-run", "init --out c"])
@pytest.mark.parametrize("what", ["videos", "videos/kitchen.mp4", "build.yaml"])
def test_every_verb_that_looks_takes_each(verb, what, capsys):
    name, *more = verb.split()
    assert main([name, what, *more]) == 0
    assert "\nnext: " in capsys.readouterr().out


def test_build_takes_a_folder_and_an_output(capsys):
    settings = ["queries.grid=[3,4]", "tracker.kind=none"]
    assert main(["build", "videos", "out", "--img-shape", "48", "80", *settings]) == 0
    assert "next: letterset validate out, letterset doctor out" in capsys.readouterr().out
    assert open_dataset("out").meta.img_shape == (48, 80)
    assert main(["build", "videos"]) == 2
    said = capsys.readouterr().err
    assert "OUT, --img-shape H W missing (or a config file); for example: letterset build v" in said
    assert main(["build", "build.yaml", "--quiet"]) == 0
    assert "next:" not in capsys.readouterr().out
    for verb in ("status", "validate", "inspect"):
        assert main([verb, "dataset"]) == main([verb, "build.yaml"]) == 0, verb


def test_a_good_page_outlives_a_failure(here, capsys):
    assert main(["preview", "videos"]) == 0
    before = (here / "preview.html").read_bytes()
    assert b"kitchen.mp4" in before
    (here / "broken").mkdir()
    (here / "broken" / "a.mp4").write_text("no video")
    assert main(["preview", "broken"]) == 3
    said = capsys.readouterr().err
    assert "broken: nothing could be shown, so preview.html was not written\nFAILED a.mp4" in said
    assert (here / "preview.html").read_bytes() == before


def test_init_tells_all_shapes_and_rates(here, capsys):
    shutil.copy(here / "videos" / "kitchen.mp4", here / "videos" / "again.mp4")
    write_video(here / "videos" / "tall.mp4", shape=(90, 48), count=9, fps=15)
    (here / "videos" / "broken.mp4").write_text("no video")
    assert main(["init", "videos", "--img-shape", "64", "96", "store.path=my data"]) == 0
    text, told = (here / "letterset.yaml").read_text(), capsys.readouterr().out
    for line in (text, told):
        assert "view main: 2 of 48 x 90, 1 of 90 x 48 (H x W), 6 to 9 frames, " in line
        assert "broken.mp4" in line
    assert "next: letterset preview letterset.yaml, then letterset build letterset.yaml" in told
    assert "img_shape: [64, 96] " in text
    assert 'path: "my data"' in text
    assert main(["init", "videos", "--out", "x.yaml", "tracker.horizon=3"]) == 2
    assert "init writes img_shape, source.kind, source.path, store.path" in capsys.readouterr().err
    assert not (here / "x.yaml").exists()


@pytest.fixture
def dataset(here):
    store = Hdf5Store(here / "data")
    sample_dataset(here / "data", store, [Sample(key, length=5) for key in ("a-1", "a-2", "b")])
    return open_dataset(here / "data")


def test_an_episode_is_found_by_its_beginning_and_its_path(dataset, here, capsys):
    assert [dataset.find(word) for word in ("a-1", "b")] == ["a-1", "b"]
    with pytest.raises(ConfigError, match=r"no episode 'a' in .*data; 2 begin with it: a-1, a-2"):
        dataset.find("a")
    with pytest.raises(ConfigError, match=r"no episode 'c' in .*; it has 3, the first is a-1"):
        dataset.find("c")
    assert main(["build", "build.yaml", "--quiet"]) == 0
    built = open_dataset(here / "dataset")
    for word in ("kitchen", "kitchen.mp4", "videos/kitchen.mp4", str(here / "videos/kitchen.mp4")):
        assert built.find(word) == built.ids[0]
    argv = ["decode", "points.json", "--geometry", "data", "--view", "front"]
    argv += ["--order", "xy", "--space", "norm"]
    (here / "points.json").write_text("[[0, 0]]")
    assert main([*argv, "--episode", "b"]) == 0
    assert main([*argv, "--episode", "a"]) == 2


def test_paths_tell_ids_apart_that_look_alike(here, capsys):
    for name in ("a b.mp4", "a_b.mp4"):
        shutil.copy(here / "videos" / "kitchen.mp4", here / "videos" / name)
    assert main(["build", "build.yaml", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["inspect", "dataset"]) == 0
    assert " a b.mp4 " in capsys.readouterr().out
    assert main(["inspect", "dataset", "--json", "--limit", "1"]) == 0
    assert "path" not in json.loads(capsys.readouterr().out)["views"][0]
