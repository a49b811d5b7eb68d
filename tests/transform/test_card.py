"""The dataset card, and a dataset's folder made ready for the Hugging Face hub."""

import re

import pytest
from golden_dataset import write_clip

from builder.cli import main
from builder.dataset.opening import open_dataset
from builder.transform.export import card
from builder.transform.export.card import dataset_card

pytest.importorskip("av")


def build(folder, licence):
    write_clip(folder / "videos" / "a b%.mp4", (96, 120), 18)
    argv = ["build", "--source", str(folder / "videos"), "--out", str(folder / "data"), "--quiet"]
    assert main([*argv, "--img-shape", "48", "100", f"source.licence={licence}"]) == 0
    return folder / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return build(tmp_path_factory.mktemp("card"), "CC-BY-4.0")


def test_the_folder_is_what_the_hub_takes(data, capsys):
    hub = pytest.importorskip("huggingface_hub")
    assert main(["export", str(data), str(data), "--to", "card"]) == 0
    printed = capsys.readouterr().out
    assert "to publish: hf upload" in printed
    assert "note:" not in printed
    read = hub.DatasetCard.load(data / "README.md")
    assert read.data.license == "cc-by-4.0"
    assert read.data.pretty_name == "data"
    assert read.data.size_categories == ["n<1K"]
    assert read.data.task_categories == ["robotics"]
    files = [path for path in data.rglob("*") if path.is_file()]
    assert len(files) >= 6
    for path in files:  # refused where the hub would refuse the name
        name = path.relative_to(data).as_posix()
        assert hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path).path_in_repo == name


def test_a_card_is_written_again_and_leaves_the_dataset_whole(data, capsys):
    for _ in range(2):
        assert main(["export", str(data), str(data), "--to", "card"]) == 0
    assert main(["validate", str(data)]) == 0
    argv = ["--source", str(data.parent / "videos"), "--out", str(data), "--quiet"]
    assert main(["build", *argv, "--img-shape", "48", "100", "source.licence=CC-BY-4.0"]) == 0


def test_a_readme_of_the_user_is_kept(tmp_path, capsys):
    data = build(tmp_path, "mit")
    (data / "README.md").write_text("mine")
    assert main(["export", str(data), str(data), "--to", "card"]) == 2
    assert (data / "README.md").read_text() == "mine"
    assert "README.md is not a card that letterset wrote; move it away" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ("CC BY 4.0", ["license: cc-by-4.0"]),
        ("apache-2.0", ["license: apache-2.0"]),
        ("Ego4D Agreement (2022)", ["license: other", "license_name: ego4d-agreement-2022"]),
        ("", ["license: other"]),
    ],
)
def test_a_licence_is_named_as_the_hub_names_it(given, lines):
    said = card._licence([given] if given else [])
    assert [f"{key}: {value}" for key, value in said.items()] == lines


def test_what_the_hub_does_not_take_is_said(data, monkeypatch):
    monkeypatch.setattr(card, "FILES_IN_A_FOLDER", 1)
    monkeypatch.setattr(card, "FILES_IN_ALL", 3)
    folder, whole = card.put_card(data, dataset_card(open_dataset(data)))
    assert re.search(r"has \d+ files, and the hub takes 1: letterset subset", folder)
    assert re.search(r"\d+ files, and the hub recommends 3: letterset subset", whole)
