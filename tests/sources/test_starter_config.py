"""Guessing what a folder holds, and the config written for it."""

import shlex

import pytest
import source_fixtures as fixtures
from source_examples import EXAMPLES

from builder.build.backends import check_backends
from builder.build.config_file import load_config
from builder.cli import main
from builder.core.errors import ConfigError, SourceError
from builder.sources.base import SOURCES
from builder.sources.starter_config import config_text, guess, write_config


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_example_is_recognized_and_its_config_works(kind, tmp_path):
    (tmp_path / "data with: spaces").mkdir()
    root = EXAMPLES[kind][0](tmp_path / "data with: spaces")
    found = guess(root)
    assert found.kind == kind
    assert found.episodes >= 2
    assert found.views
    assert not found.problems
    write_config(found, tmp_path / "build.yaml")
    config = load_config(tmp_path / "build.yaml")
    check_backends(config)
    assert config.source.path == str(root)
    backend, own = SOURCES.configure(config.source)
    assert len(list(backend(root, own, config.limits).refs())) == found.episodes


def test_the_config_says_what_was_seen(tmp_path):
    text = config_text(guess(fixtures.write_libero(tmp_path)))
    assert "# A guess: demonstrations of LIBERO (problem_info) in HDF5 files; 6 episodes." in text
    assert "# view agentview: 36 x 48 (H x W), 7 to 12 frames, 20 fps, turned by vflip" in text
    assert "actions (9, 7)" in text
    assert "# views: [agentview, eye_in_hand]" in text
    assert "# orientation: vflip" in text


def test_what_cannot_be_opened_is_said(tmp_path):
    fixtures.write_videos(tmp_path)
    (tmp_path / "a.mp4").write_text("no video")
    found = guess(tmp_path)
    assert found.views
    assert "a.mp4" in found.problems[0]
    assert "# cannot be opened: " in config_text(found)


def test_an_existing_config_is_kept(tmp_path):
    (tmp_path / "build.yaml").write_text("mine")
    found = guess(fixtures.write_videos(tmp_path / "v"))
    with pytest.raises(ConfigError, match="exists already"):
        write_config(found, tmp_path / "build.yaml")
    assert (tmp_path / "build.yaml").read_text() == "mine"


def test_a_folder_of_something_else_is_no_source(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match=r"1 file of kinds that no source reads: \.txt"):
        guess(tmp_path)


def test_a_config_in_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    fixtures.write_video(tmp_path / "in" / "a.mp4")
    assert main(["init", str(tmp_path / "in"), "--out", str(tmp_path / "no" / "a.yaml")]) == 2
    assert "a.yaml: No such file or directory" in capsys.readouterr().err


def test_the_next_commands_can_be_pasted(tmp_path, capsys):
    folder, out = tmp_path / "My Clips", tmp_path / "my config.yaml"
    fixtures.write_video(folder / "a b.mp4", count=3)
    assert main(["init", str(folder), "--out", str(out)]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:4] == ["next:", "letterset", "preview", f"{out},"]
    assert words[4:] == ["then", "letterset", "build", str(out)]
    assert f"letterset preview '{folder}'\n" in out.read_text()
