"""A dataset of letterset is no source and no older data: it is told by its metadata."""

import shutil

import pytest
import source_fixtures as fixtures

from builder.cli import main
from builder.core.own_files import is_own, own_files
from builder.stores.base import STORES
from builder.testing.samples import Sample, sample_dataset


@pytest.fixture(params=["hdf5", "zarr"])
def dataset(request, tmp_path):
    if request.param == "zarr":
        pytest.importorskip("zarr")
    folder = tmp_path / "dataset"
    sample_dataset(folder, STORES.load(request.param)(folder), [Sample("a/one"), Sample("two")])
    return folder


def episodes(dataset):
    return next(path for path in dataset.iterdir() if path.name.startswith("episodes"))


def test_a_dataset_and_its_parts_are_told_from_anything_else(dataset):
    assert own_files(dataset).startswith("a letterset dataset: ")
    inside = episodes(dataset)
    for part in (inside, inside / "a", *inside.rglob("two*")):
        assert f"part of the letterset dataset {dataset}; give that" in own_files(part)
    assert own_files(dataset.parent) is None
    assert own_files(dataset / "index") is None
    for other in ("{}", "[1]", "no json", "[" * 100_000, None, 3, '{"format_version": 1}'):
        assert not is_own(other)


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize(
    "verb",
    [
        ["build", "--out", "OUT", "--img-shape", "24", "40", "--source"],
        ["init", "--out", "OUT"],
        ["preview", "--out", "OUT.html"],
        ["migrate"],
    ],
)
def test_verbs_for_the_data_of_others_name_the_right_verb(dataset, capsys, tmp_path, verb, part):
    given = episodes(dataset) if part else dataset
    argv = [word.replace("OUT", str(tmp_path / "out")) for word in verb]
    tail = [str(tmp_path / "out"), "--img-shape", "24", "40"] if verb == ["migrate"] else []
    assert main([*argv, str(given), *tail]) in (2, 3)
    said = capsys.readouterr().err
    assert "letterset dataset" in said
    assert "`convert`" in said
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_an_episode_that_was_moved_away_is_still_told(tmp_path, capsys):
    folder = tmp_path / "dataset"
    sample_dataset(folder, STORES.load("hdf5")(folder), [Sample("one")])
    (episode,) = (folder / "episodes").iterdir()
    (tmp_path / "copies").mkdir()
    shutil.copy(episode, tmp_path / "copies" / "x.hdf5")
    assert main(["init", str(tmp_path / "copies"), "--out", str(tmp_path / "c.yaml")]) == 3
    assert "not a source but an episode of a letterset dataset" in capsys.readouterr().err
    argv = ["migrate", str(tmp_path / "copies"), str(tmp_path / "out"), "--img-shape", "24", "40"]
    assert main(argv) == 3
    assert "x.hdf5: not an older file but an episode" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_zarr_episode_that_was_moved_away_is_still_told(tmp_path):
    pytest.importorskip("zarr")
    folder = tmp_path / "dataset"
    sample_dataset(folder, STORES.load("zarr")(folder), [Sample("one")])
    (episode,) = episodes(folder).iterdir()
    shutil.copytree(episode, tmp_path / "x.zarr")
    assert own_files(tmp_path / "x.zarr").startswith("an episode of a letterset dataset")


def test_a_dataset_among_the_videos_it_was_built_from_does_not_hinder(tmp_path, dataset):
    fixtures.write_video(tmp_path / "a.mp4")
    argv = ["build", "--source", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*argv, "--img-shape", "24", "40"]) == 0
