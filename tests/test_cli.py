"""What the command says and returns when things are not as they should be."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from source_fixtures import write_video

from builder.cli import main
from builder.cli.main import VERBS, parser

SHAPE = ["--img-shape", "60", "100"]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "good.mp4", shape=(48, 90), count=6)
    return folder


def build(source, out, *more):
    return main(["build", "--source", str(source), "--out", str(out), "--quiet", *SHAPE, *more])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"letterset {verb}" in text.split("example:")[1]


def test_no_arguments_teach(capsys):
    assert main([]) == 0
    assert "letterset build" in capsys.readouterr().out


def test_examples_in_help_parse(monkeypatch):
    for verb in VERBS:
        module = __import__(f"builder.cli.{verb}", fromlist=["EXAMPLE"])
        for line in module.EXAMPLE.replace("\\\n", " ").splitlines():
            words = line.split(">")[0].split("|")[-1].split()
            if words:
                assert words[0] == "letterset"
                assert parser().parse_args(words[1:]).verb == verb


@pytest.mark.parametrize("argv", [["bild"], ["build", "--nope"], ["validate"]])
def test_bad_usage_is_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "hint"), [("biuld", "did you mean build?"), ("xyz", "'xyz'\n")])
def test_a_misspelled_verb_is_guessed(verb, hint, capsys):
    with pytest.raises(SystemExit):
        main([verb])
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "words"),
    [(("0", "5"), "got 0"), (("-4", "5"), "-4"), (("2.5", "5"), "2.5"), (("big", "5"), "big")],
)
def test_bad_img_shape_is_2(videos, tmp_path, capsys, shape, words):
    argv = ["build", "--source", str(videos), "--out", str(tmp_path / "out"), "--img-shape", *shape]
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_said_is_2(capsys):
    assert main(["build"]) == 2
    assert "--img-shape" in capsys.readouterr().err


def test_a_missing_and_an_empty_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        assert build(tmp_path / name, tmp_path / "out") == 3
        assert name in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_broken_video_costs_itself_alone(videos, tmp_path, capsys):
    (videos / "broken.mp4").write_bytes(b"this is no video")
    assert build(videos, tmp_path / "out") == 1
    text = capsys.readouterr().out
    assert "FAILED broken.mp4" in text
    assert "1 episodes built" in text
    assert main(["validate", str(tmp_path / "out")]) == 0
    # Listed again the next time, and tried again when asked.
    assert build(videos, tmp_path / "out") == 1
    assert "FAILED broken.mp4" in capsys.readouterr().out
    shutil.copy(videos / "good.mp4", videos / "broken.mp4")
    assert build(videos, tmp_path / "out", "--retry-failed") == 0
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0


def test_only_broken_videos_is_3(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"\0" * 100)
    assert build(tmp_path / "videos", tmp_path / "out") == 3
    assert "broken.mp4" in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_4(videos, tmp_path, capsys):
    (tmp_path / "out").write_text("a file where the folder should be")
    assert build(videos, tmp_path / "out") == 4
    assert "out" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "a file where the folder should be"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_4(videos, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    assert build(videos, tmp_path / "locked" / "out") == 4


def test_a_dry_run_writes_nothing(videos, tmp_path, capsys):
    assert build(videos, tmp_path / "out", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["episodes"] == 1
    assert plan["frames"] == 6
    assert plan["bytes_by_codec"]["raw"] > plan["bytes_by_codec"]["jpeg"] > 0
    assert plan["free_bytes"] > 0
    assert not (tmp_path / "out").exists()


def test_inspect_a_source(videos, capsys):
    (videos / "broken.mp4").write_bytes(b"no")
    assert main(["inspect", str(videos), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == 2
    assert found["views"][0]["source"] == "48 x 90"
    assert found["failures"][0]["path"] == "broken.mp4"


def test_schema_prints_json_schema(capsys):
    assert main(["schema", "EpisodeMeta"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "EpisodeMeta"
    assert main(["schema", "EpisodMeta"]) == 2
    assert "did you mean 'EpisodeMeta'" in capsys.readouterr().err


def test_preview_draws_a_page(videos, tmp_path):
    page = tmp_path / "preview.html"
    assert main(["preview", str(videos), "--out", str(page), "--img-shape", "60", "100"]) == 0
    assert "good.mp4" in page.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preview.html", "videos"]


def test_init_writes_a_config_that_builds(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(videos), "--out", "build.yaml"]) == 0
    assert "48 x 90" in capsys.readouterr().out
    assert main(["init", str(videos), "--out", "build.yaml"]) == 2  # never overwritten
    assert main(["build", "build.yaml", "img_shape=[60, 100]", "--quiet"]) == 0
    assert main(["validate", "dataset"]) == 0


def test_split_by_hash_is_read_back(videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert build(videos, out) == 0
    assert main(["split", str(out), "--shares", "train=1"]) == 0
    assert "train 1" in capsys.readouterr().out
    assert main(["split", str(out), "--shares", "train=much"]) == 2
    assert "train=0.9" in capsys.readouterr().err


def test_chosen_episodes_alone_are_built(videos, tmp_path, capsys):
    shutil.copy(videos / "good.mp4", videos / "other.mp4")
    assert build(videos, tmp_path / "out", "--json", "--episodes", "other.mp4") == 0
    assert json.loads(capsys.readouterr().out)["built"] == 1
