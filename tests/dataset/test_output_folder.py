"""What a dataset is not written to: URLs, files, and folders with other things in them."""

from __future__ import annotations

import os

import pytest
from source_fixtures import write_video

from builder.cli import main
from builder.core.errors import ConfigError
from builder.dataset.folder import DatasetWriter
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset, sample_meta

SMALL = ["--quiet", "--img-shape", "60", "100", "queries.grid=[3,4]", "tracker.horizon=4"]


@pytest.fixture
def dataset(tmp_path):
    sample_dataset(tmp_path / "in", Hdf5Store(tmp_path / "in"), [Sample("a", seed=1, length=5)])
    return tmp_path / "in"


@pytest.fixture
def videos(tmp_path):
    write_video(tmp_path / "videos" / "a.mp4", shape=(48, 90), count=6)
    return tmp_path / "videos"


def test_a_url_is_refused_by_verbs_that_write_folders(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    url = "s3://bucket/x"
    for argv in (
        ["convert", "in", url, "kind=zarr"],
        ["subset", "in", url, "--id", "a"],
    ):
        assert main(argv) == 2
        assert f"{url}: writing to object stores is not supported" in capsys.readouterr().err
    assert os.listdir() == ["in"]


def test_a_verb_for_local_datasets_says_so(capsys):
    assert main(["repair", "s3://bucket/x"]) == 2
    said = capsys.readouterr().err
    assert "s3://bucket/x: letterset repair takes local folders only: copy" in said
    assert "URLs are read by validate, inspect, doctor" in said


def test_a_folder_of_other_things_is_refused_and_left_alone(videos, capsys):
    assert main(["build", "--source", str(videos), "--out", str(videos), *SMALL]) == 2
    assert "videos is not empty and holds no dataset (there is a.mp4)" in capsys.readouterr().err
    assert os.listdir(videos) == ["a.mp4"]


def test_what_a_killed_run_or_a_disk_left_is_no_hindrance(tmp_path):
    for name in ("index", "tmp", "episodes.zarr", "lost+found", ".Trash"):
        (tmp_path / name).mkdir()
    DatasetWriter.create(tmp_path, sample_meta()).close()
    (tmp_path / "notes.txt").touch()  # in a dataset anything may lie
    DatasetWriter.create(tmp_path, sample_meta()).close()
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(ConfigError, match=r"there is notes\.txt"):
        DatasetWriter.create(tmp_path, sample_meta())


def test_a_file_is_no_folder(videos, capsys):
    out = str(videos / "a.mp4")
    assert main(["build", "--source", str(videos), "--out", out, *SMALL]) == 4
    assert "is a file, not a folder: choose another output folder" in capsys.readouterr().err
